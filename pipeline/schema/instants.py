"""Timestamps in UTC: from those with a zone, those without, and ISO 8601 text of either sort."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError
from pipeline.schema.cells import Broken, converted, every, mask, plain
from pipeline.schema.kinds import INSTANT, NAIVE

ZONED: Final = r"[T ].*(Z|[+-]\d\d(:?\d\d)?)$"


def instants(array: pa.Array, time_zone: str) -> tuple[pa.Array, Broken]:
    """The cells in UTC, and which rows break which rule; `time_zone` is that of cells that carry none."""
    array = plain(array)
    if pa.types.is_timestamp(array.type) and array.type.tz is None:
        return _localised(*_read(array, NAIVE), time_zone)
    if not pa.types.is_string(array.type):
        return _read(array, INSTANT)
    zoned, nothing = pc.match_substring_regex(array, ZONED), pa.scalar(None, pa.string())
    absolute, broken = _read(pc.if_else(zoned, array, nothing), INSTANT)
    local, unfit = _localised(*_read(pc.if_else(zoned, nothing, array), NAIVE), time_zone)
    for rule, rows in unfit.items():
        broken[rule] = broken.get(rule, False) | rows
    return pc.coalesce(absolute, local), broken


def _read(array: pa.Array, kind: pa.DataType) -> tuple[pa.Array, Broken]:
    return converted(array, kind, lambda some: _convert(some, kind))


def _convert(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if not (pa.types.is_timestamp(array.type) or pa.types.is_string(array.type)):
        raise pa.ArrowNotImplementedError(f"{array.type} to {kind}")  # an integer says no unit, a date no instant
    return array.cast(kind)


def _localised(array: pa.Array, broken: Broken, time_zone: str) -> tuple[pa.Array, Broken]:
    """Local times as instants; those that the clock showed twice, or never, are none."""
    if array.null_count == len(array):
        return array.cast(INSTANT), broken
    if not time_zone:
        rule = "no time zone; declare data.time_zone"
        return pa.nulls(len(array), INSTANT), {**broken, rule: mask(pc.is_valid(array))}
    first, last = (_assumed(array, time_zone, which) for which in ("earliest", "latest"))
    once = pc.equal(first, last)
    if every(once):
        return first, broken
    rule = f"never or twice in {time_zone}"
    return pc.if_else(once, first, pa.scalar(None, INSTANT)), {**broken, rule: mask(pc.invert(once))}


def _assumed(array: pa.Array, time_zone: str, which: str) -> pa.Array:
    try:
        return pc.assume_timezone(array, time_zone, ambiguous=which, nonexistent=which).cast(INSTANT)
    except pa.ArrowInvalid:
        cure = "a name such as 'Europe/Zurich' or 'UTC'"
        raise ConfigError(f"data.time_zone = {time_zone!r} is not known", cure=cure) from None
