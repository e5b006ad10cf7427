"""The most memory that a benchmark's process held or, if it has Ray work, one of the workers below it."""

from __future__ import annotations

import contextlib
import re
import threading
from pathlib import Path
from typing import Final, Self

WORKERS: Final = ("MapWorker", "RayTrainWorker")
"""What Ray calls a process that works on data, or trains."""
SELF: Final = Path("/proc/self")


class Peak:
    """Watches inside; afterwards says what it saw, in MB, of the workers if there were any, else of this process."""

    def __enter__(self) -> Self:
        self.resident_mb, self.own_mb, self.done = 0, 0, threading.Event()
        self.workers = False
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.watcher.join()
        if not self.workers:
            self._look(SELF)

    @property
    def mb(self) -> int:
        """Of a process all that was resident, of a worker what was its own: the rest it shares."""
        return self.own_mb if self.workers else self.resident_mb

    def _watch(self) -> None:
        while not self.done.wait(0.05):
            workers = [it for it in _descendants() if _works(it)]
            if workers and not self.workers:
                self.workers, self.resident_mb, self.own_mb = True, 0, 0
            for process in workers or ([] if self.workers else [SELF]):
                self._look(process)

    def _look(self, process: Path) -> None:
        """The kernel keeps the peak of what is resident; not of what is a process's own (`RssAnon`)."""
        with contextlib.suppress(OSError, IndexError):
            status = (process / "status").read_text()
            self.resident_mb = max(self.resident_mb, _kb(status, "VmHWM") >> 10)
            self.own_mb = max(self.own_mb, _kb(status, "RssAnon") >> 10)


def _descendants() -> list[Path]:
    found = [SELF]
    for process in found:
        with contextlib.suppress(OSError):
            children = [task.read_text().split() for task in process.glob("task/*/children")]
            found += [Path("/proc", child) for ids in children for child in ids]
    return found[1:]


def _works(process: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(name in (process / "cmdline").read_text() for name in WORKERS)
    return False


def _kb(status: str, name: str) -> int:
    return int(re.findall(rf"{name}:\s+(\d+)", status)[0])
