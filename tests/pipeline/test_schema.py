"""What a row must be: types by name, rules by cell, and rows handed back with the reason."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import runfile, schema
from pipeline.columns import ColumnConfig
from pipeline.errors import ConfigError, DataError

VECTOR = schema.arrow_type("float32[2]")
LAWS = settings(derandomize=True, deadline=None, max_examples=60)


def ruled(
    array: pa.Array, kind: pa.DataType, *, nullable: bool = False, nan_is_missing: bool = False
) -> dict[str, list[int]]:
    """The rows that break each rule."""
    _, broken = schema.cast(array, kind, nullable=nullable, nan_is_missing=nan_is_missing)
    return {rule: np.flatnonzero(mask).tolist() for rule, mask in broken.items()}


def passthrough(kind: str, *, nullable: bool = False) -> ColumnConfig:
    """A column of this type that nobody models."""
    return ColumnConfig(type=kind, role="passthrough", nullable=nullable)


@pytest.mark.parametrize("name", [*schema.SCALARS, *(f"{it}[3]" for it in schema.SCALARS), "float32[64]"])
def test_type_names_round_trip(name: str) -> None:
    """Each type a TOML may name is an Arrow type that has this name again."""
    assert schema.type_name(schema.arrow_type(name)) == name


@pytest.mark.parametrize("name", ["", "int", "int7", "float32[]", "float32[x]", "float32[2][2]", "[2]", "date", "INT8"])
def test_other_names_are_refused(name: str) -> None:
    """A type that is not known is named with its column and the types there are."""
    with pytest.raises(ConfigError) as caught:
        schema.arrow_type(name, column="age")
    assert str(caught.value).startswith(f"columns.age: type = {name!r} is not known\n  cure: one of int8, "), name


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (pa.large_string(), "string"),
        (pa.string_view(), "string"),
        (pa.dictionary(pa.int8(), pa.string()), "string"),
        (pa.dictionary(pa.int32(), pa.int64()), "int64"),
        (pa.timestamp("us"), None),
        (pa.list_(pa.float32()), None),
        (pa.struct([("a", pa.int8())]), None),
        (pa.list_(pa.list_(pa.float32(), 2), 2), None),
        (pa.null(), None),
    ],
    ids=str,
)
def test_other_encodings_have_the_plain_name_and_other_types_none(kind: pa.DataType, name: str | None) -> None:
    """How a column is stored does not change its type; what cannot be modelled has no name."""
    assert schema.type_name(kind) == name


def test_the_table_has_its_id_first_and_no_ignored_column() -> None:
    """Id, then the rest in the file's order, nullable as declared; `row_id` where nothing names the rows."""
    columns: dict[str, Any] = {
        "x": {"type": "float64", "likelihood": "gaussian", "nullable": True},
        "junk": {"type": "anything", "role": "ignore"},
        "key": {"type": "string", "role": "id"},
        "note": {"type": "string", "role": "passthrough"},
    }
    found = schema.table_schema(runfile.parse({"name": "t", "data": {"uri": "t.csv"}, "columns": columns}))
    assert found.names == ["key", "x", "note"]
    assert [it.nullable for it in found] == [False, True, False]
    del columns["key"]
    found = schema.table_schema(runfile.parse({"name": "t", "data": {"uri": "t.csv"}, "columns": columns}))
    assert found.names == ["row_id", "x", "note"]
    assert found.field("row_id").equals(pa.field("row_id", pa.int64(), nullable=False))


