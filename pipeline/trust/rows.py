"""The rows of a snapshot, read once, batch by batch, page checksums on: ids, nulls, numbers, statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array

from pipeline import identities
from pipeline.errors import DataError
from pipeline.intake.profile import Profile
from pipeline.parts import Part, group_rows, opened, plain_id
from pipeline.schema.table import REDACTED
from pipeline.stores.remote import Location
from pipeline.trust.findings import RESTORE, Violation
from pipeline.trust.layout import described, finite_columns, id_column, secrets

BATCH_ROWS: Final = 1 << 15
COUNTING_BYTES: Final = 256 << 20
"""For counting ids whose files overlap."""
LISTED: Final = ("path", "rows", "bytes", "sha256", "id_min", "id_max")
WRAP: Final = 1 << 64
CLOSE: Final = 1e-9
"""How far a mean may be from another order of adding, relative to its size."""


@dataclass
class Ids:
    """What is known of some ids, in bounded memory."""

    count: int = 0
    low: Any = None
    high: Any = None
    ascending: bool = True
    """Each above the one before, so that none comes twice."""
    total: int = 0
    """Sum of their 64-bit hashes: equal, in all likelihood, only for the same ids in any order."""
    last: pa.Array | None = None

    def add(self, ids: pa.Array) -> None:
        """Take in the next ones."""
        if not len(ids):
            return
        extremes = pc.min_max(ids)
        low, high = (plain_id(extremes[name].as_py()) for name in ("min", "max"))
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)
        row = ids if self.last is None else pa.concat_arrays([self.last, ids])
        self.ascending &= bool(pc.all(pc.greater(row.slice(1), row.slice(0, len(row) - 1)), min_count=0).as_py())
        hashes = hash_array(ids.to_numpy(zero_copy_only=False), categorize=False)
        self.total = (self.total + int(hashes.sum(dtype=np.uint64))) % WRAP
        self.count, self.last = self.count + len(ids), ids.slice(len(ids) - 1)


@dataclass
class Read:
    """What reading one data file told."""

    path: str
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    ids: Ids = field(default_factory=Ids)
    profile: Profile = field(default_factory=Profile)
    violations: list[Violation] = field(default_factory=list)


def read(directory: Location, part: Mapping[str, Any], manifest: Mapping[str, Any]) -> Read:
    """Read a data file to its end, and judge its rows."""
    hidden = secrets(manifest) or frozenset()
    found = Read(part["path"], profile=Profile(secret=hidden))
    try:
        with opened(directory / part["path"]) as file:
            found.schema = file.schema_arrow
            id_name = id_column(manifest, file.schema_arrow)
            finite = finite_columns(manifest, file.schema_arrow)
            size = min(BATCH_ROWS, group_rows(file.schema_arrow))
            for batch in file.iter_batches(batch_size=size, use_threads=False):
                found.violations += _odd_cells(batch, part["path"], finite, id_name, hidden=id_name in hidden)
                if id_name:
                    found.ids.add(batch.column(id_name))
                if manifest["kind"] == "dataset":
                    found.profile.add(batch)
    except DataError as error:
        found.violations.append(Violation(error.what, part["path"], RESTORE))
        return found
    found.violations += _odd_ids(found.ids, part, manifest, hidden=id_name in hidden) if id_name else []
    return found


def unlike(seen: Sequence[Read]) -> Iterator[Violation]:
    """Files whose columns are not those of the first: a reader of all of them fails, or makes up nulls."""
    for it in seen[1:]:
        if not it.schema.equals(seen[0].schema):
            here, there = (
                {f"{one.name}: {described(one)}" for one in schema} for schema in (it.schema, seen[0].schema)
            )
            odd = sorted(here ^ there) or ["their order"]
            yield Violation(f"its columns are not those of {seen[0].path}: {', '.join(odd):.200}", it.path)


def repeated(directory: Location, manifest: Mapping[str, Any], seen: Sequence[Read]) -> Iterator[Violation]:
    """Ids that come more than once, in one file or in several."""
    ordered = {it.path for it in seen if it.ids.ascending}
    parts = [
        (directory / it["path"], Part(staged="", **{name: it[name] for name in LISTED})) for it in manifest["files"]
    ]
    name = next((id_column(manifest, _schema(path)) for path, _ in parts), "")
    if not name:
        return
    unordered = {part.path for _, part in parts} - ordered
    for job in identities.counts(parts, id_column=name, memory_bytes=COUNTING_BYTES, repeated=unordered):
        count, some = identities.count(job)
        if count:
            where = ", ".join(PurePosixPath(path).name for path in job.paths[:3])
            told = REDACTED if name in (secrets(manifest) or ()) else ", ".join(map(str, some))
            yield Violation(f"{count:,} ids come more than once: {told}", where)


def other_statistics(manifest: Mapping[str, Any], seen: Sequence[Read]) -> Iterator[Violation]:
    """Where a dataset's column statistics are not those of its rows."""
    whole = Profile(secret=secrets(manifest) or frozenset())
    for it in seen:
        whole.merge(it.profile)
    found = whole.facts()
    for name, stated in manifest["columns"].items():
        for what, value in stated.items():
            now = found.get(name, {}).get(what)
            if not _same(what, value, now):
                shown = f"{value!s:.60}", f"{now!s:.60}"
                yield Violation(f"column {name!r}: {what} is stated as {shown[0]}, and is {shown[1]}", "_manifest.json")


