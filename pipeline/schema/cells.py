"""Cells as their declared type: none is rounded, wrapped or guessed at, unless it is text that says a number.

A cell that has no way there, or would be another value there, is null in what comes out, and its row is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema.kinds import EXTENSIONS, type_name

FAILURES: Final = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError)
WAYS: Final = {
    "number": ("number",),
    "string": ("number", "string", "binary", "date", "time"),
    "binary": ("binary", "string"),
}
"""What may become what; all else, only itself. Where Arrow would take a date's bits for a number, there is no way."""
PATTERNS: Final = {
    "int": r"^[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)$",
    "uint": r"^[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)$",
    "float": r"^[+-]?([0-9]*\.?[0-9]*([eE][+-]?[0-9]+)?|(?i:nan|inf).*)$",
    "bool": r"^(?i:true|false|0|1)$",
    "date": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
    "timestamp": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "time": r"^[0-9]{2}:[0-9]{2}",
}
"""What all text looks like that says one, so that what does not need not be tried: each try that fails is slow."""
Mask = npt.NDArray[np.bool_]
Broken = dict[str, Mask]
"""For each broken rule the rows that break it."""
Conversion = Callable[[pa.Array], pa.Array]
"""Raises one of FAILURES where a cell has no way."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How cells are to be understood that do not say it themselves."""

    nan_is_missing: bool = False
    time_zone: str = ""
    """Of timestamps that carry none; empty: those break the contract."""
    decimal: str = "."
    """Decimal mark of numbers in text."""


def scalars(array: pa.Array, kind: pa.DataType, reading: Reading) -> tuple[pa.Array, Broken]:
    """Numbers, text, dates, times of day and durations as `kind`; timestamps are read by `instants`."""
    broken: Broken = {}
    if not array.type.equals(kind) or pa.types.is_string(kind):
        array = plain(array)
        if pa.types.is_string(array.type) and pa.types.is_floating(kind):
            array = pointed(array, reading.decimal)
        array, broken = converted(array, kind, partial(_convert, kind=kind))
    if not pa.types.is_floating(kind):
        return array, broken
    if reading.nan_is_missing:
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, kind), array)
    finite = pc.is_finite(array)
    return array, broken if every(finite) else {**broken, "not finite": mask(pc.invert(finite))}


def plain(array: pa.Array) -> pa.Array:
    """Decoded: no dictionaries, run ends, views, large offsets, small decimals or known extensions."""
    if isinstance(array, pa.ExtensionArray):
        return plain(array.storage) if array.type.extension_name in EXTENSIONS else array
    if pa.types.is_dictionary(array.type):
        return plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(array.type):
        rows = np.arange(array.offset, array.offset + len(array))
        runs = np.searchsorted(array.run_ends.to_numpy(), rows, side="right")
        return plain(array.values).take(pa.array(runs))  # Arrow itself decodes no runs of dictionaries or lists
    if pa.types.is_decimal32(array.type) or pa.types.is_decimal64(array.type):
        return array.cast(pa.decimal128(38, array.type.scale))  # Arrow casts no smaller one to integers
    name = type_name(array.type)
    return array.cast(getattr(pa, name)()) if name in ("string", "binary") else array


def pointed(text: pa.Array, decimal: str) -> pa.Array:
    """Text that says numbers with this decimal mark, with a point; what has a point already then says none."""
    if decimal == ".":
        return text
    return pc.replace_substring(pc.replace_substring(text, ".", "no mark"), decimal, ".")


def converted(array: pa.Array, kind: pa.DataType, convert: Conversion) -> tuple[pa.Array, Broken]:
    """All at once where that goes; else what can be converted, and null for the rest."""
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind), {}
    try:
        return convert(array), {}
    except FAILURES:
        unfit = _unfit(array, kind, convert)
    broken = {f"not {type_name(kind)}": unfit}
    if unfit[mask(pc.is_valid(array))].all():
        return pa.nulls(len(array), kind), broken
    return convert(pc.if_else(pa.array(~unfit), array, pa.scalar(None, array.type))), broken


