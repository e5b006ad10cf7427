"""Asked again when it may help, with waits that grow by chance, and not for ever."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError, ReadTimeoutError

from pipeline.errors import InfrastructureError
from pipeline.stores.patience import Patience


def refusal(status: int, code: str = "Code") -> ClientError:
    """As S3 says it."""
    return ClientError({"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Put")


class Hours:
    """Time that passes only by waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits: list[float] = []
        monkeypatch.setattr("time.sleep", self.waits.append)
        monkeypatch.setattr("time.monotonic", lambda: sum(self.waits))


def asking(errors: list[Exception]) -> Any:
    """Fails so often, then answers."""

    def ask() -> str:
        if errors:
            raise errors.pop(0)
        return "answer"

    return ask


PASSING = [
    refusal(500),
    refusal(503, "SlowDown"),
    refusal(429),
    refusal(400, "RequestTimeout"),
    refusal(409, "ConditionalRequestConflict"),
    ConnectTimeoutError(endpoint_url="u"),
    ReadTimeoutError(endpoint_url="u"),
]


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_what_passes_is_waited_for(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes at last."""
    hours = Hours(monkeypatch)
    assert Patience().repeated(asking([error] * 3), where="w") == "answer"
    assert len(hours.waits) == 3


@pytest.mark.parametrize("error", [refusal(403), refusal(404), refusal(400), NoCredentialsError()], ids=str)
def test_what_does_not_pass_is_told_at_once(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """By our name, with the place and the cure."""
    hours = Hours(monkeypatch)
    with pytest.raises(InfrastructureError, match=r"w: the store does not answer: .*\n  cure: check AWS_ENDPOINT_URL"):
        Patience().repeated(asking([error]), where="w")
    assert hours.waits == []


def test_what_the_caller_understands_is_the_callers() -> None:
    """Such as 412."""
    with pytest.raises(ClientError):
        Patience().repeated(asking([refusal(412)]), where="w", understood=412)


def test_waits_double_are_drawn_and_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each between 0 and a bound that doubles up to the longest; together no more than the total."""
    hours = Hours(monkeypatch)
    patience = Patience(total_s=60, first_s=0.5, longest_s=4)
    with pytest.raises(InfrastructureError):
        patience.repeated(asking([refusal(503)] * 10_000), where="w")
    bounds = [min(0.5 * 2**number, 4) for number in range(len(hours.waits))]
    assert all(0 <= wait <= bound for wait, bound in zip(hours.waits, bounds, strict=True))
    assert len({*hours.waits}) == len(hours.waits) > 10
    assert 56 < sum(hours.waits) <= 60
