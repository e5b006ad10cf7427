"""The most memory that a benchmark's process held, or one of the Ray workers below it."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Self

import psutil


class Peak:
    """The most memory that this process, or one of a Ray cluster's workers, held that is its own."""

    def __enter__(self) -> Self:
        self.workers, self.done = 0, threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.watcher.join()
        status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
        self.mb = max(int(status.split()[0]) >> 10, self.workers >> 20)

    def _watch(self) -> None:
        while not self.done.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "MapWorker" in process.name() or "MapWorker" in " ".join(process.cmdline()):
                        used = process.memory_info()
                        self.workers = max(self.workers, used.rss - used.shared)
