"""What a source is made of: files, pieces of files, and blocks of their rows. Plain enough to travel to a worker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of rows, where it lies and how to tell that it changed."""

    uri: str
    """Absolute path, or the URI of a store: `s3://bucket/key`. Never a password."""
    name: str
    """Relative to the source's root, with `/`: what manifests, quarantines and errors call it."""
    bytes: int
    stamp: str
    """When the store says it was written: changes when the file does."""
    mark: str
    """sha256 of its last 64 KiB, so of a Parquet file's footer."""
    keys: tuple[tuple[str, str], ...] = ()
    """Hive partition keys and their decoded values, from the path."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some neighbouring rows of one file: the smallest thing that a worker takes in."""

    file: File
    start: int = 0
    stop: int | None = None
    """Bytes of text, row groups of Parquet, batches of Arrow IPC, rows of an array; None: to the end."""
    first: int | None = 0
    """Position of its first row among the file's; None: not known."""
    rows: int | None = None
    """How many there are, if that is known without reading them. Checked against what is read."""
    bytes: int = 0
    """Of its share of the file, for spreading the work."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A file, digested and cut into pieces."""

    sha256: str
    rows: int | None
    """Of the whole file; None: not known without parsing it."""
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Block:
    """Some neighbouring rows of one file, as found."""

    batch: pa.RecordBatch
    ragged: tuple[tuple[int, str], ...] = ()
    """Rows with too many or too few cells: position among the piece's rows, and text. They are not in `batch`."""

    def __len__(self) -> int:
        return len(self.batch) + len(self.ragged)

    def positions(self, first: int) -> npt.NDArray[np.int64]:
        """Where the batch's rows stand, if the block begins at row `first`."""
        everyone = np.arange(first, first + len(self))
        return np.setdiff1d(everyone, [row for row, _ in self.ragged]) if self.ragged else everyone
