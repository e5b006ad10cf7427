"""What was seen of one column: its type, its extremes, its distinct values; the same in whatever pieces it was seen."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.schema.casting import by_row
from pipeline.schema.cells import FAILURES, Reading, mask, plain, pointed
from pipeline.schema.instants import instants
from pipeline.schema.kinds import NAIVE, SCALARS, common, is_list, type_name
from pipeline.survey.distinct import Distinct

ID: Final = re.compile(r"(.*_)?(id|uuid|key)", re.IGNORECASE)
COUNTED, COUNTED_IDS = 10_000, 1_000_000
"""Distinct values beyond are not counted; of a column named like an id more are, to know whether they name the rows."""
SAYABLE: Final = ("int64", "float64", "bool", "date", "timestamp")
"""Types that text may be found to say, narrowest first."""
LOCAL: Final = "local"
"""What times say that have no zone, where none is declared."""
CODE: Final = r"^[+-]?0[\dxX]"
"""01234 and 0x1F are codes, not numbers."""
MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d")
HEAD: Final = 16
"""Cells that are tried before all are: a cast that fails is slow."""
TYPE_SHOWN: Final = 60


@dataclass
class Observed:
    """One column, so far."""

    name: str
    said: frozenset[str] | None = None
    """Types that all text says; None: no text was seen."""
    typed: str = ""
    """The type that all typed files widen to, or Arrow's name for one that TOML has not."""
    said_in: str = ""
    typed_in: str = ""
    """A file with text, and one with cells of a type."""
    rows: int = 0
    missing: int = 0
    """Rows of them without a value, or with a vector that lacks one."""
    nan: bool = False
    low: Any = None
    high: Any = None
    lengths: frozenset[int] = frozenset()
    """Of lists; no more than two are kept."""
    distinct: Distinct = field(init=False)

    def __post_init__(self) -> None:
        self.distinct = Distinct(COUNTED_IDS if ID.fullmatch(self.name) else COUNTED)

    @property
    def kind(self) -> str:
        """The narrowest type that holds all cells; empty if there were none. Raises DataError as `merge` does."""
        if self.said is None:
            return self.typed
        told = next((name for name in SAYABLE if name in self.said), "string")
        return _wider(self.name, (told, self.said_in), (self.typed, self.typed_in)) if self.typed else told

    @property
    def count(self) -> int | None:
        """How many distinct values there are; None: none, or too many to know."""
        return None if (values := self.distinct.values) is None else len(values)

    @property
    def values(self) -> list[Any]:
        """Its distinct values, sorted, as its type has them; none if there are too many."""
        values = self.distinct.values
        return [] if values is None else sorted(set(values.cast(SCALARS[self.kind]).to_pylist()))

    @property
    def local(self) -> bool:
        """Whether it is text that says times without a zone, and none is declared."""
        return self.kind == "string" and LOCAL in (self.said or ())

    @property
    def extremes(self) -> str:
        """In words; empty if it has none."""
        if self.low is None or self.kind in ("string", "bool"):
            return ""
        low, high = (f"{it:g}" if isinstance(it, float) else str(it) for it in (self.low, self.high))
        return f"{low} .. {high}"

    def merge(self, other: Observed) -> None:
        """Add what another saw. Raises DataError, naming both files and types, if no type holds the cells of both."""
        self.typed = _wider(self.name, (self.typed, self.typed_in), (other.typed, other.typed_in))
        self.typed_in, self.said_in = self.typed_in or other.typed_in, self.said_in or other.said_in
        if other.said is not None:
            self.said = other.said if self.said is None else self.said & other.said
        self.rows, self.missing = self.rows + other.rows, self.missing + other.missing
        self.nan = self.nan or other.nan
        self.low, self.high = _extreme(min, self.low, other.low), _extreme(max, self.high, other.high)
        self.lengths = frozenset(sorted(self.lengths | other.lengths)[:2])
        self.distinct.merge(other.distinct)


