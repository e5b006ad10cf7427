"""The `latentpipe` command: every verb of `pipeline.cli`, and `run`, which is the flow `full` on Prefect.

Without a Prefect server configured, an ephemeral one lives as long as the run.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING, Final, NoReturn

from pipeline.cli import Answer
from pipeline.cli import main as cli
from pipeline.errors import InfrastructureError

if TYPE_CHECKING:
    from pipeline.config import RunConfig

EMBEDDED: Final = {
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # its log is in the UI; the console is for progress
}


def main() -> NoReturn:
    """Entry point of the command."""
    cli(run=_run)


def _run(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    began = time.monotonic()
    os.environ.update({name: os.environ.get(name, value) for name, value in EMBEDDED.items()})
    from flows.full import full

    _knock()
    imports = time.monotonic() - began
    summary = full(config)
    prefect = time.monotonic() - began - imports - sum(summary.seconds.values())
    summary.seconds.update(imports=round(imports, 1), prefect=round(prefect, 1))
    return summary.to_dict(), summary.lines(config, run=arguments.file)


def _knock() -> None:
    """Raise InfrastructureError if a Prefect server is configured and does not answer."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    if (url := PREFECT_API_URL.value()) is None:
        return
    with get_client(sync_client=True) as client:
        reason = client.api_healthcheck()
    if reason is not None:
        raise InfrastructureError(f"Prefect does not answer: {reason}", url, "start it, or unset PREFECT_API_URL")


if __name__ == "__main__":
    main()
