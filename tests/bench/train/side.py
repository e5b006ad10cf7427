"""One contestant trains one model, in a process of its own; prints what comes of it as one line of JSON.

python side.py NAME MODEL FOLDER EPOCHS DEVICE BEGAN

FOLDER is one of `table.make`. BEGAN is the `time.time()` at which this process was asked for.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final, Self

import contestants
import torch
from table import MODELS
from task import Task

WORKER: Final = "RayTrainWorker"


def main() -> None:
    """Run one contestant."""
    name, model, folder, epochs, device, began = sys.argv[1:]
    torch.set_num_threads(1)
    task = Task(MODELS[model], Path(folder), int(epochs), device)
    with Peak() as peak:
        outcome = getattr(contestants, name)(task)
    outside_s = time.time() - float(began) - outcome.loop_s
    print(json.dumps({**asdict(outcome), "outside_s": outside_s, "peak_mb": peak.mb}))


class Peak:
    """The most memory that this process held or, if it has Ray train, that one of the workers did."""

    def __enter__(self) -> Self:
        self.workers, self.done = 0, threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.watcher.join()
        self.mb = self.workers or _peak_mb(Path("/proc/self"))

    def _watch(self) -> None:
        """A process's own peak never falls, so it is enough to look now and then."""
        while not self.done.wait(0.25):
            for process in _descendants():
                with contextlib.suppress(OSError, IndexError):
                    if WORKER in (process / "cmdline").read_text():
                        self.workers = max(self.workers, _peak_mb(process))


def _descendants() -> list[Path]:
    found = [Path("/proc/self")]
    for process in found:
        with contextlib.suppress(OSError):
            children = [task.read_text().split() for task in process.glob("task/*/children")]
            found += [Path("/proc", child) for ids in children for child in ids]
    return found[1:]


def _peak_mb(process: Path) -> int:
    """Of resident memory, by the kernel; `ru_maxrss` of a child would begin with its parent's."""
    return int((process / "status").read_text().split("VmHWM:")[1].split()[0]) >> 10


if __name__ == "__main__":
    main()