def _same(what: str, stated: Any, found: Any) -> bool:
    if what in ("mean", "variance") and found is not None:
        return bool(abs(stated - found) <= CLOSE * max(abs(stated), abs(found), 1.0))
    if what == "values" and found is not None:
        return bool(stated == [list(it) for it in found])
    return bool(stated == found)


def _odd_ids(ids: Ids, part: Mapping[str, Any], manifest: Mapping[str, Any], *, hidden: bool) -> Iterator[Violation]:
    stated = (part.get("id_min"), part.get("id_max"))
    if stated != (ids.low, ids.high):
        low, high, first, last = [REDACTED] * 4 if hidden else (ids.low, ids.high, *stated)
        yield Violation(f"ids from {low} to {high}, listed as {first} to {last}", part["path"])
    if manifest["kind"] == "latents" and not ids.ascending:
        yield Violation("its rows are not sorted by id, or an id comes twice", part["path"])


def _odd_cells(
    batch: pa.RecordBatch, path: str, finite: Sequence[str], id_name: str, *, hidden: bool
) -> Iterator[Violation]:
    for it, column in zip(batch.schema, batch.columns, strict=True):
        if holes := _holes(it, column):
            yield Violation(f"column {it.name!r} holds {holes:,} nulls, and may hold none", path)
        if it.name in finite and (row := _first_odd(column)) is not None:
            told = REDACTED if hidden else plain_id(batch.column(id_name)[row].as_py()) if id_name else ""
            of = f" of {id_name} = {told}" if id_name else ""
            yield Violation(f"column {it.name!r}{of} is not finite", path)


def _holes(told: pa.Field, column: pa.Array) -> int:
    """Nulls where the schema allows none: of the column, and of a vector's elements."""
    holes = 0 if told.nullable else column.null_count
    if pa.types.is_fixed_size_list(told.type) and not told.type.value_field.nullable:
        holes += column.flatten().null_count
    return int(holes)


def _first_odd(column: pa.Array) -> int | None:
    """The first row with a number that is NaN or infinite."""
    vector = pa.types.is_fixed_size_list(column.type)
    cells = column.flatten() if vector else column
    if not pa.types.is_floating(cells.type) or bool(pc.all(pc.is_finite(cells), min_count=0).as_py()):
        return None
    if not vector or column.null_count:
        rows = [it if isinstance(it, list) else [it] for it in column.to_pylist()]
        odd = [any(cell is not None and not np.isfinite(cell) for cell in row or []) for row in rows]
        return odd.index(True)
    return int(pc.index(pc.is_finite(cells), False).as_py()) // int(column.type.list_size)


def _schema(path: Location) -> pa.Schema:
    with opened(path) as file:
        return file.schema_arrow
