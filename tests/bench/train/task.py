"""What a contestant is asked to do, and what it says of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
from table import Model
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """What to train on what, how long, and where."""

    model: Model
    folder: Path
    """One of `table.make`."""
    epochs: int
    device: str

    def tensor(self) -> Tensor:
        """The rows, float32, on the CPU."""
        return torch.from_numpy(np.load(self.folder / "rows.npy"))


@dataclass
class Outcome:
    """Of one contestant."""

    speeds: list[float]
    """Rows/s of each epoch: of its steps and what feeds them, not of evaluations and checkpoints."""
    loop_s: float
    """Of all epochs, with whatever a side does in one."""
    startup_s: dict[str, float] = field(default_factory=dict)
    """What the rest of the time went to, where it is known."""


class Clock:
    """Times epochs; `rows` may be told inside one."""

    def __init__(self, rows: int = 0) -> None:
        self.rows, self.speeds, self.loop_s = rows, [], 0.0

    def __enter__(self) -> Self:
        self.began = _now()
        return self

    def __exit__(self, *_: object) -> None:
        seconds = _now() - self.began
        self.speeds.append(self.rows / seconds)
        self.loop_s += seconds

    def outcome(self) -> Outcome:
        """Of the epochs so far."""
        return Outcome(self.speeds, self.loop_s)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
