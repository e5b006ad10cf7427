"""Ask a store again when it is busy or the line breaks: waits that double, drawn at random, and an end to them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, final

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as ConnectionBroken

from pipeline.errors import InfrastructureError
from pipeline.stores.remote import ANSWER

T = TypeVar("T")
BUSY = ("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "ConditionalRequestConflict")
"""Refusals to repeat a request after; the last, 409, says that another put of the key is under way."""


@final
@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a request is repeated, seconds."""

    total_s: float = 60.0
    """No further try begins after it."""
    first_s: float = 0.05
    """The longest first wait; each next one may be twice as long (full jitter)."""
    longest_s: float = 8.0
    connect_s: float = 5.0
    """For a connection."""
    answer_s: float = 30.0
    """Of silence on one."""

    def repeated(self, ask: Callable[[], T], *, where: str, understood: int = 0) -> T:
        """The answer. Raises InfrastructureError when the time is over, or for a refusal that will not change; what
        the caller understands, an HTTP status, passes through as botocore's ClientError.
        """
        began, longest = time.monotonic(), self.first_s
        while True:
            try:
                return ask()
            except (BotoCoreError, ClientError) as error:
                if isinstance(error, ClientError) and status(error) == understood:
                    raise
                wait = random.uniform(0, longest)  # noqa: S311 - nothing to guess
                if not passing(error) or time.monotonic() - began + wait > self.total_s:
                    raise InfrastructureError(f"the store does not answer: {_reason(error)}", where, ANSWER) from error
            time.sleep(wait)
            longest = min(2 * longest, self.longest_s)


def passing(error: BotoCoreError | ClientError) -> bool:
    """Whether the same request may be answered soon."""
    if isinstance(error, ClientError):
        return status(error) >= 500 or status(error) == 429 or error.response["Error"]["Code"] in BUSY
    return isinstance(error, ConnectionBroken | HTTPClientError | IncompleteReadError)


def _reason(error: BotoCoreError | ClientError) -> str:
    if not isinstance(error, ClientError):
        return str(error)
    return f"{error.operation_name}: {error.response['Error']['Code']}, {error.response['Error'].get('Message', '')}"


def status(error: ClientError) -> int:
    """Of the HTTP answer."""
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
