"""The rows of a training in flat files, where they take more memory than there is.

Below the training's directory each part of the table has a folder, with the values (float32) and the mask (bool) of
each split's rows, one after another. The workers make them together, each its share of the parts; a folder is written
aside and renamed, and one that is not whole is written anew.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.disk import storage_errors, sync
from pipeline.errors import InfrastructureError, LatentpipeError, from_plain
from pipeline.features import Features
from pipeline.training import shards
from pipeline.training.job import Job, Place
from pipeline.training.rows import CELL_BYTES, MB, Numbers, Rows, Table, count, numbers, read, size_mb

FOLDER: Final = "rows"
FACTS: Final = "facts.json"
"""In a part's folder: which part it is, and how many rows and observed cells each split has there."""
ITEM_BYTES: Final = {"values": 4, "observed": 1}
BLOCK_BYTES: Final = 16 * MB
"""Transformed at a time."""


@dataclass(frozen=True)
class Filed:
    """Rows in flat files, read when they are asked for."""

    folders: tuple[Path, ...]
    split: str
    starts: Numbers
    """The number of each part's first row, and last that of all rows."""
    width: int
    complete: bool
    device: torch.device

    @classmethod
    def of(cls, folders: Sequence[Path], split: str, *, width: int, device: torch.device) -> Self:
        """A split's rows in the folders of all parts."""
        facts = [json.loads((folder / FACTS).read_text()) for folder in folders]
        rows, observed = ([int(it[fact][split]) for it in facts] for fact in ("rows", "observed"))
        return cls(tuple(folders), split, np.cumsum([0, *rows]), width, sum(observed) == sum(rows) * width, device)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The values and observed-mask of some rows, on the training device."""
        rows = self.read(numbers(self, index))
        return rows.values.to(self.device), rows.observed.to(self.device)

    def read(self, wanted: Numbers) -> Rows:
        """Some rows in main memory, in this order; pinned there if they are for a GPU."""
        pinned = self.device.type == "cuda"
        values = torch.empty(len(wanted), self.width, pin_memory=pinned)
        observed = torch.ones(len(wanted), self.width, dtype=torch.bool, pin_memory=pinned)
        places = np.argsort(wanted)
        part = np.searchsorted(self.starts, wanted[places], side="right") - 1
        for kind, tensor in (("values", values), *([] if self.complete else [("observed", observed)])):
            for number in np.unique(part):
                there = places[slice(*np.searchsorted(part, (number, number + 1)))]
                path = self.folders[number] / f"{self.split}.{kind}"
                _copy(path, wanted[there] - self.starts[number], tensor, torch.from_numpy(there))
        return Rows(values, observed)


def _copy(path: Path, rows: Numbers, tensor: Tensor, places: Tensor) -> None:
    """Some rows of a file, in its order, to their places in a tensor; neighbours are read at once."""
    width = tensor.shape[1]
    run = shards.run_rows(shards.window_rows(width))
    buffer = np.empty((run, width), tensor.numpy().dtype)
    cuts = np.flatnonzero(np.diff(rows // run)) + 1
    try:
        with path.open("rb", buffering=0) as file:
            for start, stop in pairwise((0, *cuts.tolist(), len(rows))):
                near = rows[start:stop] - rows[start]
                found = buffer[: near[-1] + 1]
                if os.preadv(file.fileno(), [found.data], int(rows[start]) * found.strides[0]) < found.nbytes:
                    raise OSError("cut short")
                wanted = torch.from_numpy(found)
                if not (np.diff(near) == 1).all():
                    wanted = wanted.index_select(0, torch.from_numpy(near))
                tensor.index_copy_(0, places[start:stop], wanted)
    except OSError as error:
        cure = "run again: what is not whole is written anew"
        raise InfrastructureError(f"cannot read: {error.strerror or error}", str(path), cure) from error


def load(job: Job, place: Place) -> dict[int, Table]:
    """The rows of each split (TRAIN, VALIDATION, TEST), written to files first where they are not yet.

    Every worker must call it. Raises, on all of them, what one of them met: InfrastructureError if the disk is full.
    """
    folder = job.path / FOLDER
    folders = [folder / f"{number:05d}" for number in range(len(job.parts))]
    parts = _Parts(job, Features.load(job.path), folders)
    _together(place, parts.check_room)
    for first in range(0, len(folders), place.world_size):
        _together(place, partial(parts.write, first + place.rank))
    pa.default_memory_pool().release_unused()
    return {
        kind: Filed.of(folders, split, width=parts.features.width, device=place.device)
        for split, kind in shards.SPLITS.items()
    }


def discard(job: Job) -> None:
    """Remove the files: the training is done."""
    shutil.rmtree(job.path / FOLDER, ignore_errors=True)


def _together(place: Place, act: Callable[[], None]) -> None:
    """Do it on every worker; an error of one is raised on all, so that none waits for it."""
    said = ""
    try:
        act()
    except LatentpipeError as error:
        said = error.to_plain()
    for text in place.hear(said):
        if text:
            raise from_plain(text)


@dataclass(frozen=True)
class _Parts:
    """The table's parts, and the folder of each."""

    job: Job
    features: Features
    folders: list[Path]

    def check_room(self) -> None:
        """Raises InfrastructureError if what is still to be written is more than the disk takes."""
        folder, parts = self.job.path / FOLDER, self.job.parts
        with storage_errors(folder):
            folder.mkdir(exist_ok=True)
            missing = [part for number, part in enumerate(parts) if not self.whole(number)]
            if count(missing) * self.features.width * CELL_BYTES > shutil.disk_usage(folder).free:
                raise self.full()

    def full(self) -> InfrastructureError:
        """No room: what it takes, and what there is."""
        folder, needed = self.job.path / FOLDER, size_mb(count(self.job.parts), self.features.width)
        return InfrastructureError(
            f"the rows take {needed:,} MB in files, and {shutil.disk_usage(folder).free // MB:,} MB are free",
            str(folder),
            f"free some space, or let the workers hold them in memory: --set train.memory_mb={needed}",
        )

    def whole(self, number: int) -> bool:
        """Whether a folder holds all rows of its part, by the sizes of its files."""
        folder, width = self.folders[number], self.features.width
        try:
            facts = json.loads((folder / FACTS).read_text())
            return (facts["part"], facts["width"]) == (self.job.parts[number], width) and all(
                (folder / f"{split}.{kind}").stat().st_size == rows * width * size
                for split, rows in facts["rows"].items()
                for kind, size in ITEM_BYTES.items()
            )
        except (OSError, ValueError, KeyError):
            return False

    def write(self, number: int) -> None:
        """Fill a part's folder, if there is such a part and it is not whole; all of it or nothing."""
        if number >= len(self.folders) or self.whole(number):
            return
        folder = self.folders[number]
        aside = folder.with_suffix(".partial")
        with storage_errors(folder):
            try:
                for torn in (folder, aside):
                    shutil.rmtree(torn, ignore_errors=True)
                aside.mkdir()
                facts = self._transform(self.job.parts[number], aside)
                (aside / FACTS).write_text(json.dumps(facts))
                sync(aside / FACTS)
                aside.rename(folder)
                sync(folder.parent)
            except OSError as error:
                raise self.full() if error.errno == errno.ENOSPC else error from error

    def _transform(self, part: str, folder: Path) -> dict[str, Any]:
        """Write a part's rows, split by split; return its facts."""
        width = self.features.width
        rows, observed = (dict.fromkeys(shards.SPLITS, 0) for _ in range(2))
        with ExitStack() as stack:
            files = {
                split: [stack.enter_context((folder / f"{split}.{kind}").open("wb")) for kind in ITEM_BYTES]
                for split in shards.SPLITS
            }
            for batch, split in read(self.job, parts=[part], rows=max(1, BLOCK_BYTES // (CELL_BYTES * width))):
                cells = self.features.transform(batch)
                for name, kind in shards.SPLITS.items():
                    values, seen = (it[split == kind] for it in cells)
                    for file, it in zip(files[name], (values, seen), strict=True):
                        file.write(it.tobytes())
                    rows[name] += len(values)
                    observed[name] += int(seen.sum())
            for file in (file for pair in files.values() for file in pair):
                file.flush()
                os.fsync(file.fileno())
        return {"part": part, "width": width, "rows": rows, "observed": observed}
