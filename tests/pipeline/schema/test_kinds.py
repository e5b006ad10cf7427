"""The types a column may have: names that round-trip, and a table of widenings that holds exactly what is exact."""

from __future__ import annotations

from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ConfigError
from pipeline.schema import arrow_type, kinds
from pipeline.schema.kinds import CHECKED, SCALARS, WIDENINGS, type_name

NUMBERS = [name for name, kind in SCALARS.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]


@pytest.mark.parametrize("name", [*SCALARS, *(f"{it}[3]" for it in (*NUMBERS, "bool")), "float32[64]"])
def test_type_names_round_trip(name: str) -> None:
    """Each type a TOML may name is an Arrow type that has this name again."""
    assert type_name(arrow_type(name)) == name


NO_TYPES = ["", "int", "int7", "float32[]", "float32[x]", "float32[2][2]", "[2]", "string[2]", "decimal", "INT8"]


@pytest.mark.parametrize("name", NO_TYPES)
def test_other_names_are_refused(name: str) -> None:
    """A type that is not known is named with its column and the types there are."""
    with pytest.raises(ConfigError) as caught:
        arrow_type(name, column="age")
    assert str(caught.value).startswith(f"columns.age: type = {name!r} is not known\n  cure: one of int8, "), name


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (pa.large_string(), "string"),
        (pa.string_view(), "string"),
        (pa.json_(), "string"),
        (pa.dictionary(pa.int8(), pa.large_string()), "string"),
        (pa.dictionary(pa.int32(), pa.int64()), "int64"),
        (pa.run_end_encoded(pa.int16(), pa.float32()), "float32"),
        (pa.large_binary(), "binary"),
        (pa.binary_view(), "binary"),
        (pa.binary(4), "binary"),
        (pa.uuid(), "binary"),
        (pa.timestamp("us"), "timestamp"),
        (pa.timestamp("ns", "Europe/Zurich"), "timestamp"),
        (pa.date64(), "date"),
        (pa.time32("s"), "time"),
        (pa.duration("ns"), "duration"),
        (pa.decimal128(10, 2), "float64"),
        (pa.decimal256(50, 2), "float64"),
        (pa.list_(pa.float32()), None),
        (pa.struct([("a", pa.int8())]), None),
        (pa.map_(pa.string(), pa.int8()), None),
        (pa.list_(pa.list_(pa.float32(), 2), 2), None),
        (pa.list_(pa.string(), 2), None),
        (pa.dense_union([pa.field("a", pa.int8())]), None),
        (pa.month_day_nano_interval(), None),
        (pa.fixed_shape_tensor(pa.int8(), [2, 2]), None),
        (pa.null(), None),
    ],
    ids=str,
)
def test_what_is_found_has_the_name_it_is_declared_with(kind: pa.DataType, name: str | None) -> None:
    """How a column is stored, and in which unit, does not change its type; what no row may hold has no name."""
    assert type_name(kind) == name


def values(name: str) -> pa.Array:
    """The numbers where a type ends, and around the ends of every float."""
    kind = SCALARS[name]
    if pa.types.is_floating(kind):
        finite = np.finfo(kind.to_pandas_dtype())
        return pa.array(np.array([finite.min, finite.max, finite.tiny, finite.eps], kind.to_pandas_dtype()))
    ends = np.iinfo(kind.to_pandas_dtype())
    near = [sign * (2**bits + 1) for bits in (11, 24, 53) for sign in (-1, 1)]
    return pa.array([ends.min, ends.max, *(it for it in near if ends.min <= it <= ends.max)], kind)


@pytest.mark.parametrize(("narrow", "wide"), [it for it in product(NUMBERS, NUMBERS) if it[0] != it[1]])
def test_the_table_holds_exactly_the_exact_widenings(narrow: str, wide: str) -> None:
    """A widening is in the table if and only if every value stays what it is."""
    cells = values(narrow)
    try:
        exact = [float(it) if "float" in narrow + wide else it for it in cells.to_pylist()]
        there = cells.cast(SCALARS[wide]).to_pylist()
        whole = exact == there and [int(it) for it in there] == [int(it) for it in cells.to_pylist()]
    except pa.ArrowInvalid:
        whole = False
    assert (wide in WIDENINGS.get(narrow, ())) == whole
    assert kinds.widens(narrow, wide) == kinds.widens(f"{narrow}[3]", f"{wide}[3]") == whole


def test_the_table_is_closed() -> None:
    """What widens twice widens at once; nothing that is only checked is also in the table."""
    for narrow, wider in WIDENINGS.items():
        for wide in wider:
            assert set(WIDENINGS.get(wide, ())) <= set(wider), (narrow, wide)
        assert set(wider).isdisjoint(CHECKED.get(narrow, ()))


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("int8", "int8", "int8"),
        ("uint8", "uint16", "uint16"),
        ("int8", "uint8", "int16"),
        ("int64", "uint8", "int64"),
        ("int64", "float32", "float64"),
        ("int16", "float16", "float32"),
        ("int64", "uint64", "float64"),
        ("int8[4]", "float32[4]", "float32[4]"),
        ("date", "date", "date"),
        ("int8[4]", "int8[5]", None),
        ("int8", "int8[4]", None),
        ("int8", "string", None),
        ("int8", "bool", None),
        ("binary", "string", None),
        ("date", "timestamp", None),
    ],
)
def test_two_types_have_the_narrowest_common_one(one: str, other: str, both: str | None) -> None:
    """Whichever comes first; none where a widening would be a guess."""
    assert kinds.common(one, other) == kinds.common(other, one) == both
