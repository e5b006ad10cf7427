"""What a cell's value must be, beyond its type: within its range, one of its levels or ranks, a known category."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import ColumnConfig
from pipeline.schema.casting import by_row, elements
from pipeline.schema.cells import Broken, mask


def broken_by(array: pa.Array, column: ColumnConfig) -> Broken:
    """For each rule of the column the rows that break it. Missing cells break none."""
    if not (column.range or column.levels or column.order):
        return {}
    flat, rules = elements(array), dict[str, pa.BooleanArray | None]()
    lowest, highest = (_rounded(bound, flat.type) for bound in column.range or (0, 0))
    flat = flat.cast(pa.float32()) if pa.types.is_float16(flat.type) else flat
    if column.range:
        low, high = map(_told, column.range)
        rules = {f"below {low}": _below(flat, lowest), f"above {high}": _above(flat, highest)}
    if column.levels:
        rules[f"no level from 0 to {column.levels - 1}"] = _no_level(flat, column)
    if column.order:
        rules["not in its order"] = pc.invert(_among(flat, column.order))
    broken = {rule: wrong for rule, wrong in rules.items() if wrong is not None and pc.any(wrong, min_count=0).as_py()}
    return {rule: by_row(mask(wrong), len(array)) for rule, wrong in broken.items()}


def unseen(array: pa.Array, column: ColumnConfig) -> Counter[str]:
    """How often each value comes that the column's categories do not list."""
    if not column.categories:
        return Counter()
    flat = elements(array)
    counts = pc.value_counts(flat.filter(pc.invert(_among(flat, column.categories))))
    values, numbers = (counts.field(name).to_pylist() for name in ("values", "counts"))
    return Counter(dict(zip(map(str, values), numbers, strict=True)))


def _among(flat: pa.Array, values: Sequence[Any]) -> pa.BooleanArray:
    """Null where a cell is missing."""
    found = pc.is_in(flat, value_set=pa.array(values, flat.type))
    return pc.if_else(pc.is_valid(flat), found, None) if flat.null_count else found


def _no_level(flat: pa.Array, column: ColumnConfig) -> pa.BooleanArray | None:
    wrong = [_below(flat, 0), _above(flat, column.levels - 1)]
    if pa.types.is_floating(flat.type) and column.binarise == "none":
        wrong.append(pc.not_equal(flat, pc.floor(flat)))
    return reduce(pc.or_, found) if (found := [it for it in wrong if it is not None]) else None


def _below(flat: pa.Array, low: float) -> pa.BooleanArray | None:
    """Which cells are; None: none is."""
    if not pa.types.is_integer(flat.type):
        return pc.less(flat, pa.scalar(low, flat.type))
    if (least := pc.min(flat).as_py()) is None or least >= low:
        return None
    highest = np.iinfo(flat.type.to_pandas_dtype()).max
    return pc.less_equal(flat, pa.scalar(min(math.ceil(low) - 1, int(highest)), flat.type))


def _above(flat: pa.Array, high: float) -> pa.BooleanArray | None:
    if not pa.types.is_integer(flat.type):
        return pc.greater(flat, pa.scalar(high, flat.type))
    if (most := pc.max(flat).as_py()) is None or most <= high:
        return None
    lowest = np.iinfo(flat.type.to_pandas_dtype()).min
    return pc.greater_equal(flat, pa.scalar(max(math.floor(high) + 1, int(lowest)), flat.type))


def _rounded(bound: float, kind: pa.DataType) -> float:
    """As a column of this type would hold it: 0.1 is within 0.1 in float32 too."""
    return float(pa.scalar(bound, kind).as_py()) if pa.types.is_floating(kind) else bound


def _told(number: float) -> str:
    """`120`, not `120.0`."""
    return str(int(number)) if float(number).is_integer() else str(number)
