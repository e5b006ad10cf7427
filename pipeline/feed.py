"""Rows to the training loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Generator, Tensor

from pipeline import shards
from pipeline.features import Features
from pipeline.job import Job, Place
from pipeline.parts import opened
from vae import noise
from vae.config import Column
from vae.likelihoods import Columns


@dataclass(frozen=True)
class Rows:
    """Rows as tensors, on the training device."""

    values: Tensor
    observed: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def take(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The values and observed-mask of some rows."""
        return self.values[index], self.observed[index]


@dataclass(frozen=True)
class Batch:
    """This rank's share of a global batch."""

    values: Tensor
    observed: Tensor
    places: slice | Tensor
    """Of its rows in the global batch."""
    size: int
    """Rows of the global batch, over all ranks."""
    numbers: npt.NDArray[np.int64]
    """Of its rows in the training split, in file order."""


@dataclass
class Feed:
    """The training rows, batch by batch."""

    rows: Rows
    job: Job
    place: Place
    waited_s: float = 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """This rank's share of each global batch of an epoch, from batch number `start` on."""
        train, place = self.job.train, self.place
        order = shards.epoch(
            len(self),
            batch_rows=train.batch_rows,
            seed=train.seed,
            epoch=epoch,
            world_size=place.world_size,
            rank=place.rank,
        )
        for number, (index, mine) in enumerate(order):
            if number >= start:
                size = min(train.batch_rows, len(self) - number * train.batch_rows)
                yield Batch(*self.rows.take(torch.from_numpy(index)), mine, size, index)


def load(job: Job, device: torch.device) -> dict[int, Rows]:
    """The rows of each split (TRAIN, VALIDATION, TEST), transformed, in the order of their files."""
    features = Features.load(job.path)
    chunks = [(*features.transform(batch), split) for batch, split in rows(job)]
    values, observed, split = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*chunks, strict=True))
    return {
        kind: Rows(values[split == kind].to(device), observed[split == kind].to(device))
        for kind in (shards.TRAIN, shards.VALIDATION, shards.TEST)
    }


def rows(job: Job) -> Iterator[tuple[pa.RecordBatch, npt.NDArray[np.uint8]]]:
    """The table's rows, batch by batch, with the split of each."""
    for part in job.parts:
        with opened(Path(part)) as file:
            for batch in file.iter_batches():
                yield batch, shards.splits(batch.column(job.id_column), validation=job.validation, test=job.test)


def binarised(columns: Sequence[Column], rows: Rows, *, seed: int) -> Rows:
    """The rows with one fixed draw for the columns of which training draws anew."""
    if not any(column.dynamic for column in columns):
        return rows
    uniform = torch.rand(rows.values.shape, generator=Generator().manual_seed(seed)).to(rows.values.device)
    return Rows(noise.binarise(Columns(columns).to(uniform.device), rows.values, uniform), rows.observed)