@pytest.mark.parametrize(
    ("array", "kind", "broken"),
    [
        (pa.array(["1", "x", "2.5", " 3"]), pa.int64(), {"not int64": [1, 2, 3]}),
        (pa.array(["1.5", "1e3", "tall", "1,5"]), pa.float64(), {"not double": [2, 3]}),
        (pa.array(["true", "False", "1", "0", "yes", "2"]), pa.bool_(), {"not bool": [4, 5]}),
        (pa.array(["127", "128", "-129"]), pa.int8(), {"not int8": [1, 2]}),
        (pa.array([255, 256, -1]), pa.uint8(), {"not uint8": [1, 2]}),
        (pa.array(["9223372036854775807", "9223372036854775808"]), pa.int64(), {"not int64": [1]}),
        (pa.array([1.0, 1.5, 2.0]), pa.int32(), {"not int32": [1]}),
        (pa.array([1, 2**53 + 1]), pa.float64(), {"not double": [1]}),
        (pa.array([Decimal("1.0"), Decimal("1.5")]), pa.int64(), {"not int64": [1]}),
        (pa.array([b"a", b"\xff"]), pa.string(), {"not string": [1]}),
        (pa.array([1, None, 3]), pa.int64(), {"missing": [1]}),
        (pa.nulls(2), pa.float64(), {"missing": [0, 1]}),
        (pa.array(["x", None, "1"]), pa.int64(), {"not int64": [0], "missing": [1]}),
        (pa.array([1.0, float("nan"), float("inf"), -float("inf")]), pa.float64(), {"not finite": [1, 2, 3]}),
        (pa.array(["nan", "inf", "1"]), pa.float32(), {"not finite": [0, 1]}),
        (pa.array([1.0, 1e300]), pa.float32(), {"not finite": [1]}),
        (pa.array([1.0, 1e5]), pa.float16(), {"not finite": [1]}),
        (pa.array([[1.0, 2.0], [1.0], [1.0, 2.0, 3.0], []]), VECTOR, {f"not {VECTOR}": [1, 2, 3]}),
        (pa.array([["1", "2"], ["1", "x"]]), VECTOR, {f"not {VECTOR}": [1]}),
        (pa.array([[1.0, 2.0], [1.0, float("nan")], [float("inf"), 1.0]]), VECTOR, {"not finite": [1, 2]}),
        (pa.array([[1.0, 2.0], None]), VECTOR, {"missing": [1]}),
        (pa.array([[1, 2]], pa.large_list(pa.int64())), VECTOR, {}),
    ],
    ids=lambda it: str(it.type) if isinstance(it, pa.Array) else " ".join(it) if isinstance(it, dict) else str(it),
)
def test_each_rule_names_exactly_the_rows_that_break_it(
    array: pa.Array, kind: pa.DataType, broken: dict[str, list[int]]
) -> None:
    """`not <type>`, `missing`, `not finite`: the rows that break it, no other, whatever their company."""
    assert ruled(array, kind) == broken
    for row in range(len(array)):
        alone = {rule: [0] for rule, rows in broken.items() if row in rows}
        assert ruled(array[row : row + 1], kind) == alone, f"row {row} alone"


@pytest.mark.parametrize(
    "array",
    [
        pa.array([0, 1, 7]),
        pa.array([0.0, 1.0, 0.5]),
    ],
    ids=["int64", "double"],
)
def test_a_number_that_is_neither_0_nor_1_is_no_bool(array: pa.Array) -> None:
    """A cell that breaks a rule is never altered: 7 does not become true."""
    assert ruled(array, pa.bool_()) == {"not bool": [2]}


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([{"a": 1}, None]), pa.float64()),
        (pa.array([1, None], pa.timestamp("us")), pa.float64()),
        (pa.array([[1], None]), pa.string()),
        (pa.array(["[1, 2]", None]), VECTOR),
        (pa.array([[1.0, 2.0, 3.0], None], pa.list_(pa.float32(), 3)), VECTOR),
        (pa.array([pa.MonthDayNano([1, 2, 3]), None]), pa.int64()),
    ],
    ids=lambda it: str(it.type if isinstance(it, pa.Array) else it),
)
def test_a_column_that_has_no_way_to_its_type_breaks_the_rule_in_each_row(array: pa.Array, kind: pa.DataType) -> None:
    """Structs, timestamps, vectors of another length: `not <type>` for each row with a value, no exception."""
    assert ruled(array, kind) == {f"not {kind}": [0], "missing": [1]}


def test_a_null_inside_a_vector_is_missing_too() -> None:
    """A vector with a hole is refused where cells may not be missing, and kept where they may."""
    array = pa.array([[1.0, 2.0], [None, 2.0]], VECTOR)
    assert ruled(array, VECTOR, nullable=True) == {}
    assert ruled(array, VECTOR) == {"missing": [1]}


def test_text_that_is_no_utf8_is_no_string() -> None:
    """A Parquet column that claims to be text but is not breaks the rule; it does not end the program."""
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32).tobytes()), pa.py_buffer(b"a\xff")]
    )
    typed, rejected = schema.apply(
        pa.RecordBatch.from_arrays([bad], names=["s"]),
        {"s": passthrough("string")},
        file="f",
        positions=range(10_000),
    )
    assert typed.column("s").to_pylist() == ["a"]
    assert [(it.row, it.rule) for it in rejected] == [(1, "not string")]


def test_nan_is_missing_where_it_is_declared_so() -> None:
    """NaN becomes null, which is refused or kept as any other null; infinity stays what it is."""
    array = pa.array([1.0, float("nan"), float("inf"), None])
    typed, broken = schema.cast(array, pa.float64(), nullable=True, nan_is_missing=True)
    assert typed.to_pylist() == [1.0, None, float("inf"), None]
    assert list(broken) == ["not finite"]
    assert ruled(array, pa.float64(), nan_is_missing=True) == {"missing": [1, 3], "not finite": [2]}
    half = pa.array(np.array([1, np.nan], np.float16))
    assert ruled(half, pa.float16(), nullable=True, nan_is_missing=True) == {}
    text = pa.array(["nan", "1"])
    assert ruled(text, pa.float64(), nullable=True, nan_is_missing=True) == {}


