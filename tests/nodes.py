"""Nodes of a real Ray cluster, all on this machine: a head and others, as `ray start` makes them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def node(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`ray start --block` with one CPU, killed with all its children at the end."""
    command = [RAY, "start", "--block", "--num-cpus=1", "--disable-usage-stats", *arguments]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def head(log: Path) -> Iterator[str]:
    """A cluster's first node; its address."""
    with node(log, "--head", f"--port={free_port()}", "--include-dashboard=false"):
        yield said(log, r"--address='([\d.:]+)'")


@contextmanager
def second(log: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another node of the cluster, up and running."""
    with node(log, f"--address={address}") as process:
        said(log, r"(Ray runtime started)")
        yield process


def said(log: Path, pattern: str, *, timeout_s: float = 60) -> str:
    """The first match of the pattern in the log, once it is there."""
    deadline = time.monotonic() + timeout_s
    while (match := re.search(pattern, log.read_text())) is None:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    return match[1]
