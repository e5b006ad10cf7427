"""One live line per stage on a terminal, a plain line every few seconds without one. Writes to stderr only."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

PLAIN_EVERY_S = 10.0


class Stage:
    """A stage of the run: `update` says how far it is; leaving it says how long it took."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started = time.monotonic()
        self._live = sys.stderr.isatty()
        self._said = self.started
        self._last = ""

    def __enter__(self) -> Self:
        self._write("...")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = "stopped" if error else "done"
        self._write(f"{end} in {self.elapsed_s:.1f} s{self._last and ' | '}{self._last}", final=True)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self.started

    def update(self, text: str) -> None:
        """Say how far it is, in a few words."""
        self._last = text
        now = time.monotonic()
        if self._live or now - self._said >= PLAIN_EVERY_S:
            self._said = now
            self._write(text)

    def say(self, text: str) -> None:
        """Say something worth a line of its own."""
        self._write(text, final=True)

    def count(self, done: int, total: int, unit: str = "rows") -> None:
        """Say how far it is: so many of so many, how fast, how long yet."""
        rate = done / max(self.elapsed_s, 1e-3)
        left = f", {max(total - done, 0) / rate:.0f} s left" if total and done else ""
        of = f"/{total:,}" if total else ""
        self.update(f"{done:,}{of} {unit}, {rate:,.0f} {unit}/s{left}")

    def _write(self, text: str, *, final: bool = False) -> None:
        line = f"{self.name:<9} {text}"
        if self._live:
            sys.stderr.write(f"\r\x1b[2K{line}" + ("\n" if final else ""))
        elif final or text != "...":
            sys.stderr.write(line + "\n")
        sys.stderr.flush()


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long the block took, under its name."""
    started = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = round(time.monotonic() - started, 1)


@contextmanager
def native_noise_to(path: Path) -> Iterator[None]:
    """What libraries write to file descriptor 2 behind Python's back goes to a file; `sys.stderr` stays as it is."""
    try:
        shared = sys.stderr.fileno() == 2
    except (io.UnsupportedOperation, AttributeError):
        shared = False
    if not shared:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    before, terminal = sys.stderr, os.dup(2)
    with path.open("ab") as file, open(terminal, "w", buffering=1) as after:
        sys.stderr = after
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            sys.stderr = before
