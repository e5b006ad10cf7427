"""What a fault case is, what it finds, and the independent reader that says what lies in a store."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pyarrow import fs
from servers import s3_server

HERE = Path(__file__).parent
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing-secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Found:
    """What came of a case, or of several that are one scenario at different moments."""

    lost: int = 0
    """Rows or commits that were acknowledged and are not there."""
    duplicated: int = 0
    torn: int = 0
    """Snapshots that were seen incomplete, or with other bytes than they state."""
    failed: str = ""
    """What else is wrong; empty: nothing."""
    cases: int = 1

    def __add__(self, other: Found) -> Found:
        failed = self.failed or other.failed
        return Found(
            self.lost + other.lost,
            self.duplicated + other.duplicated,
            self.torn + other.torn,
            failed,
            self.cases + other.cases,
        )


@dataclass(frozen=True)
class Case:
    """A fault of a row of the matrix; `run` gets an empty folder."""

    row: int
    name: str
    run: Callable[[Path], Found]


def total(found: Iterable[Found]) -> Found:
    """All of them together."""
    return sum(found, Found(cases=0))


class Reader:
    """`reader.py` in a process of its own, which knows nothing of ours and answers one question after another."""

    def __init__(self) -> None:
        command = [sys.executable, str(HERE / "reader.py"), "--serve"]
        environment = {**os.environ, "PYTHONPATH": ""}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self, root: Any) -> dict[str, Any]:
        """What lies there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(root, file=self.process.stdin, flush=True)
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def reader() -> Reader:
    """One for the process and what it knows of a store."""
    return _reader(os.environ.get("AWS_ENDPOINT_URL", ""))


@cache
def _reader(endpoint: str) -> Reader:
    found = Reader()
    atexit.register(found.close)
    return found


def s3_port() -> int:
    """Of one S3-compatible server for the process, with a bucket `faults`; the environment now leads to it."""
    port = _s3_port()
    os.environ.update({**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
    return port


@cache
def _s3_port() -> int:
    stack = ExitStack()
    port = stack.enter_context(s3_server())
    atexit.register(stack.close)
    address = {"endpoint_override": f"127.0.0.1:{port}", "scheme": "http", "access_key": "a", "secret_key": "b"}
    fs.S3FileSystem(**address, allow_bucket_creation=True).create_dir("faults")
    return port
