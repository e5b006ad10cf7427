"""Rows to the training loop: global batch after global batch, this rank's rows of each.

Rows in memory are gathered batch by batch. Rows in files come window by window, the next one read by a thread while the
loop works on this one. Order, batches and steps are those of `shards`, the same either way.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.features import Features
from pipeline.training import filed, rows, shards
from pipeline.training.filed import Filed
from pipeline.training.job import ALONE, Job, Place
from pipeline.training.rows import CELL_BYTES, MB, Numbers, Rows, Table, size_mb

Item = TypeVar("Item")
GPU_SHARE: Final = 0.5
"""Of a GPU's free memory that rows may take."""


@dataclass(frozen=True)
class Batch:
    """This rank's rows of a global batch, on the training device; not to be written to."""

    values: Tensor
    observed: Tensor
    places: slice
    """Their places in the global batch."""
    size: int
    """Rows of the global batch, over all ranks."""
    numbers: Numbers
    """Which rows of the training split, in the order of the files."""


@dataclass(frozen=True)
class _Window:
    """Rows of this rank in the order of training: `rows[index]`, or all of `rows` as they are."""

    numbers: Numbers
    rows: Rows
    index: Tensor | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def cut(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Values, observed-mask and numbers of some of them."""
        cells = self.rows.take(part if self.index is None else self.index[part])
        return *cells, torch.from_numpy(self.numbers[part])


class Feed:
    """The training rows of one rank, epoch after epoch."""

    def __init__(self, table: Rows | Filed, *, batch_rows: int, seed: int, place: Place = ALONE) -> None:
        self.table, self.batch_rows, self.seed, self.place = table, batch_rows, seed, place
        self.waited_s = 0.0
        """For how long the loop has waited for rows."""

    def __len__(self) -> int:
        return len(self.table)

    @property
    def complete(self) -> bool:
        """Whether every cell is observed."""
        return self.table.complete

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """This rank's share of every global batch of an epoch, from number `start` on."""
        began = time.perf_counter()
        with closing(_ahead(self._windows(epoch, start))) as windows:
            for batch in self._cut(windows, start):
                self.waited_s += time.perf_counter() - began
                yield batch
                began = time.perf_counter()

    def _windows(self, epoch: int, start: int) -> Iterator[_Window]:
        table, place = self.table, self.place
        order = shards.order(len(self), window_rows=shards.window_rows(table.width), seed=self.seed, epoch=epoch)
        for numbers in shards.share(
            order, batch_rows=self.batch_rows, world_size=place.world_size, rank=place.rank, start=start
        ):
            if isinstance(table, Rows):
                yield _Window(numbers, table, torch.from_numpy(numbers).to(place.device))
            else:
                yield _Window(numbers, _moved(table.read(numbers), place.device))

    def _cut(self, windows: Iterator[_Window], start: int) -> Iterator[Batch]:
        window, at, place = next(windows, None), 0, self.place
        if window is None:
            return
        for first in range(start * self.batch_rows, len(self), self.batch_rows):
            size = min(self.batch_rows, len(self) - first)
            left = shards.held(size, world_size=place.world_size, rank=place.rank)
            pieces = [window.cut(slice(at, at + left))]
            while left > len(window) - at:
                left -= len(window) - at
                window, at = next(windows), 0
                pieces.append(window.cut(slice(left)))
            at += left
            values, observed, numbers = pieces[0] if len(pieces) == 1 else map(torch.cat, zip(*pieces, strict=True))
            pieces.clear()  # they would keep the window before in memory
            yield Batch(values, observed, slice(place.rank, None, place.world_size), size, numbers.numpy())


def load(job: Job, place: Place) -> dict[int, Table]:
    """The rows of each split (TRAIN, VALIDATION, TEST): in memory if they fit there on every worker, else in files."""
    width = Features.load(job.path).width
    lacking = rows.count(job.parts) * width * CELL_BYTES > _room(job, place.device)
    if place.total(torch.tensor([int(lacking)], device=place.device)).item():
        return filed.load(job, place)
    return dict(rows.resident(job, place.device))


def check_memory(total: int, width: int, *, memory_mb: int) -> None:
    """Raises ConfigError if so many rows fit neither in memory nor, in files, two windows of them."""
    least = min(size_mb(total, width), size_mb(2 * shards.window_rows(width), width))
    if least > memory_mb:
        raise ConfigError(
            f"the rows take {least:,} MB in each worker, train.memory_mb allows {memory_mb:,}",
            cure=f"--set train.memory_mb={least}, or fewer features",
        )


def _room(job: Job, device: torch.device) -> float:
    """Bytes that rows may take."""
    if device.type == "cuda":
        return GPU_SHARE * torch.cuda.mem_get_info(device)[0]
    return job.train.memory_mb * MB


def _ahead(items: Iterator[Item]) -> Generator[Item]:
    """The same items, the next one made by a thread while this one is in use."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="rows") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _moved(rows: Rows, device: torch.device) -> Rows:
    """Rows from pinned memory on the device, copied while the loop computes there."""
    if device.type == "cpu":
        return rows
    pairs = [(torch.empty(it.shape, dtype=it.dtype, device=device), it) for it in (rows.values, rows.observed)]
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # the memory may still be read there
    with torch.cuda.stream(stream):
        moved = Rows(*(there.copy_(here, non_blocking=True) for there, here in pairs))
    stream.synchronize()
    return moved
