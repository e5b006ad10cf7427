"""Python values of a database's driver as Arrow columns: one type each, decided by the values themselves."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import pyarrow as pa

from pipeline.errors import DataError

TYPES: Final[dict[type, pa.DataType]] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
    UUID: pa.string(),
    list: pa.list_(pa.float64()),
    datetime.date: pa.date32(),
    datetime.datetime: pa.timestamp("us"),
    datetime.time: pa.time64("us"),
    datetime.timedelta: pa.duration("us"),
}
ZONED: Final = pa.timestamp("us", "UTC")
DIGITS: Final = 38
CURE: Final = "cast it in data.query"


def typed(values: Sequence[Any], *, name: str, where: str) -> pa.Array:
    """A column of these values, of type null if all are missing. Raises DataError unless all are of one type."""
    kinds = {type(value) for value in values} - {type(None)}
    if len(kinds) > 1:
        raise _clash(name, sorted(kind.__name__ for kind in kinds), where)
    if not kinds:
        return pa.nulls(len(values))
    try:
        return _array(values, kinds.pop(), name, where)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"column {name!r}: {str(error).splitlines()[0]}", where, CURE) from error


def _array(values: Sequence[Any], kind: type, name: str, where: str) -> pa.Array:
    if kind is Decimal:
        return pa.array(values)
    if kind is UUID:
        return pa.array([None if value is None else str(value) for value in values])
    if kind is datetime.datetime:
        zoned = {value.tzinfo is not None for value in values if value is not None}
        if len(zoned) > 1:
            raise _clash(name, ["timestamps with a time zone", "some without"], where)
        return pa.array(values, ZONED if zoned.pop() else TYPES[kind])
    if kind not in TYPES:
        raise DataError(f"column {name!r}: values of type {kind.__name__} are not known", where, CURE)
    return pa.array(values, TYPES[kind])


def widened(name: str, known: pa.DataType, found: pa.DataType, *, where: str) -> pa.DataType:
    """The type of a column whose cells so far are of one type, and whose next are of another.

    Missing cells are of any type; decimals take the digits of both. Raises DataError for anything else.
    """
    if pa.types.is_null(known) or known == found:
        kind = found
    elif pa.types.is_null(found):
        kind = known
    elif pa.types.is_decimal(known) and pa.types.is_decimal(found):
        scale = max(known.scale, found.scale)
        whole = max(known.precision - known.scale, found.precision - found.scale)
        kind = pa.decimal256(whole + scale, scale) if whole + scale > DIGITS else pa.decimal128(whole + scale, scale)
    else:
        raise _clash(name, [str(known), str(found)], where)
    if pa.types.is_decimal(kind) and kind.precision > DIGITS:
        raise DataError(f"column {name!r}: {kind.precision} digits, {DIGITS} at most", where, CURE)
    return kind


def _clash(name: str, kinds: Sequence[str], where: str) -> DataError:
    return DataError(f"column {name!r} mixes {' and '.join(kinds)}", where, CURE)
