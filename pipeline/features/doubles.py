"""Cells of a column as float64, and float64 as cells of its type: nothing of what a model makes of them.

A number is itself, a date the days since 1970-01-01, a timestamp the seconds since then in UTC, a time of day those
since midnight, a duration its seconds.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbers = npt.NDArray[np.float64]
DAY: Final = 86_400.0
YEAR: Final = 365.2425
"""Days of a mean year of the calendar."""
TICKS: Final = 1_000_000
"""Of a timestamp, time or duration in a second."""
FIRST, LAST = (int(np.datetime64(day).astype(int)) for day in ("0001-01-01", "9999-12-31"))
"""Days since 1970-01-01 of the first and the last date that Python knows."""
LONGEST: Final = float(np.nextafter(2.0**63, 0))
"""Microseconds of a duration, at most."""


def elements(array: pa.Array, width: int) -> pa.Array:
    """A column's cells one after the other, `width` to a row; a missing vector is `width` missing cells."""
    if not pa.types.is_fixed_size_list(array.type):
        return array
    if array.null_count == 0:
        return array.flatten()
    index = np.full((len(array), width), -1, dtype=np.int64)
    present = pc.is_valid(array).to_numpy(zero_copy_only=False)
    index[present] = np.arange(present.sum() * width).reshape(-1, width)
    return array.flatten().take(pa.array(index.ravel(), mask=index.ravel() < 0))


def comparable(cells: pa.Array) -> pa.Array:
    """Cells as values that count as categories: floats in double precision, and zero without a sign."""
    if pa.types.is_floating(cells.type):
        return pc.add(cells.cast(pa.float64()), 0.0)
    return cells


def to_doubles(cells: pa.Array) -> Numbers:
    """Numbers, dates and times as float64; NaN where missing."""
    kind = cells.type
    if pa.types.is_temporal(kind):
        cells = cells.cast(pa.int32() if pa.types.is_date(kind) else pa.int64())
    doubles: Numbers = cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return doubles / ticks(kind) if pa.types.is_temporal(kind) else doubles


def to_cells(doubles: Numbers, kind: pa.DataType) -> pa.Array:
    """Cells of a type, each held within the type's range; whole ones are rounded."""
    if pa.types.is_floating(kind):
        dtype = kind.to_pandas_dtype()
        real = np.finfo(dtype)
        return pa.array(np.clip(doubles, real.min, real.max).astype(dtype), kind)
    low, high, dtype = _range(kind)
    return pa.array(np.clip((doubles * ticks(kind)).round(), low, high).astype(dtype)).cast(kind)


def ticks(kind: pa.DataType) -> int:
    """Steps of a whole type in the unit of its float64."""
    return TICKS if pa.types.is_temporal(kind) and not pa.types.is_date(kind) else 1


def periods(kind: pa.DataType) -> tuple[float, ...]:
    """Periods of the calendar that cells of a type have: day, week, year, in the unit of its float64."""
    if pa.types.is_timestamp(kind):
        return (DAY, 7 * DAY, YEAR * DAY)
    if pa.types.is_date(kind):
        return (7.0, YEAR)
    return (DAY,) if pa.types.is_time(kind) else ()


def tiny(kind: pa.DataType) -> float:
    """The smallest positive number of a type: of a floating one at full precision."""
    return float(np.finfo(kind.to_pandas_dtype()).tiny) if pa.types.is_floating(kind) else 1 / ticks(kind)


def _range(kind: pa.DataType) -> tuple[float, float, Any]:
    """Least and largest whole number of a type, such that float64 cannot round beyond it, and NumPy's type of both."""
    if pa.types.is_date(kind):
        return FIRST, LAST, np.int32
    if pa.types.is_timestamp(kind):
        return FIRST * DAY * TICKS, (LAST + 1) * DAY * TICKS - 64, np.int64
    if pa.types.is_time(kind):
        return 0, DAY * TICKS - 1, np.int64
    if pa.types.is_duration(kind):
        return -LONGEST, LONGEST, np.int64
    dtype = kind.to_pandas_dtype()
    whole = np.iinfo(dtype)
    return whole.min, np.nextafter(float(whole.max), 0) if kind.bit_width == 64 else whole.max, dtype
