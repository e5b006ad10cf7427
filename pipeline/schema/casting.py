"""One column as its declared type, and the rows whose cells have no way there."""

from __future__ import annotations

from datetime import date, datetime
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema.cells import Broken, Mask, Reading, mask, plain, scalars
from pipeline.schema.instants import instants
from pipeline.schema.kinds import INSTANT, NAIVE, is_list, type_name

AS_IT_IS: Final = Reading()
BEYOND: Final = "beyond the years 1 to 9999"
YEARS: Final[dict[pa.DataType, tuple[pa.Scalar, pa.Scalar]]] = {
    pa.date32(): (pa.scalar(date.min), pa.scalar(date.max)),
    INSTANT: (pa.scalar(datetime.min, NAIVE).cast(INSTANT), pa.scalar(datetime.max, NAIVE).cast(INSTANT)),
}
"""What calendars hold, Python's among them."""


def cast(array: pa.Array, kind: pa.DataType, *, nullable: bool, reading: Reading = AS_IT_IS) -> tuple[pa.Array, Broken]:
    """The array as `kind`, and for each broken rule the rows that break it. Cells of broken rows mean nothing."""
    if pa.types.is_fixed_size_list(kind):
        typed, broken = _vectors(array, kind, reading)
    elif pa.types.is_timestamp(kind) and not array.type.equals(kind):
        typed, broken = instants(array, reading.time_zone)
    else:
        typed, broken = scalars(array, kind, reading)
    if kind in YEARS:
        broken[BEYOND] = _beyond(typed, *YEARS[kind])
    if not nullable:
        missing = _missing(typed)
        for rows in broken.values():
            missing &= ~rows
        broken["missing"] = missing
    return typed, {rule: rows for rule, rows in broken.items() if rows.any()}


def elements(array: pa.Array) -> pa.Array:
    """The cells of vectors that `cast` returned, one after the other; other columns as they are."""
    return array.flatten() if pa.types.is_fixed_size_list(array.type) else array


def _missing(typed: pa.Array) -> Mask:
    """Which rows are null, or hold one."""
    flat = elements(typed)
    if flat.null_count == 0:
        return np.zeros(len(typed), dtype=bool)
    return by_row(mask(pc.is_null(flat)), len(typed))


def by_row(flat: Mask, rows: int) -> Mask:
    """Which rows hold an element for which it is true."""
    return np.asarray(flat.reshape(rows, len(flat) // max(rows, 1)).any(axis=1))


def _beyond(typed: pa.Array, first: pa.Scalar, last: pa.Scalar) -> Mask:
    return mask(pc.or_(pc.less(typed, first), pc.greater(typed, last)))


def _vectors(array: pa.Array, kind: pa.DataType, reading: Reading) -> tuple[pa.Array, Broken]:
    """Lists of the declared length; a missing one is a vector of missing numbers.

    pyarrow < 26 cannot read the null of a fixed-size list (apache/arrow#35692).
    """
    array = plain(array)
    valid = mask(pc.is_valid(array))
    if not is_list(array.type):
        return _placed(pa.nulls(0, kind.value_type), np.zeros_like(valid), kind), {f"not {type_name(kind)}": valid}
    right = pc.fill_null(pc.list_value_length(array), -1).to_numpy() == kind.list_size
    whole = array if right.all() else array.filter(pa.array(right))
    flat, unfit = scalars(whole.flatten(), kind.value_type, reading)
    broken = {f"length is not {kind.list_size}": valid & ~right}
    for rule, found in unfit.items():
        rows = broken[rule] = np.zeros(len(array), dtype=bool)
        rows[right] = by_row(found, len(whole))
    return _placed(flat, right, kind), broken


def _placed(flat: pa.Array, right: Mask, kind: pa.DataType) -> pa.Array:
    """Vectors of the elements in the rows that are `right`, and of missing numbers in the others."""
    if not right.all():
        index = np.full((len(right), kind.list_size), -1, dtype=np.int64)
        index[right] = np.arange(len(flat)).reshape(-1, kind.list_size)
        flat = flat.take(pa.array(index.ravel(), mask=index.ravel() < 0))
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)
