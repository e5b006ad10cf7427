"""One unit of work on its way in: rows read, typed by the contract, and written; or set aside with the rule they broke.

What a worker does, in a thread or on another machine. Only facts leave it; rows in = rows kept + rows set aside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

from pipeline import sources
from pipeline.columns import ColumnConfig
from pipeline.config import RunConfig
from pipeline.errors import DataError
from pipeline.identities import SHOWN, repeats
from pipeline.intake.profile import SCHEMA, Profile
from pipeline.parts import Part, plain_id, write
from pipeline.schema import Rejected, apply, table_schema
from pipeline.sources import Block, Piece

ROW_ID_COLUMN: Final = ColumnConfig(type="int64", role="id")
REDACTED: Final = "***"
RAGGED, NOT_AN_OBJECT = "wrong number of cells", "not an object, or with a key twice"
"""What a row is that has no columns: in CSV, and in JSON lines."""
CURE: Final = "mend the data or [columns], declare the token in data.null_tokens, or data.on_bad_row = 'quarantine'"
QUARANTINE: Final = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("column", pa.string()),
        ("rule", pa.string()),
        ("value", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Share:
    """A piece of a file, and the number of its first row in the table, which is its id where the table has none."""

    piece: Piece
    base: int = 0


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of a unit's rows: JSON-able."""

    parts: tuple[Part, ...]
    rows_in: int
    rows: int
    first_bad: str = ""
    """The first row that was set aside, in words."""
    repeated: tuple[str, ...] = ()
    """The files of the snapshot in each of which an id comes more than once."""
    unseen: dict[str, dict[str, int]] = field(default_factory=dict)
    """Cells in categories that the contract does not list, by column."""

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Self:
        """From plain facts."""
        return cls(**{**facts, "parts": tuple(Part(**part) for part in facts["parts"])})


def take_in(config: RunConfig, number: int, shares: Sequence[Share], directory: Path) -> Taken:
    """Read, type and write the rows of a unit; `number` names its files.

    Raises DataError if the table breaks its contract as a whole, or with `on_bad_row = "strict"` at the first bad row.
    """
    intake = Intake(config)
    schema, id_column = table_schema(config), config.id_column
    parts = []
    for index, part in groupby(_numbered(intake.batches(shares), config.data.part_rows), key=itemgetter(0)):
        name = f"part-{number:05d}-{index:03d}.parquet"
        rows = intake.identified(batch.select(schema.names).cast(schema) for _, batch in part)
        parts.append(write(directory, name, rows, schema=schema, id_column=id_column))
    aside = [(f"_quarantine/part-{number:05d}.parquet", intake.quarantine(), QUARANTINE)] if intake.rejected else []
    profile = (f"_profile/part-{number:05d}.parquet", intake.profile.to_batch(), SCHEMA)
    parts += [write(directory, name, [batch], schema=kind) for name, batch, kind in (*aside, profile)]
    return intake.taken(parts)


