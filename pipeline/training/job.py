"""A training as its workers see it: what to train on what, and one process among its peers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, distributed

from pipeline.config import Train
from vae.config import Network, Objective

CPU: Final = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train on what; plain enough to travel."""

    directory: str
    """Of this training: `features.json` lies there; checkpoints and the model are written there."""
    parts: tuple[str, ...]
    id_column: str
    secret_ids: bool = False
    """Whether no message may show an id."""
    validation: float
    test: float
    network: Network
    objective: Objective
    train: Train

    @property
    def path(self) -> Path:
        """The directory."""
        return Path(self.directory)


@dataclass(frozen=True)
class Place:
    """This process among its peers."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = CPU

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, the same on each."""
        if self.world_size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def agree(self, *numbers: int) -> bool:
        """Whether all ranks hold the same numbers."""
        if self.world_size == 1:
            return True
        extremes = torch.tensor([numbers, [-it for it in numbers]], device=self.device)
        distributed.all_reduce(extremes, op=distributed.ReduceOp.MAX)
        return bool((extremes[0] == -extremes[1]).all())

    def hear(self, text: str) -> list[str]:
        """What every rank says, by rank; all must call, and may say nothing."""
        said = text.encode()
        lengths = torch.zeros(self.world_size, dtype=torch.int64, device=self.device)
        lengths[self.rank] = len(said)
        letters = torch.zeros(self.world_size, int(self.total(lengths).max()), dtype=torch.int32, device=self.device)
        letters[self.rank, : len(said)] = torch.tensor(list(said), dtype=torch.int32)
        spoken = self.total(letters).tolist() if letters.numel() else letters.tolist()
        return [bytes(row[:length]).decode() for row, length in zip(spoken, lengths.tolist(), strict=True)]


ALONE: Final = Place()
"""A process without peers, on the CPU."""
