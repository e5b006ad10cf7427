"""A file's columns as a whole: each refusal names the file, the column, both types and the cure."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.columns import ColumnConfig
from pipeline.errors import DataError
from pipeline.schema import layout

CAST = "or convert it in its file"


def passthrough(kind: str, **settings: Any) -> ColumnConfig:
    """A column of this type that nobody models."""
    return ColumnConfig(type=kind, role="passthrough", **settings)


def refusal(found: pa.Schema, columns: dict[str, ColumnConfig], **settings: Any) -> str:
    """What is said of this file."""
    with pytest.raises(DataError) as caught:
        layout.check(found, columns, file="in.parquet", **settings)
    return str(caught.value)


STRUCT = pa.struct([("a", pa.int8())])
FLATTEN = "flatten it, or declare role = 'ignore' under columns.x"
LISTS = "keep vectors as lists, in Parquet, Arrow IPC, npy or JSON lines"
TYPES = [
    (pa.int64(), "int8", "is int64, which does not widen to int8", f"declare type = 'int64' under columns.x, {CAST}"),
    (pa.int64(), "float32", "is int64, which does not widen to float32", "declare type = 'int64'"),
    (pa.float64(), "int64", "is float64, which does not widen to int64", "declare type = 'float64'"),
    (pa.float64(), "float32", "is float64, which does not widen to float32", "declare type = 'float64'"),
    (pa.string(), "int64", "is string, which does not widen to int64", "declare type = 'string'"),
    (pa.int64(), "string", "is int64, which does not widen to string", "declare type = 'int64'"),
    (
        pa.dictionary(pa.int8(), pa.string()),
        "int8",
        "is dictionary<values=string, indices=int8, ordered=0>, which",
        "'string'",
    ),
    (pa.bool_(), "int8", "is bool, which does not widen to int8", "declare type = 'bool'"),
    (pa.date32(), "timestamp", "is date, which does not widen to timestamp", "declare type = 'date'"),
    (pa.timestamp("us", "UTC"), "date", "is timestamp, which does not widen to date", "declare type = 'timestamp'"),
    (pa.int64(), "timestamp", "is int64, which does not widen to timestamp", "declare type = 'int64'"),
    (pa.decimal128(9, 2), "int8", "is decimal128(9, 2), which does not widen to int8", "declare type = 'float64'"),
    (pa.string(), "binary", "is string, which does not widen to binary", "declare type = 'string'"),
    (pa.uuid(), "int64", "is extension<arrow.uuid>, which does not widen to int64", "declare type = 'binary'"),
    (
        pa.timestamp("us"),
        "timestamp",
        "is timestamp[us], without a time zone",
        "declare data.time_zone, such as 'UTC' or",
    ),
    (STRUCT, "float64", "is struct<a: int8>", FLATTEN),
    (STRUCT, "float32[2]", "is struct<a: int8>", FLATTEN),
    (pa.map_(pa.string(), pa.int8()), "float64", "is map<string, int8>", FLATTEN),
    (pa.list_(pa.float64()), "float64", "is list<item: double>", FLATTEN),
    (pa.dense_union([pa.field("a", pa.int8())]), "float64", "is dense_union<a: int8=0>", FLATTEN),
    (pa.fixed_shape_tensor(pa.int8(), [2]), "int8[2]", "is extension<arrow.fixed_shape_tensor", FLATTEN),
    (pa.month_day_nano_interval(), "duration", "is month_day_nano_interval", FLATTEN),
    (pa.list_(pa.float32(), 2), "float32", "is float32[2], which does not widen to float32", "'float32[2]'"),
    (pa.list_(pa.float32(), 3), "float32[2]", "is float32[3], which does not widen to float32[2]", "'float32[3]'"),
    (
        pa.list_(pa.float64()),
        "float32[2]",
        "is list<item: double>, which does not widen to float32[2]",
        "convert it in its file",
    ),
    (pa.list_(pa.list_(pa.float32())), "float32[2]", "is list<item: list<item: float>>, which does not", "in its file"),
    (pa.float32(), "float32[2]", "is float32, not float32[2]", LISTS),
]


@pytest.mark.parametrize(("found", "declared", "what", "cure"), TYPES, ids=str)
def test_a_type_that_does_not_fit_is_refused(found: pa.DataType, declared: str, what: str, cure: str) -> None:
    """By the table of widenings, before a cell is read."""
    message = refusal(pa.schema([("x", found)]), {"x": passthrough(declared)})
    assert message.startswith(f"in.parquet: column 'x' {what}")
    assert cure in message.partition("\n  cure: ")[2]


@pytest.mark.parametrize(
    ("found", "declared"),
    [
        (pa.null(), "string"),
        (pa.dictionary(pa.int8(), pa.int8()), "int64"),
        (pa.run_end_encoded(pa.int32(), pa.int8()), "int8"),
        (pa.large_string(), "string"),
        (pa.timestamp("ns", "Europe/Zurich"), "timestamp"),
        (pa.decimal128(9, 2), "float64"),
        (pa.decimal128(9, 0), "int64"),
        (pa.int64(), "float64"),
        (pa.int8(), "bool"),
        (pa.binary(), "string"),
        (pa.uuid(), "binary"),
        (pa.json_(), "string"),
        (pa.list_(pa.float32()), "float32[2]"),
        (pa.large_list(pa.int8()), "float32[2]"),
        (pa.list_(pa.uint8(), 2), "float32[2]"),
    ],
    ids=str,
)
def test_a_type_that_fits_or_is_checked_by_the_cell_is_taken(found: pa.DataType, declared: str) -> None:
    """The same however stored, narrower, or such that each cell tells."""
    layout.check(pa.schema([("x", found)]), {"x": passthrough(declared)}, file="f")


@pytest.mark.parametrize("declared", ["int8", "float32", "bool", "date", "time", "timestamp", "string", "binary"])
def test_text_is_taken_for_what_each_cell_says(declared: str) -> None:
    """Where the file gives no types, cells are tried one by one."""
    layout.check(pa.schema([("x", pa.string())]), {"x": passthrough(declared)}, file="f", untyped=["x"])


@pytest.mark.parametrize(
    ("found", "declared", "message"),
    [
        (pa.string(), "float32[2]", f"column 'x' is string, not float32[2]\n  cure: {LISTS}"),
        (
            pa.string(),
            "duration",
            "column 'x' is string, which tells no duration\n  cure: declare a number, and its unit",
        ),
        (STRUCT, "string", f"column 'x' is struct<a: int8>\n  cure: {FLATTEN}"),
    ],
)
def test_text_that_can_say_none_is_refused(found: pa.DataType, declared: str, message: str) -> None:
    """No cell of it could."""
    assert refusal(pa.schema([("x", found)]), {"x": passthrough(declared)}, untyped=["x"]) == f"in.parquet: {message}"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b"], "column 'age' is missing; found: a, b\n  cure: rename it under [columns]"),
        (["Age"], "column 'age' is missing; found: Age\n  cure: did you mean 'Age'? rename it under [columns]"),
        ([" age"], "column 'age' is missing; found:  age\n  cure: did you mean ' age'? rename it under [columns]"),
        (["ages"], "column 'age' is missing; found: ages\n  cure: did you mean 'ages'? rename it under [columns]"),
        ([f"c{i}" for i in range(25)], "c17, c18, c19 and 5 more\n"),
        (["age", "x", "age"], "two columns are named 'age'\n  cure: rename one of them"),
        (["age", "x", "X"], "columns 'x' and 'X' differ only in case\n  cure: rename one of them"),
        (["age", "straße", "STRASSE"], "columns 'straße' and 'STRASSE' differ only in case"),
    ],
    ids=str,
)  # fmt: skip
def test_names_are_matched_exactly(names: list[str], message: str) -> None:
    """A missing one is named with those there are, and what may be meant; no two may be taken for each other."""
    found = pa.schema([(name, pa.int64()) for name in names])
    assert message in refusal(found, {"age": passthrough("int64")})


def test_an_optional_column_may_be_absent_but_not_renamed() -> None:
    """A name that differs by case alone would make all of its cells missing, in silence."""
    columns = {"age": passthrough("int64", nullable=True, optional=True)}
    layout.check(pa.schema([("ages", pa.int64())]), columns, file="f")
    assert "did you mean 'AGE'?" in refusal(pa.schema([("AGE", pa.int64())]), columns)


def test_columns_that_nobody_declared_may_be_refused() -> None:
    """What is declared to be ignored is declared."""
    columns = {"a": passthrough("int64"), "junk": ColumnConfig(type="any", role="ignore")}
    found = pa.schema([("a", pa.int64()), ("junk", STRUCT), ("new", pa.int64()), ("", pa.int64())])
    layout.check(found, columns, file="f")
    assert refusal(found, columns, extra="refuse") == (
        "in.parquet: columns that nobody declared: 'new', ''\n  cure: declare them, if only with role = 'ignore'"
    )