class Intake:
    """The rows of some pieces, one batch after the other, and what is counted on the way."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.schema = table_schema(config)
        self.columns = {name: config.columns.get(name, ROW_ID_COLUMN) for name in self.schema.names}
        self.types = {it.name: it.type for it in self.schema if it.name in config.columns}
        secret = frozenset(name for name, it in self.columns.items() if it.secret)
        self.profile = Profile(secret=secret)
        self.rows_in = 0
        self.rejected: list[tuple[str | None, Rejected]] = []
        """The id, as text, and the rule it broke, of each row set aside."""
        self.unseen: dict[str, Counter[str]] = {}
        self.repeated: list[dict[int | str, int]] = []

    @property
    def rows(self) -> int:
        """Rows that kept the contract so far."""
        return self.rows_in - len(self.rejected)

    def batches(self, shares: Sequence[Share]) -> Iterator[pa.RecordBatch]:
        """The rows that keep the contract, typed, with their id."""
        for share in shares:
            row = 0
            for block in sources.blocks(share.piece, self.config.data, types=self.types):
                try:
                    yield self._typed(block, share, row)
                except MemoryError as error:
                    cure = "shorten its cells, or give the run more memory"
                    raise DataError(f"its rows take too much: {error}", share.piece.file.name, cure) from error
                row += len(block)

    def identified(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The rows of one file of the snapshot, unchanged; ids that come twice in it are noted."""
        ids = []
        for batch in batches:
            ids.append(batch.column(self.config.id_column))
            yield batch
        self.repeated.append(repeats(pa.chunked_array(ids)))

    def quarantine(self) -> pa.RecordBatch:
        """The rows set aside, as data."""
        rows = [{"id": name, **asdict(rejected)} for name, rejected in self.rejected]
        return pa.RecordBatch.from_pylist(rows, schema=QUARANTINE)

    def taken(self, parts: Sequence[Part]) -> Taken:
        """What became of the rows."""
        return Taken(
            parts=tuple(parts),
            rows_in=self.rows_in,
            rows=self.rows,
            first_bad=describe(self.rejected[0][1]) if self.rejected else "",
            repeated=tuple(part.path for part, twice in zip(parts, self.repeated, strict=False) if twice),
            unseen={name: dict(counts.most_common(SHOWN)) for name, counts in self.unseen.items()},
        )

    def _typed(self, block: Block, share: Share, row: int) -> pa.RecordBatch:
        file, first, config = share.piece.file.name, share.piece.first or 0, self.config
        positions = block.positions(row)
        places = positions + first
        rule = NOT_AN_OBJECT if sources.format_of(share.piece.file, config.data) == "jsonl" else RAGGED
        self._reject([(None, _ragged(file, first + position, text, rule)) for position, text in block.ragged])
        batch = block.batch
        if not config.role("id"):
            if config.id_column in batch.schema.names:
                raise DataError(f"has a column {config.id_column!r}", file, "declare it, with role = 'id'")
            batch = batch.append_column(config.id_column, pa.array(positions + share.base))
        self.rows_in += len(block)
        applied = apply(
            batch,
            self.columns,
            file=file,
            positions=places,
            untyped=sources.untyped(share.piece.file, config.data, batch.schema.names),
            nan_is_missing=config.data.nan_is_missing,
            time_zone=config.data.time_zone,
            decimal=config.data.decimal,
        )
        self._reject([(self._id(batch, places, it.row), it) for it in applied.rejected])
        for name, counts in applied.unseen.items():
            self.unseen.setdefault(name, Counter()).update(counts)
        self.profile.add(applied.batch)
        return applied.batch

    def _id(self, batch: pa.RecordBatch, places: Any, row: int) -> str | None:
        """The id of a row that was set aside, as text."""
        name = self.config.id_column
        if self.columns[name].secret:
            return REDACTED
        value = batch.column(name)[int(np.searchsorted(places, row))].as_py()
        return None if value is None else str(plain_id(value))[:60]

    def _reject(self, rejected: list[tuple[str | None, Rejected]]) -> None:
        if rejected and self.config.data.on_bad_row == "strict":
            first = rejected[0][1]
            raise DataError(describe(first), first.file, CURE)
        self.rejected += rejected


def _numbered(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The same rows, each batch with the number of the file it goes to: `rows` to each, the last shorter."""
    done = 0
    for batch in batches:
        rest = batch
        while len(rest):
            fitting = rest.slice(0, rows - done % rows)
            yield done // rows, fitting
            done, rest = done + len(fitting), rest.slice(len(fitting))


def _ragged(file: str, position: int, text: str, rule: str) -> Rejected:
    return Rejected(file=file, row=position, column="", rule=rule, value=text[:60])


def describe(it: Rejected) -> str:
    """The row and the rule it broke, in words."""
    column = f", column {it.column!r}" if it.column else ""
    return f"row {it.row:,}{column}: {it.rule}: {it.value!r}"
