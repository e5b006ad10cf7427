"""The types a column may have: by their name in TOML, in Arrow, and the one table of widenings between them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import pyarrow as pa
from pyarrow import lib

from pipeline.columns import TYPE
from pipeline.errors import ConfigError

NAIVE: Final = pa.timestamp("us")
INSTANT: Final = pa.timestamp("us", "UTC")
SCALARS: Final[dict[str, pa.DataType]] = {
    **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": getattr(pa, f"float{bits}")() for bits in (16, 32, 64)},
    "bool": pa.bool_(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": INSTANT,
    "duration": pa.duration("us"),
}

WIDENINGS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "int8": ("int16", "int32", "int64", "float16", "float32", "float64"),
        "int16": ("int32", "int64", "float32", "float64"),
        "int32": ("int64", "float64"),
        "uint8": ("uint16", "uint32", "uint64", "int16", "int32", "int64", "float16", "float32", "float64"),
        "uint16": ("uint32", "uint64", "int32", "int64", "float32", "float64"),
        "uint32": ("uint64", "int64", "float64"),
        "float16": ("float32", "float64"),
        "float32": ("float64",),
        "decimal": ("float64",),
    }
)
"""Every value stays what it is; a decimal, which no TOML names, becomes the nearest float64."""
CHECKED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        **{f"{sign}int{bits}": ("bool",) for sign in ("", "u") for bits in (8, 16, 32)},
        **{f"{sign}int64": ("bool", "float64") for sign in ("", "u")},
        "decimal": ("int64",),
        "binary": ("string",),
    }
)
"""Taken too, cell by cell: 0 and 1 are bools (as MySQL has them), whole numbers up to 2^53 floats, UTF-8 is text."""
EXTENSIONS: Final = ("arrow.uuid", "arrow.json", "ray.data.arrow_pickled_object")
"""Extension types that are taken as what they are stored as, and never unpickled."""
_ALIKE: Final[dict[int, pa.DataType]] = {
    lib.Type_LARGE_STRING: pa.string(),
    lib.Type_STRING_VIEW: pa.string(),
    lib.Type_LARGE_BINARY: pa.binary(),
    lib.Type_BINARY_VIEW: pa.binary(),
    lib.Type_FIXED_SIZE_BINARY: pa.binary(),
    lib.Type_DATE64: pa.date32(),
    lib.Type_TIME32: pa.time64("us"),
}
_LISTS: Final = (
    lib.Type_LIST,
    lib.Type_LARGE_LIST,
    lib.Type_FIXED_SIZE_LIST,
    lib.Type_LIST_VIEW,
    lib.Type_LARGE_LIST_VIEW,
)


def arrow_type(name: str, *, column: str = "") -> pa.DataType:
    """The Arrow type a TOML type name stands for: `int64`, `string`, `float32[64]`, ..."""
    if not TYPE.fullmatch(name):
        raise ConfigError(
            f"type = {name!r} is not known", f"columns.{column}", f"one of {', '.join(SCALARS)}, or float32[64]"
        )
    scalar, _, size = name.rstrip("]").partition("[")
    return pa.list_(pa.field("element", SCALARS[scalar]), int(size)) if size else SCALARS[scalar]


def type_name(kind: pa.DataType) -> str | None:
    """The TOML name that a column of this Arrow type is declared with; None for one that can only be ignored."""
    kind = stored(kind)
    if pa.types.is_fixed_size_list(kind):
        name = f"{type_name(kind.value_type)}[{kind.list_size}]"
        return name if TYPE.fullmatch(name) else None
    if pa.types.is_decimal(kind):
        return "float64"
    return next((name for name, scalar in SCALARS.items() if scalar.id == kind.id), None)


def stored(kind: pa.DataType) -> pa.DataType:
    """The plain type of what is dictionary- or run-end-encoded, large, a view, in other units, or a known extension."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return stored(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name in EXTENSIONS:
        return stored(kind.storage_type)
    return _ALIKE.get(kind.id, kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether cells are lists of cells, of whatever length."""
    return kind.id in _LISTS


def taken(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a file's column of type `found` is taken where `wanted` is declared: the same, narrower, or checked."""
    if pa.types.is_null(found):
        return True
    found = stored(found)
    if pa.types.is_fixed_size_list(wanted):
        fixed = pa.types.is_fixed_size_list(found)
        return is_list(found) and taken(found.value_type, wanted.value_type) and not (
            fixed and found.list_size != wanted.list_size
        )  # fmt: skip
    name = "decimal" if pa.types.is_decimal(found) else str(type_name(found))
    return type_name(wanted) in (name, *WIDENINGS.get(name, ()), *CHECKED.get(name, ()))


def widens(old: str, new: str) -> bool:
    """Whether every value of the type named `old` is one of `new`: the same, or in the table of widenings.

    >>> widens("int8", "int64"), widens("int8[4]", "float32[4]"), widens("int64", "float64")
    (True, True, False)
    """
    element, bracket, size = old.partition("[")
    return new == old or new in [f"{it}{bracket}{size}" for it in WIDENINGS.get(element, ())]


def common(one: str, other: str) -> str | None:
    """The narrowest type that both widen to; 64-bit integers also to float64, where every cell is checked.

    >>> common("int8", "uint8"), common("int64", "float32"), common("int8", "string")
    ('int16', 'float64', None)
    """
    size = "".join(one.partition("[")[1:])
    for name in (one, other, *(scalar + size for scalar in SCALARS)):
        if all(widens(it, name) or (it.endswith("int64") and name == "float64") for it in (one, other)):
            return name
    return None
