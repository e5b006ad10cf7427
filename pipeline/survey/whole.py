"""What is known of a table once all of its rows were seen: a contract to begin with, and a remark for each column."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipeline import sources
from pipeline.columns import CALENDAR, TYPE, UNMODELLED, ColumnConfig
from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.schema.cells import Reading
from pipeline.schema.layout import check_unique
from pipeline.survey.observed import ID, Observed, observed
from vae.config import LikelihoodName

MAX_CATEGORIES: Final = 1000
"""Text of more distinct values is names rather than categories."""
LISTED: Final = 100
"""Categories that a contract lists."""
MEMORY_BYTES: Final = 512 << 20
"""Of all distinct values; beyond, those of the column with the most are given up."""
EXACT: Final = 1 << 24
"""Whole numbers up to here are themselves in float32, which is what a model is given."""


def surveyed(data: Data, *, workspace: Path | None = None) -> Survey:
    """All rows of a source. Raises DataError if it cannot be read, or if its files do not go together."""
    survey = Survey(reading=Reading(time_zone=data.time_zone, decimal=data.decimal))
    for file in sources.files(data, workspace=workspace or Path("workspace").absolute()):
        for piece in sources.cut(file, data).pieces:
            for block in sources.blocks(piece, data):
                survey.add(block.batch, file=file.name, text=sources.untyped(file, data, block.batch.schema.names))
    return survey


def modelled(columns: Mapping[str, ColumnConfig], *, where: str) -> dict[str, ColumnConfig]:
    """The columns, if nobody has to decide about one first. Raises DataError for one of a type that no row may hold."""
    for name, column in columns.items():
        if column.type != "null" and not TYPE.fullmatch(column.type):
            cure = f"flatten it, or declare role = 'ignore' under columns.{name}"
            raise DataError(f"column {name!r} is {column.type}", where, cure)
    return dict(columns)


@dataclass
class Survey:
    """A table, so far."""

    reading: Reading = field(default_factory=Reading)
    rows: int = 0
    seen: dict[str, Observed] = field(default_factory=dict)
    files: dict[str, frozenset[str]] = field(default_factory=dict)
    """Names of the columns of each."""

    def add(self, batch: pa.RecordBatch, *, file: str, text: Collection[str] = ()) -> None:
        """Rows of a file, which gives no type to the columns in `text`. Raises DataError as `merge` does."""
        names = batch.schema.names
        other = Survey(rows=len(batch), files={file: frozenset(names)})
        for name, array in zip(names, batch.columns, strict=True):
            other.seen[name] = observed(name, array, file=file, text=name in text, reading=self.reading)
        self.merge(other)

    def merge(self, other: Survey) -> None:
        """Add what another saw. Raises DataError, naming both files, if a column of theirs cannot be one."""
        self.rows += other.rows
        if not other.seen.keys() <= self.seen.keys():
            check_unique([*{**self.seen, **other.seen}], file=min(other.files))
        for file, names in other.files.items():
            self.files[file] = names | self.files.get(file, names)
        for name, column in other.seen.items():
            self.seen.setdefault(name, Observed(name=name)).merge(column)
        counted = sorted((it.distinct for it in self.seen.values()), key=lambda it: it.bytes)
        while sum(it.bytes for it in counted) > MEMORY_BYTES:
            counted.pop().lose()

    def columns(self) -> dict[str, ColumnConfig]:
        """A contract that all rows keep."""
        identity = next((name for name, column in self.seen.items() if self._names_rows(column)), None)
        return {name: self._config(column, is_id=name == identity) for name, column in self.seen.items()}

    def remarks(self) -> dict[str, str]:
        """What was seen of each column, for a comment."""
        return {name: self._remark(column) for name, column in self.seen.items()}

    @property
    def nan(self) -> bool:
        """Whether there is any NaN."""
        return any(column.nan for column in self.seen.values())

    def _absent(self, name: str) -> int:
        """Files without the column."""
        return sum(name not in names for names in self.files.values())

    def _names_rows(self, column: Observed) -> bool:
        """Whether it is named like an id, and each row has one of its own."""
        kept = re.fullmatch("u?int32|u?int64|string|binary", column.kind) is not None
        return bool(ID.fullmatch(column.name)) and kept and column.count == self.rows

    def _config(self, column: Observed, *, is_id: bool) -> ColumnConfig:
        if is_id:
            return ColumnConfig(type=column.kind, role="id")
        nullable = bool(column.missing or column.rows < self.rows or column.nan)
        if not TYPE.fullmatch(column.kind) or column.count == 1:
            return ColumnConfig(type=column.kind or "null", role="ignore", nullable=nullable)
        settings: dict[str, Any] = {"nullable": nullable, "optional": self._absent(column.name) > 0}
        if (likelihood := _likelihood(column)) is None:
            return ColumnConfig(type=column.kind, role="passthrough", **settings)
        listed = likelihood == "categorical" or (likelihood == "bernoulli" and not column.kind.startswith("bool"))
        values = column.values if listed and (column.count or 0) <= LISTED else []
        return ColumnConfig(type=column.kind, likelihood=likelihood, categories=tuple(values), **settings)

    def _remark(self, column: Observed) -> str:
        if not column.kind:
            return "no value at all"
        found = [column.extremes, _counted(column), f"{column.missing:,} missing" if column.missing else ""]
        if absent := self._absent(column.name):
            found.append(f"absent in {absent:,} of {len(self.files):,} files")
        return ", ".join(filter(None, [*found, _advice(column)]))


def _counted(column: Observed) -> str:
    if column.lengths:
        return "vectors" if TYPE.fullmatch(column.kind) else ""
    if column.count is not None:
        return f"{column.count:,} distinct"
    return "" if column.extremes or not TYPE.fullmatch(column.kind) else "too many distinct to count"


def _advice(column: Observed) -> str:
    """What its author may want to do about it."""
    if column.count == 1:
        return "constant"
    if column.lengths and not TYPE.fullmatch(column.kind):
        each = f" of {min(column.lengths)} each" if len(column.lengths) == 1 else ""
        return f"lists{each}: flatten them, or declare a vector"
    if not TYPE.fullmatch(column.kind):
        return "flatten it to model it"
    if column.local:
        return "times of no zone: declare data.time_zone and type = 'timestamp'"
    beyond = column.low is not None and "int" in column.kind and max(-column.low, column.high) > EXACT
    return "rounded for the model, which has 24 bits" if beyond and _likelihood(column) == "gaussian" else ""


def _likelihood(column: Observed) -> LikelihoodName | None:
    """The distribution to begin with; None for a column that is not modelled."""
    few = column.count is not None and column.count <= MAX_CATEGORIES
    if column.kind in (*UNMODELLED, *CALENDAR, "duration"):
        return None
    if column.kind.startswith("bool") or (few and set(column.values) in ({0, 1}, {"0", "1"})):
        return "bernoulli"
    if column.kind == "string":
        return "categorical" if few and not column.local else None
    return "gaussian"
