"""What a file's columns must be, before a single cell is read: there, told apart, and of a type that fits."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal

import pyarrow as pa

from pipeline.columns import ColumnConfig
from pipeline.errors import DataError
from pipeline.schema.kinds import arrow_type, is_list, stored, taken, type_name

NAMED: Final = 20
"""Columns that an error lists."""
TYPE_SHOWN: Final = 60
VECTORS: Final = "keep vectors as lists, in Parquet, Arrow IPC, npy or JSON lines"
ZONES: Final = "declare data.time_zone, such as 'UTC' or 'Europe/Zurich'"


def check(
    found: pa.Schema,
    columns: Mapping[str, ColumnConfig],
    *,
    file: str,
    untyped: Collection[str] = (),
    time_zone: str = "",
    extra: Literal["ignore", "refuse"] = "ignore",
) -> None:
    """Raise DataError, naming the file, the column, both types and the cure, if the contract cannot hold for the file.

    The file's type is the declared one, or one that the table of widenings leads from; `untyped` columns need only be
    of a shape that can be read.
    """
    check_names(found.names, columns, file=file, extra=extra)
    for name in found.names:
        if name in columns and columns[name].role != "ignore":
            _check_type(found.field(name), columns[name], file=file, text=name in untyped, time_zone=time_zone)


def check_unique(names: Sequence[str], *, file: str) -> None:
    """Raise DataError for two columns of one name, or of names that differ only in case."""
    seen: dict[str, str] = {}
    for name in names:
        if (folded := name.casefold()) in seen:
            same = f"two columns are named {name!r}"
            alike = f"columns {seen[folded]!r} and {name!r} differ only in case"
            raise DataError(same if seen[folded] == name else alike, file, "rename one of them")
        seen[folded] = name


def check_names(
    found: Sequence[str],
    columns: Mapping[str, ColumnConfig],
    *,
    file: str,
    extra: Literal["ignore", "refuse"] = "ignore",
) -> None:
    """Raise DataError for columns that cannot be told apart, for a missing one and, if so told, for one too many."""
    check_unique(found, file=file)
    strange = [name for name in found if name not in columns]
    if strange and extra == "refuse":
        told = _listed([repr(name) for name in strange])
        raise DataError(f"columns that nobody declared: {told}", file, "declare them, if only with role = 'ignore'")
    for name, column in columns.items():
        if column.role != "ignore" and name not in found:
            _check_absent(name, column, found, strange, file=file)


def _check_absent(name: str, column: ColumnConfig, found: Sequence[str], strange: list[str], *, file: str) -> None:
    """An optional column may be absent, unless there is one that differs by case alone."""
    alike = [it for it in strange if it.casefold().strip() == name.casefold().strip()]
    if column.optional and not alike:
        return
    close = alike or difflib.get_close_matches(name, strange, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise DataError(f"column {name!r} is missing; found: {_listed(found)}", file, f"{meant}rename it under [columns]")


def _check_type(field: pa.Field, column: ColumnConfig, *, file: str, text: bool, time_zone: str) -> None:
    wanted = arrow_type(column.type, column=field.name)
    if field.type.equals(wanted) or pa.types.is_null(field.type):
        return
    what = f"column {field.name!r} is {_shown(field.type)}"
    found, vector = stored(field.type), pa.types.is_fixed_size_list(wanted)
    name = type_name(found)
    if name is None and not (vector and is_list(found)):
        raise DataError(what, file, f"flatten it, or declare role = 'ignore' under columns.{field.name}")
    if vector and not is_list(found):
        raise DataError(f"{what}, not {column.type}", file, VECTORS)
    if pa.types.is_timestamp(wanted) and pa.types.is_timestamp(found) and not (found.tz or time_zone):
        raise DataError(f"{what}, without a time zone", file, ZONES)
    if text and pa.types.is_duration(wanted) and pa.types.is_string(found):
        raise DataError(f"{what}, which tells no duration", file, "declare a number, and its unit")
    if not text and not taken(found, wanted):
        cure = f"declare type = {name!r} under columns.{field.name}, or " if name else ""
        raise DataError(f"{what}, which does not widen to {column.type}", file, f"{cure}convert it in its file")


def _shown(kind: pa.DataType) -> str:
    """By the name in TOML where that says it all."""
    name = type_name(kind)
    return name if name and kind.equals(arrow_type(name)) else str(kind)[:TYPE_SHOWN]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    shown = [name if name.isprintable() else repr(name) for name in names[:NAMED]]
    return ", ".join(shown) + more
