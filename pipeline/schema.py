"""What a row must be: column types by name, and the rules that each cell is held to.

A cell that breaks a rule is never altered; its row is handed back as `Rejected`, with the rule and the value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import ColumnConfig
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, DataError

SCALARS: Final[dict[str, pa.DataType]] = {
    **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": getattr(pa, f"float{bits}")() for bits in (16, 32, 64)},
    "bool": pa.bool_(),
    "string": pa.string(),
}
VALUE_SHOWN: Final = 60
CASTING: Final = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError)
Mask = npt.NDArray[np.bool_]


def arrow_type(name: str, *, column: str = "") -> pa.DataType:
    """The Arrow type a TOML type name stands for: `int64`, `string`, `float32[64]`, ..."""
    match = re.fullmatch(r"(\w+?)(?:\[(\d+)\])?", name)
    if match is None or match[1] not in SCALARS:
        raise ConfigError(
            f"type = {name!r} is not known", f"columns.{column}", f"one of {', '.join(SCALARS)}, or float32[64]"
        )
    scalar = SCALARS[match[1]]
    return pa.list_(pa.field("element", scalar), int(match[2])) if match[2] else scalar


def type_name(kind: pa.DataType) -> str | None:
    """The TOML name of an Arrow type; None for one that cannot be a feature."""
    if pa.types.is_dictionary(kind):
        return type_name(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_fixed_size_list(kind) and (element := type_name(kind.value_type)) in SCALARS:
        return f"{element}[{kind.list_size}]"
    return next((name for name, scalar in SCALARS.items() if scalar.equals(kind)), None)


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
    """Shortened."""


def apply(
    batch: pa.RecordBatch,
    columns: Mapping[str, ColumnConfig],
    *,
    file: str,
    positions: Sequence[int] | npt.NDArray[np.int64],
    nan_is_missing: bool = False,
) -> tuple[pa.RecordBatch, list[Rejected]]:
    """Type the declared columns of a batch; hand back the rows that fit and, apart, those that do not.

    `positions` says where each row stands in its file.
    """
    arrays, reasons = {}, dict[int, Rejected]()
    for name, column in columns.items():
        if name not in batch.schema.names:
            known = ", ".join(batch.schema.names)
            raise DataError(f"column {name!r} is missing; found: {known}", file, "rename it under [columns]")
        kind = arrow_type(column.type, column=name)
        source = _plain(batch.column(name))
        arrays[name], broken = cast(source, kind, nullable=column.nullable, nan_is_missing=nan_is_missing)
        for rule, mask in broken.items():
            for row in np.flatnonzero(mask).tolist():
                value = _shown(source[row])
                reasons.setdefault(
                    row, Rejected(file=file, row=int(positions[row]), column=name, rule=rule, value=value)
                )
    typed = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    if reasons:
        keep = np.ones(len(batch), dtype=bool)
        keep[list(reasons)] = False
        typed = typed.filter(pa.array(keep))
    return typed, [reasons[row] for row in sorted(reasons)]


def cast(
    array: pa.Array, kind: pa.DataType, *, nullable: bool, nan_is_missing: bool = False
) -> tuple[pa.Array, dict[str, Mask]]:
    """The array as `kind`, and for each broken rule the rows that break it."""
    array = _plain(array)
    unfit = np.zeros(len(array), dtype=bool)
    typed = _cast(array, kind)
    if typed is None:
        unfit = _unfit(array, kind)
        typed = _fitting(array, unfit, kind)
    if nan_is_missing:
        typed = _without_nan(typed)
    missing = np.zeros(len(array), dtype=bool) if nullable else _missing(typed) & ~unfit
    typed = _filled(typed)
    rules = {f"not {kind}": unfit, "missing": missing, "not finite": _not_finite(typed)}
    return typed, {rule: mask for rule, mask in rules.items() if mask.any()}


def _plain(array: pa.Array) -> pa.Array:
    if pa.types.is_string_view(array.type):
        return array.cast(pa.string())
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """The array as `kind`; None if a value has no way there, or would be another value there."""
    number = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    if number and pa.types.is_boolean(kind):
        zero_or_one = pc.is_in(array.drop_null().cast(pa.float64(), safe=False), pa.array([0.0, 1.0]))
        if not pc.all(zero_or_one, min_count=0).as_py():
            return None
    try:
        typed = array.cast(kind)
        if pa.types.is_string(kind):
            typed.validate(full=True)
    except CASTING:
        return None
    return typed


def _without_nan(array: pa.Array) -> pa.Array:
    if pa.types.is_floating(array.type):
        return pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    if pa.types.is_fixed_size_list(array.type) and pa.types.is_floating(array.type.value_type):
        present = array.drop_null()
        clean = pa.FixedSizeListArray.from_arrays(_without_nan(present.flatten()), type=array.type)
        row = np.cumsum(_mask(pc.is_valid(array))) - 1
        return clean.take(pa.array(row, mask=_mask(pc.is_null(array))))
    return array


def _filled(array: pa.Array) -> pa.Array:
    """A missing vector as a vector of missing numbers: pyarrow < 26 cannot read the former (apache/arrow#35692)."""
    if not pa.types.is_fixed_size_list(array.type) or array.null_count == 0:
        return array
    width = array.type.list_size
    index = np.full((len(array), width), -1, dtype=np.int64)
    present = _mask(pc.is_valid(array))
    index[present] = np.arange(present.sum() * width).reshape(-1, width)
    elements = array.flatten().take(pa.array(index.ravel(), mask=index.ravel() < 0))
    return pa.FixedSizeListArray.from_arrays(elements, type=array.type)


def _missing(array: pa.Array) -> Mask:
    """Which rows are null, or hold one."""
    missing = _mask(pc.is_null(array)).copy()
    if pa.types.is_fixed_size_list(array.type):
        missing[~missing] = _mask(pc.is_null(array.flatten())).reshape(-1, array.type.list_size).any(axis=1)
    return missing


def _shown(value: pa.Scalar) -> str:
    if pa.types.is_string(value.type) and value.is_valid:
        return str(value.as_buffer().to_pybytes().decode(errors="replace"))[:VALUE_SHOWN]
    return str(value.as_py())[:VALUE_SHOWN]


def _unfit(array: pa.Array, kind: pa.DataType) -> Mask:
    """Which rows cannot be cast: only called once the cast of all failed, so it may go value by distinct value."""
    try:
        distinct = array if pa.types.is_nested(array.type) else array.unique()
    except pa.ArrowNotImplementedError:
        distinct = array
    # `take`, not a slice: casting a slice of lists casts the elements of its neighbours too
    alone = (distinct.take(pa.array([i])) for i in range(len(distinct)))
    verdicts = np.array([it.null_count == 0 and not fits(it, kind) for it in alone], dtype=bool)
    if distinct is array:
        return verdicts
    return _mask(pc.is_in(array, distinct.filter(pa.array(verdicts))))


def _fitting(array: pa.Array, unfit: Mask, kind: pa.DataType) -> pa.Array:
    """The cells that can be cast, and null for the others."""
    if unfit[_mask(pc.is_valid(array))].all():
        return pa.nulls(len(array), kind)
    return pc.if_else(pa.array(~unfit), array, pa.scalar(None, array.type)).cast(kind)


def fits(array: pa.Array, kind: pa.DataType) -> bool:
    """Whether every value can be cast, nothing lost."""
    return _cast(array, kind) is not None


def _not_finite(array: pa.Array) -> Mask:
    if pa.types.is_fixed_size_list(array.type) and pa.types.is_floating(array.type.value_type):
        width = array.type.list_size
        present = _mask(pc.is_valid(array))
        wrong = _mask(pc.invert(pc.is_finite(array.flatten()))).reshape(-1, width).any(axis=1)
        result = np.zeros(len(array), dtype=bool)
        result[present] = wrong
        return result
    if pa.types.is_floating(array.type):
        return _mask(pc.invert(pc.is_finite(array)))
    return np.zeros(len(array), dtype=bool)


def _mask(array: pa.Array) -> Mask:
    mask: Mask = pc.fill_null(array, False).to_numpy(zero_copy_only=False)
    return mask
