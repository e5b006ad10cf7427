"""The rows of a split as tensors, by their numbers in the order of the files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Generator, Tensor

from pipeline.features import Features
from pipeline.parts import opened
from pipeline.training import shards
from pipeline.training.job import Job
from vae import noise
from vae.config import Column
from vae.likelihoods import Columns

CELL_BYTES: Final = 5
"""A float32 and whether it is observed."""
MB: Final = 1 << 20
READ_ROWS: Final = 65_536
DRAWN_ROWS: Final = 2_048
Numbers = npt.NDArray[np.int64]


class Table(Protocol):
    """Rows 0, 1, 2, ... of a split, wherever they are."""

    @property
    def width(self) -> int:
        """Values of a row."""

    @property
    def complete(self) -> bool:
        """Whether every cell is observed."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The values and observed-mask of some rows, on the training device."""


def numbers(table: Table, index: Tensor | slice) -> Numbers:
    """Which rows an index means."""
    return np.arange(len(table))[index] if isinstance(index, slice) else index.cpu().numpy()


def blocks(table: Table) -> Iterator[tuple[Tensor, Tensor]]:
    """All rows, as many at a time as a window of the training order holds."""
    rows = shards.window_rows(table.width)
    return (table.take(slice(start, start + rows)) for start in range(0, len(table), rows))


@dataclass(frozen=True)
class Rows:
    """Rows in memory."""

    values: Tensor
    observed: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        """Values of a row."""
        return self.values.shape[1]

    @cached_property
    def complete(self) -> bool:
        """Whether every cell is observed."""
        return bool(self.observed.all())

    def take(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The values and observed-mask of some rows; where those of any others would be equal, theirs."""
        if isinstance(index, slice):
            return self.values[index], self.observed[index]
        index = index.to(self.values.device)
        observed = self.observed[: len(index)] if self.complete else self.observed.index_select(0, index)
        return self.values.index_select(0, index), observed


class Drawn:
    """Rows with one fixed draw for the columns of which training draws anew.

    The uniform numbers are those that `torch.rand` draws for all rows at once, made again for the rows asked for.
    """

    def __init__(self, table: Table, columns: Sequence[Column], *, seed: int) -> None:
        self.table, self.columns = table, Columns(columns)
        generator = Generator().manual_seed(seed)
        self.states = []
        for start in range(0, len(table), DRAWN_ROWS):
            self.states.append(generator.get_state())
            torch.rand(min(DRAWN_ROWS, len(table) - start), table.width, generator=generator)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def width(self) -> int:
        """Values of a row."""
        return self.table.width

    @property
    def complete(self) -> bool:
        """Whether every cell is observed."""
        return self.table.complete

    def take(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The values and observed-mask of some rows, on the training device."""
        values, observed = self.table.take(index)
        uniform = self._uniform(numbers(self, index)).to(values.device)
        return noise.binarise(self.columns.to(values.device), values, uniform), observed

    def _uniform(self, wanted: Numbers) -> Tensor:
        uniform = torch.empty(len(wanted), self.width)
        blocks, places = (torch.from_numpy(part) for part in np.divmod(wanted, DRAWN_ROWS))
        for block in blocks.unique().tolist():
            generator = Generator()
            generator.set_state(self.states[block])
            drawn = torch.rand(DRAWN_ROWS, self.width, generator=generator)
            mine = blocks == block
            uniform[mine] = drawn[places[mine]]
        return uniform


def read(
    job: Job, *, parts: Sequence[str] | None = None, rows: int = READ_ROWS
) -> Iterator[tuple[pa.RecordBatch, npt.NDArray[np.uint8]]]:
    """The table's rows, or those of some parts, so many at a time, with the split of each."""
    for part in job.parts if parts is None else parts:
        with opened(Path(part)) as file:
            for batch in file.iter_batches(batch_size=rows):
                yield batch, shards.splits(batch.column(job.id_column), validation=job.validation, test=job.test)


def count(parts: Sequence[str]) -> int:
    """Rows of some of the table's parts, over all splits."""
    rows = 0
    for part in parts:
        with opened(Path(part)) as file:
            rows += file.metadata.num_rows
    return rows


def size_mb(rows: int, width: int) -> int:
    """What rows take, in memory or in files, rounded up."""
    return -(-rows * width * CELL_BYTES // MB)


def resident(job: Job, device: torch.device) -> dict[int, Rows]:
    """The rows of each split (TRAIN, VALIDATION, TEST), transformed, in memory.

    One tensor holds them all, so that nothing but the held-out rows is ever there twice.
    """
    features = Features.load(job.path)
    total, width = count(job.parts), features.width
    whole = torch.empty(total, width, device=device), torch.empty(total, width, dtype=torch.bool, device=device)
    held_out: dict[int, list[tuple[Tensor, ...]]] = {shards.VALIDATION: [], shards.TEST: []}
    end = 0
    for batch, split in read(job):
        cells = features.transform(batch)
        for kind, kept in held_out.items():
            kept.append(tuple(torch.from_numpy(part[split == kind]).to(device) for part in cells))
        start, end = end, end + int((split == shards.TRAIN).sum())
        for part, tensor in zip(cells, whole, strict=True):
            tensor[start:end] = torch.from_numpy(part[split == shards.TRAIN])
    found = {shards.TRAIN: Rows(*(tensor[:end] for tensor in whole))}
    for kind, kept in held_out.items():
        start, end = end, end + sum(len(values) for values, _ in kept)
        found[kind] = Rows(*(tensor[start:end] for tensor in whole))
        for tensor, pieces in zip(whole, zip(*kept, strict=True), strict=True):
            torch.cat(pieces, out=tensor[start:end])
    return found


@overload
def binarised(columns: Sequence[Column], table: Rows, *, seed: int) -> Rows: ...
@overload
def binarised(columns: Sequence[Column], table: Table, *, seed: int) -> Table: ...
def binarised(columns: Sequence[Column], table: Table, *, seed: int) -> Table:
    """The rows with one fixed draw for the columns of which training draws anew."""
    if not any(column.dynamic for column in columns):
        return table
    if not isinstance(table, Rows):
        return Drawn(table, columns, seed=seed)
    uniform = torch.rand(table.values.shape, generator=Generator().manual_seed(seed)).to(table.values.device)
    return Rows(noise.binarise(Columns(columns).to(uniform.device), table.values, uniform), table.observed)


def affordable(table: Table, memory_mb: int) -> Rows:
    """All rows of a table in memory; of one in files as many as take a quarter of `memory_mb`, evenly spaced."""
    if isinstance(table, Rows):
        return table
    most = max(1, memory_mb * MB // (4 * CELL_BYTES * table.width))
    return Rows(*table.take(torch.arange(0, len(table), -(-len(table) // most))))
