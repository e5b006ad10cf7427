"""The work of an encode, cut into units: a file of the dataset, or neighbouring row groups of a large one.

A unit's identity says what goes in and what is made of it, and nothing of the files beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, Final

from pipeline import keys
from pipeline.disk import sha256
from pipeline.errors import DataError
from pipeline.parts import opened
from pipeline.snapshots import Snapshot
from pipeline.spread import threads

CURE: Final = "restore the file, or remove its snapshot and ingest again"
LOADS: Final = 4
"""Into so many loads per worker small units are put together, so that workers end at about the same time."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file of the dataset as it was when the work was planned."""

    path: Path
    name: str
    """In its snapshot."""
    sha256: str
    """As the snapshot's manifest has it."""
    bytes: int
    changed_ns: int

    def check(self) -> None:
        """Raise DataError, naming the file, if it is not the one that the work was planned for. Costs a glance."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", str(self.path), CURE) from error
        if (found.st_size, found.st_mtime_ns) != (self.bytes, self.changed_ns):
            raise DataError("changed since the work was planned", str(self.path), CURE)

    def verify(self) -> None:
        """Raise DataError if one of its bytes is not as it was ingested. Reads the file."""
        if sha256(self.path) != self.sha256:
            raise DataError("changed since it was ingested: its sha256 differs", str(self.path), CURE)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one worker reads, encodes and writes as one file."""

    number: int
    """Its place in the dataset."""
    identity: str
    """sha256 over input, model and output: the same identity is the same file of latents."""
    source: Source
    first: int
    """Its first row group."""
    end: int
    """One behind its last."""
    whole: bool
    """Whether that is all of the file."""
    rows: int
    bytes: int
    """Of its rows, uncompressed."""

    def __str__(self) -> str:
        return self.source.name if self.whole else f"{self.source.name}, row groups {self.first} to {self.end - 1}"

    @property
    def name(self) -> str:
        """Of the file it becomes."""
        return self.source.name if self.whole else f"{Path(self.source.name).stem}-{self.first:05d}.parquet"

    def facts(self) -> dict[str, Any]:
        """As a manifest lists it."""
        groups = None if self.whole else [self.first, self.end]
        told = {"file": self.source.name, "sha256": self.source.sha256, "row_groups": groups, "rows": self.rows}
        return {"number": self.number, "identity": self.identity, "input": told}


def cut(dataset: Snapshot, output: dict[str, Any], *, unit_bytes: int, workers: int = 1) -> list[Unit]:
    """Every row of the dataset in one unit each; `output` is what `keys.output` says is made of them.

    Raises DataError for a file that is not as its manifest has it.
    """
    listed = dataset.manifest["files"]
    found = dict(threads(partial(_sized, dataset), listed, workers=workers))
    files = [found[index] for index in range(len(listed))]
    pieces = [(source, sizes, span) for source, sizes in files for span in _spans(sizes, unit_bytes)]
    return [_unit(number, output, *piece) for number, piece in enumerate(pieces)]


def loads(units: Sequence[Unit], *, workers: int, unit_bytes: int) -> list[list[int]]:
    """Which units, by their index, one worker does in a row: the biggest first and alone, the small ones together."""
    most = min(unit_bytes, sum(unit.bytes for unit in units) // (LOADS * workers))
    found: list[list[int]] = [[]]
    held = 0
    for index in sorted(range(len(units)), key=lambda it: -units[it].bytes):
        if found[-1] and held + units[index].bytes > most:
            found.append([])
            held = 0
        found[-1].append(index)
        held += units[index].bytes
    return [load for load in found if load]


Sizes = list[tuple[int, int]]
"""Rows and uncompressed bytes of each row group."""


def _sized(dataset: Snapshot, facts: dict[str, Any]) -> tuple[Source, Sizes]:
    path = Path(str(dataset.directory)) / facts["path"]
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", str(path), CURE) from error
    if found.st_size != facts["bytes"]:
        raise DataError(
            f"changed since it was ingested: {found.st_size:,} bytes, not {facts['bytes']:,}", str(path), CURE
        )
    source = Source(
        path=path, name=facts["path"], sha256=facts["sha256"], bytes=found.st_size, changed_ns=found.st_mtime_ns
    )
    with opened(path) as file:
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
        return source, [(group.num_rows, group.total_byte_size) for group in groups]


def _spans(sizes: Sizes, unit_bytes: int) -> Iterator[tuple[int, int]]:
    """First and end of neighbouring row groups, as evenly as they come, of about `unit_bytes` together."""
    total = max(sum(size for _, size in sizes), 1)
    pieces = min(len(sizes), max(1, round(total / unit_bytes)))
    ends = accumulate(size for _, size in sizes)
    middles = [end - size / 2 for end, (_, size) in zip(ends, sizes, strict=True)]
    for _, members in groupby(range(len(sizes)), key=lambda it: int(middles[it] * pieces / total)):
        together = [*members]
        yield together[0], together[-1] + 1


def _unit(number: int, output: dict[str, Any], source: Source, sizes: Sizes, span: tuple[int, int]) -> Unit:
    first, end = span
    whole = end - first == len(sizes)
    return Unit(
        number=number,
        identity=keys.unit(output, sha256=source.sha256, row_groups=None if whole else span),
        source=source,
        first=first,
        end=end,
        whole=whole,
        rows=sum(rows for rows, _ in sizes[first:end]),
        bytes=sum(size for _, size in sizes[first:end]),
    )
