"""A row by its id: typed as its column is, and found in the files that can hold it, no others opened."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.parts import opened, plain_id
from pipeline.stores.remote import Location

HEX: Final = re.compile(r"(0x)?([0-9a-fA-F]{2})+")


@dataclass(frozen=True)
class Place:
    """Where a row lies."""

    file: str
    row: int
    """From 0, in the file."""
    group: int
    """Its row group, from 0."""
    table: pa.Table
    """The row itself."""


def typed(text: str, kind: pa.DataType) -> Any:
    r"""An id as its column holds it. Raises DataError, naming the type, for a text that is none.

    >>> typed("7", pa.int64()), typed("7", pa.string()), typed("0x00ff", pa.binary())
    (7, '7', b'\x00\xff')
    """
    if pa.types.is_integer(kind):
        if re.fullmatch(r"[+-]?\d+", text.strip()):
            return int(text)
        raise DataError(f"{text!r} is no id here: ids are {kind}", cure="give a whole number")
    if not pa.types.is_binary(kind):
        return text
    try:
        return UUID(text).bytes if "-" in text else bytes.fromhex(_digits(text))
    except ValueError:
        raise DataError(f"{text!r} is no id here: ids are {kind}", cure="give hexadecimal digits, or a UUID") from None


def rows(path: Location, id_column: str, wanted: Sequence[Any]) -> Iterator[Place]:
    """The rows of a file with one of these ids; a row group is read only if its range of ids holds one."""
    values = sorted(wanted)
    with opened(path) as file:
        kind = file.schema_arrow.field(id_column).type
        ids = pa.array([it for it in values if _fits(it, kind)], kind)
        first = 0
        for group in range(file.metadata.num_row_groups):
            facts = file.metadata.row_group(group)
            if len(ids) and _within(facts, id_column, values):
                found = pc.is_in(file.read_row_group(group, columns=[id_column]).column(0), value_set=ids)
                if places := pc.indices_nonzero(found).to_pylist():
                    table = file.read_row_group(group).take(places)
                    for index, place in enumerate(places):
                        yield Place(path.name, first + place, group, table.slice(index, 1))
            first += facts.num_rows


def can_hold(parts: Sequence[Mapping[str, Any]], id: Any) -> list[Mapping[str, Any]]:
    """The files whose range of ids holds this one; of those without a range, all."""
    told = plain_id(id)
    return [it for it in parts if it["rows"] and (it.get("id_min") is None or it["id_min"] <= told <= it["id_max"])]


def nearest(directory: Location, parts: Sequence[Mapping[str, Any]], id_column: str, id: Any) -> list[Any]:
    """The ids next below and above one that is not there."""
    told = plain_id(id)
    ends = [it[name] for it in parts for name in ("id_min", "id_max") if it.get(name) is not None]
    below, above = [it for it in ends if it < told], [it for it in ends if it > told]
    for part in can_hold(parts, id):
        with opened(directory / part["path"]) as file:
            for group in range(file.metadata.num_row_groups):
                ids = file.read_row_group(group, columns=[id_column]).column(0)
                wanted = pa.scalar(id, ids.type)
                below += _ends(ids.filter(pc.less(ids, wanted)), "max")
                above += _ends(ids.filter(pc.greater(ids, wanted)), "min")
    return [*([max(below)] if below else []), *([min(above)] if above else [])]


def _ends(ids: pa.ChunkedArray, which: str) -> list[Any]:
    return [plain_id(pc.min_max(ids)[which].as_py())] if len(ids) else []


def _digits(text: str) -> str:
    if not HEX.fullmatch(text):
        raise ValueError(text)
    return text.removeprefix("0x")


def _fits(id: Any, kind: pa.DataType) -> bool:
    try:
        pa.scalar(id, kind)
    except (pa.ArrowException, OverflowError):
        return False
    return True


def _within(group: pq.RowGroupMetaData, id_column: str, values: Sequence[Any]) -> bool:
    """Whether one of the sorted values lies in the group's range of ids; yes if it states none."""
    columns = (group.column(index) for index in range(group.num_columns))
    statistics = next(it for it in columns if it.path_in_schema == id_column).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    at = bisect_left(values, statistics.min)
    return at < len(values) and bool(values[at] <= statistics.max)