def observed(name: str, array: pa.Array, *, file: str, text: bool, reading: Reading) -> Observed:
    """What some cells of a file show; `text`: the file gives the column no type."""
    array = plain(array)
    cells = array.drop_null()
    seen = Observed(name=name, rows=len(array), missing=len(array) - len(cells))
    if not len(cells):
        return seen
    if text and pa.types.is_string(cells.type):
        says = _said(cells, reading)
        seen.said, seen.said_in = frozenset(says), file
        _add_values(seen, cells, next(iter(says.values()), cells))
        return seen
    seen.typed, seen.typed_in = type_name(cells.type) or str(cells.type)[:TYPE_SHOWN], file
    if is_list(cells.type):
        _add_lists(seen, cells)
    elif type_name(cells.type) is None:
        seen.distinct.lose()
    else:
        _add_values(seen, cells, cells)
    return seen


def _wider(name: str, one: tuple[str, str], other: tuple[str, str]) -> str:
    """Of two types and where they were seen."""
    if not one[0] or not other[0]:
        return one[0] or other[0]
    if (both := common(one[0], other[0])) is None:
        what = f"column {name!r} is {other[0]}, but {one[0]} in {one[1]}"
        raise DataError(what, other[1], "convert one of them, or read them as two tables")
    return both


def _extreme(pick: Callable[..., Any], one: Any, other: Any) -> Any:
    """Of a number and a time there is none that counts: no type holds both."""
    if one is None or other is None:
        return other if one is None else one
    return pick(one, other) if type(one) is type(other) else one


def _said(cells: pa.Array, reading: Reading) -> dict[str, pa.Array]:
    """The types that each cell says, and the cells as these."""
    tried = {"int64": cells, "float64": pointed(cells, reading.decimal), "bool": cells, "date": cells}
    found = {name: values for name, text in tried.items() if (values := _as(text, SCALARS[name])) is not None}
    if {"int64", "float64"} & found.keys() and pc.any(pc.match_substring_regex(cells, CODE)).as_py():
        found = {name: values for name, values in found.items() if name not in ("int64", "float64")}
    if MOMENT.match(cells[0].as_py()):
        values, broken = instants(cells, reading.time_zone)
        local = None if reading.time_zone or not broken else _as(cells, NAIVE)
        found |= {"timestamp": values} if not broken else {LOCAL: local} if local is not None else {}
    return found


def _as(cells: pa.Array, kind: pa.DataType) -> pa.Array | None:
    try:
        cells.slice(0, HEAD).cast(kind)
        return cells.cast(kind)
    except FAILURES:
        return None


def _add_values(seen: Observed, cells: pa.Array, values: pa.Array) -> None:
    """Extremes of the values, and the distinct cells as they were found."""
    cells, values = (it.cast(pa.float32()) if pa.types.is_float16(it.type) else it for it in (cells, values))
    seen.nan = _has_nan(values)
    seen.distinct.add(cells.filter(pc.invert(pc.is_nan(values))) if seen.nan else cells)
    if pa.types.is_date(values.type) or pa.types.is_timestamp(values.type):
        moments = values.to_numpy(zero_copy_only=False)
        seen.low, seen.high = moments.min(), moments.max()
    elif pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        ends = pc.min_max(values)
        seen.low, seen.high = float(ends["min"].as_py()), float(ends["max"].as_py())


def _add_lists(seen: Observed, cells: pa.Array) -> None:
    """How long they are, and how many have a hole."""
    seen.distinct.lose()
    seen.lengths = frozenset(pc.unique(pc.list_value_length(cells)).to_pylist()[:2])
    flat = plain(cells.flatten())
    if flat.null_count and len(seen.lengths) == 1:
        seen.missing += int(by_row(mask(pc.is_null(flat)), len(cells)).sum())
    seen.nan = _has_nan(flat)


def _has_nan(values: pa.Array) -> bool:
    return bool(pa.types.is_floating(values.type) and pc.any(pc.is_nan(values), min_count=0).as_py())
