"""The `latentpipe` command: every verb of `pipeline.cli`, and `run`, which is the flow `full` on Prefect.

Without a Prefect server configured, an ephemeral one lives as long as the run.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from pipeline.cli import Answer
from pipeline.cli import main as cli

if TYPE_CHECKING:
    from pipeline.config import RunConfig

EMBEDDED: Final = {
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def main() -> NoReturn:
    """Entry point of the command."""
    cli(run=_run)


def _run(config: RunConfig, arguments: argparse.Namespace) -> Answer:
    began = time.monotonic()
    os.environ.update({name: os.environ.get(name, value) for name, value in EMBEDDED.items()})
    from flows.full import full

    _log_to(config.root / "logs" / "prefect.log")
    answer = full(config)
    return answer, []


def _log_to(path: Path) -> None:
    """Prefect's console lines, to a file: the console is for progress and the summary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        logger.handlers = [it if not isinstance(it, logging.StreamHandler) else handler for it in logger.handlers]


if __name__ == "__main__":
    main()