def _unfit(array: pa.Array, kind: pa.DataType, convert: Conversion) -> Mask:
    """Which rows cannot be converted: of the distinct values, those in the halves of each half that fails."""
    try:
        encoded = array.dictionary_encode()
        distinct, index = encoded.dictionary, encoded.indices
    except pa.ArrowNotImplementedError:
        distinct, index = array, pa.array(np.arange(len(array)), mask=mask(pc.is_null(array)))
    unfit = np.zeros(len(distinct) + 1, dtype=bool)
    likely = _likely(distinct, kind)
    unfit[:-1] = ~likely
    _halve(distinct.filter(pa.array(likely)), np.flatnonzero(likely), unfit, convert)
    result: Mask = unfit[pc.fill_null(index, -1).to_numpy(zero_copy_only=False)]
    return result


def _likely(values: pa.Array, kind: pa.DataType) -> Mask:
    """Which values are worth a try; null is none."""
    name = type_name(kind) or ""
    pattern = next((pattern for prefix, pattern in PATTERNS.items() if name.startswith(prefix)), "")
    if pa.types.is_string(values.type) and pattern:
        return mask(pc.match_substring_regex(values, pattern))
    return np.full(len(values), _may_become(values.type, kind) or pa.types.is_timestamp(values.type))


def _halve(values: pa.Array, places: npt.NDArray[np.int64], unfit: Mask, convert: Conversion) -> None:
    """Note in `unfit`, at their places, the values that cannot be converted."""
    pending = [(0, len(values))] if len(values) else []
    while pending:
        start, stop = pending.pop()
        try:
            convert(values.slice(start, stop - start))
        except FAILURES:
            middle = (start + stop) // 2
            unfit[places[start]] |= middle == start
            pending += [(start, middle), (middle, stop)] if middle > start else []


def _convert(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Raise one of FAILURES where a cell would be another value."""
    found = array.type
    if not _may_become(found, kind):
        raise pa.ArrowNotImplementedError(f"{found} to {kind}")
    if pa.types.is_string(found) and pa.types.is_time(kind):
        return _times(array, kind)
    if pa.types.is_boolean(kind) and _family(found) == "number" and not pa.types.is_boolean(found):
        _refuse_unless(pc.is_in(array.drop_null().cast(pa.float64(), safe=False), pa.array([0.0, 1.0])))
    if pa.types.is_decimal(found) and pa.types.is_floating(kind):
        array = array.cast(pa.string())  # straight to a float, Arrow is off by a bit in the last place
    typed = array.cast(kind)
    if pa.types.is_string(kind):
        typed.validate(full=True)
    if pa.types.is_integer(found) and pa.types.is_float16(kind):  # the one cast that Arrow does not check
        _refuse_unless(pc.equal(typed.cast(pa.float64()), array.cast(pa.float64(), safe=False)))
    return typed


def _may_become(found: pa.DataType, kind: pa.DataType) -> bool:
    from_family, to_family = _family(found), _family(kind)
    if pa.types.is_integer(found) and to_family == "string":
        return True
    return to_family in WAYS.get(from_family, (from_family,)) and to_family not in ("", "timestamp")


def _family(kind: pa.DataType) -> str:
    name = type_name(kind) or ""
    return "number" if name.startswith(("int", "uint", "float", "bool")) and "[" not in name else name


def _times(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Times of day by way of timestamps, as Arrow itself reads none from text."""
    _refuse_unless(pc.match_substring(array, ":"))
    return pc.binary_join_element_wise("1970-01-01T", array, "").cast(pa.timestamp("us")).cast(kind)


def _refuse_unless(truth: pa.BooleanArray) -> None:
    if not every(truth):
        raise pa.ArrowInvalid("another value")


def every(truth: pa.BooleanArray) -> bool:
    """Whether no cell is false."""
    return bool(pc.all(truth, min_count=0).as_py())


def mask(truth: pa.BooleanArray) -> Mask:
    """As numpy; null is false."""
    found: Mask = pc.fill_null(truth, False).to_numpy(zero_copy_only=False)
    return found
