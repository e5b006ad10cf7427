"""What a row must be: the columns of a table, and the rules that each cell is held to.

A cell that breaks a rule is never altered; its row is handed back as `Rejected`, with the rule and the value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.columns import ColumnConfig
from pipeline.config import RunConfig
from pipeline.schema import rules
from pipeline.schema.casting import cast as cast
from pipeline.schema.cells import Reading, plain
from pipeline.schema.kinds import arrow_type as arrow_type
from pipeline.schema.layout import check

VALUE_SHOWN: Final = 60
REDACTED: Final = "***"


def table_schema(config: RunConfig) -> pa.Schema:
    """The columns of the prepared table: the id first, then features and passthrough columns."""
    kept = config.role("id", "feature", "passthrough")
    fields = [pa.field(name, arrow_type(it.type, column=name), nullable=it.nullable) for name, it in kept.items()]
    if not config.role("id"):
        fields = [pa.field(config.id_column, pa.int64(), nullable=False), *fields]
    return pa.schema(sorted(fields, key=lambda it: it.name != config.id_column))


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A row that broke the contract, and why."""

    file: str
    row: int
    """Position among the file's data rows, from 0."""
    column: str
    rule: str
    value: str
    """Shortened; `***` of a secret column."""


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What became of a batch."""

    batch: pa.RecordBatch
    """The rows that keep the contract, typed."""
    rejected: list[Rejected]
    """The others, in their order: each once, by its first broken column."""
    unseen: dict[str, Counter[str]] = field(default_factory=dict)
    """How often each value came that its column's categories do not list, among the rows kept."""


def apply(
    batch: pa.RecordBatch,
    columns: Mapping[str, ColumnConfig],
    *,
    file: str,
    positions: Sequence[int] | npt.NDArray[np.int64],
    untyped: Collection[str] = (),
    nan_is_missing: bool = False,
    time_zone: str = "",
    decimal: str = ".",
    extra: Literal["ignore", "refuse"] = "ignore",
) -> Applied:
    """Type the declared columns of a batch; hand back the rows that fit and, apart, those that do not.

    `positions` says where each row stands in its file. `untyped` names the columns to which the file gives no type of
    its own: all of a CSV's and of JSON lines', and partition keys; of those each cell is tried. `time_zone` is that of
    timestamps that carry none, `decimal` the decimal mark of text. Raises DataError, as `layout.check` does, for a
    batch that is wrong as a whole.
    """
    check(batch.schema, columns, file=file, untyped=untyped, time_zone=time_zone, extra=extra)
    reading = Reading(nan_is_missing=nan_is_missing, time_zone=time_zone, decimal=decimal)
    arrays, rejected = {}, dict[int, Rejected]()
    for name, column in columns.items():
        if column.role == "ignore":
            continue
        source = batch.column(name) if name in batch.schema.names else pa.nulls(len(batch))
        arrays[name], broken = _typed(source, column, reading)
        for row, rule in broken.items():
            if row not in rejected:
                value = REDACTED if column.secret else _shown(source, row)
                rejected[row] = Rejected(file=file, row=int(positions[row]), column=name, rule=rule, value=value)
    typed = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    if rejected:
        keep = np.ones(len(batch), dtype=bool)
        keep[list(rejected)] = False
        typed = typed.filter(pa.array(keep))
    return Applied(batch=typed, rejected=[rejected[row] for row in sorted(rejected)], unseen=_unseen(typed, columns))


def _typed(array: pa.Array, column: ColumnConfig, reading: Reading) -> tuple[pa.Array, dict[int, str]]:
    """The cells as declared, and the first rule that a row breaks."""
    typed, broken = cast(array, arrow_type(column.type), nullable=column.nullable, reading=reading)
    broken |= rules.broken_by(typed, column)
    return typed, {row: rule for rule in reversed(broken) for row in np.flatnonzero(broken[rule]).tolist()}


def _unseen(typed: pa.RecordBatch, columns: Mapping[str, ColumnConfig]) -> dict[str, Counter[str]]:
    listed = {name: columns[name] for name in typed.schema.names if columns[name].categories}
    found = {name: rules.unseen(typed.column(name), column) for name, column in listed.items()}
    for name, counts in found.items():
        if listed[name].secret:
            found[name] = Counter({REDACTED: counts.total()})
    return {name: counts for name, counts in found.items() if counts}


def _shown(array: pa.Array, row: int) -> str:
    """A cell as text, shortened."""
    cell = plain(array.slice(row, 1))[0]
    if pa.types.is_string(cell.type) and cell.is_valid:
        return str(cell.as_buffer().to_pybytes().decode(errors="replace"))[:VALUE_SHOWN]
    try:
        return str(cell.as_py())[:VALUE_SHOWN]
    except (ValueError, OverflowError):  # Python has no year 10,000, and what Arrow then prints is not the value
        return f"{cell.value} of {cell.type}"