def test_nan_in_a_vector_is_missing_where_it_is_declared_so() -> None:
    """`nan_is_missing` holds for the elements of vectors as for plain numbers."""
    array = pa.array([[1.0, float("nan")], [1.0, 2.0]], VECTOR)
    typed, broken = schema.cast(array, VECTOR, nullable=True, nan_is_missing=True)
    assert broken == {}
    assert typed.to_pylist() == [[1.0, None], [1.0, 2.0]]


CELLS = [None, "", "1", "-1", "300", "2.5", "x", "nan", "inf", "true", "9" * 30, "日本", "1e3", " 1"]


@LAWS
@given(
    cells=st.lists(st.sampled_from(CELLS), max_size=30),
    kind=st.sampled_from(["int8", "uint64", "int64", "float16", "float64", "bool", "string"]),
    nullable=st.booleans(),
)
def test_storage_does_not_matter(cells: list[str | None], kind: str, nullable: bool) -> None:
    """Dictionary-encoded, large, view and sliced columns are kept and refused as the plain one is."""
    plain = pa.array(cells, pa.string())
    columns = {"x": passthrough(kind, nullable=nullable)}
    slice_of = pa.array(["padding", *cells, "padding"]).slice(1, len(cells))
    stored = [plain, plain.dictionary_encode(), plain.cast(pa.large_string()), slice_of]
    results = [
        schema.apply(pa.RecordBatch.from_arrays([it], names=["x"]), columns, file="f", positions=range(10_000))
        for it in stored
    ]
    (first, rejected), *others = results
    for source, (other, also) in zip(stored[1:], others, strict=True):
        assert repr(other.column("x").to_pylist()) == repr(first.column("x").to_pylist()), source.type
        assert also == rejected, source.type


def test_string_views_are_strings() -> None:
    """A column of the newer view layout is kept and refused as the plain one is."""
    array = pa.array(["1", "x"], pa.string_view())
    assert ruled(array, pa.int64()) == {"not int64": [1]}


@LAWS
@given(
    rows=st.lists(st.tuples(st.sampled_from(CELLS), st.sampled_from(CELLS)), max_size=30),
    kinds=st.tuples(*[st.sampled_from(["int8", "int64", "float32", "bool", "string"])] * 2),
    nullable=st.booleans(),
)
def test_kept_and_rejected_are_all_rows_once(
    rows: list[tuple[str | None, str | None]], kinds: tuple[str, str], nullable: bool
) -> None:
    """kept + rejected = rows; kept rows are unchanged and in order; each rejected one is named once, with a reason."""
    names = ["a", "b"]
    arrays = [pa.array([row[i] for row in rows], pa.string()) for i in range(2)]
    batch = pa.RecordBatch.from_arrays([*arrays, pa.array(range(len(rows)))], names=[*names, "n"])
    columns = {name: passthrough(kind, nullable=nullable) for name, kind in zip(names, kinds, strict=True)}
    kept, rejected = schema.apply(
        batch, {**columns, "n": passthrough("int64")}, file="f.csv", positions=range(100, 10_000)
    )
    numbers, refused = kept.column("n").to_pylist(), [it.row - 100 for it in rejected]
    assert sorted(numbers + refused) == list(range(len(rows)))
    assert numbers == sorted(numbers)
    assert refused == sorted(set(refused))
    for it in rejected:
        assert it.file == "f.csv"
        assert it.value == str(rows[it.row - 100][names.index(it.column)]), it
        assert it.rule in ("missing", "not finite") or it.rule.startswith("not "), it
    for name, kind in zip(names, kinds, strict=True):
        assert kept.column(name).type == schema.arrow_type(kind)
        assert nullable or kept.column(name).null_count == 0


def test_a_rejected_row_says_where_and_why() -> None:
    """File, position in the file, column, rule and the value, shortened; the first broken column of a row counts."""
    batch = pa.RecordBatch.from_pydict({"a": ["1", "long" * 50], "b": ["y", "z"]})
    columns = {"a": passthrough("int64"), "b": passthrough("int64")}
    kept, rejected = schema.apply(batch, columns, file="in.csv", positions=range(10, 10_000))
    assert kept.num_rows == 0
    assert rejected == [
        schema.Rejected(file="in.csv", row=10, column="b", rule="not int64", value="y"),
        schema.Rejected(file="in.csv", row=11, column="a", rule="not int64", value=("long" * 50)[:60]),
    ]


def test_columns_are_matched_by_name_alone() -> None:
    """Another order or more columns change nothing; a missing one is named with those there are."""
    batch = pa.RecordBatch.from_pydict({"extra": [1], "b": ["2"], "a": ["1"]})
    kept, _ = schema.apply(
        batch, {"a": passthrough("int8"), "b": passthrough("int8")}, file="f", positions=range(10_000)
    )
    assert kept.to_pydict() == {"a": [1], "b": [2]}
    with pytest.raises(DataError) as caught:
        schema.apply(batch, {"A": passthrough("int8")}, file="in.csv", positions=range(10_000))
    assert str(caught.value) == "in.csv: column 'A' is missing; found: extra, b, a\n  cure: rename it under [columns]"
