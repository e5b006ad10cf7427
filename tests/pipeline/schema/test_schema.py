"""A batch under its contract: the rows that keep it, unchanged; the others, each once, with the rule it breaks."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import runfile
from pipeline.columns import ColumnConfig
from pipeline.schema import Applied, Rejected, arrow_type
from pipeline.schema import table as schema
from pipeline.schema.kinds import WIDENINGS

LAWS = settings(derandomize=True, deadline=None, max_examples=60)
INF, NAN = float("inf"), float("nan")


def passthrough(kind: str, **settings: Any) -> ColumnConfig:
    """A column of this type that nobody models."""
    return ColumnConfig(type=kind, role="passthrough", **settings)


def applied(columns: dict[str, ColumnConfig], *, first: int = 0, **arrays: Any) -> Applied:
    """These columns of a CSV under this contract; typed columns are taken as they are."""
    batch = pa.RecordBatch.from_pydict(arrays)
    text = [name for name in arrays if pa.types.is_string(batch.column(name).type)]
    return schema.apply(batch, columns, file="in.csv", positions=range(first, first + len(batch)), untyped=text)


def broken(array: Any, column: ColumnConfig) -> dict[str, list[int]]:
    """The rows that are handed back, by rule."""
    rejected = applied({"x": column}, x=array).rejected
    return {rule: [it.row for it in rejected if it.rule == rule] for rule in {it.rule: None for it in rejected}}


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


def test_text_that_is_no_utf8_is_no_string() -> None:
    """A Parquet column that claims to be text but is not breaks the rule; it does not end the program."""
    buffers = [None, pa.py_buffer(np.array([0, 1, 2], np.int32).tobytes()), pa.py_buffer(b"a\xff")]
    found = applied({"s": passthrough("string")}, s=pa.Array.from_buffers(pa.string(), 2, buffers))
    assert found.batch.column("s").to_pylist() == ["a"]
    assert [(it.row, it.rule, it.value) for it in found.rejected] == [(1, "not string", "\ufffd")]


CELLS = [None, "", "1", "-1", "300", "2.5", "x", "nan", "inf", "true", "9" * 30, "日本", "1e3", " 1"]


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
    arrays = {name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(names)}
    columns = {name: passthrough(kind, nullable=nullable) for name, kind in zip(names, kinds, strict=True)}
    numbers = pa.array(range(len(rows)), pa.int64())
    found = applied({**columns, "n": passthrough("int64")}, first=100, **arrays, n=numbers)
    kept, refused = found.batch.column("n").to_pylist(), [it.row - 100 for it in found.rejected]
    assert sorted(kept + refused) == list(range(len(rows)))
    assert kept == sorted(kept)
    assert refused == sorted(set(refused))
    for it in found.rejected:
        assert it.value == str(rows[it.row - 100][names.index(it.column)]), it
        assert it.rule in ("missing", "not finite") or it.rule.startswith("not "), it
    for name, kind in zip(names, kinds, strict=True):
        assert found.batch.column(name).type == arrow_type(kind)
        assert nullable or found.batch.column(name).null_count == 0


def test_a_rejected_row_says_where_and_why() -> None:
    """File, position in the file, column, rule and the value, shortened; the first broken column of a row counts."""
    columns = {"a": passthrough("int64"), "b": passthrough("int64")}
    found = applied(columns, first=10, a=["1", "long" * 50], b=["y", "z"])
    assert found.batch.num_rows == 0
    assert found.rejected == [
        Rejected(file="in.csv", row=10, column="b", rule="not int64", value="y"),
        Rejected(file="in.csv", row=11, column="a", rule="not int64", value=("long" * 50)[:60]),
    ]


def test_columns_are_matched_by_name_alone() -> None:
    """Another order or more columns change nothing; what is ignored need not be there, nor what is optional."""
    columns = {
        "a": passthrough("int8"),
        "gone": ColumnConfig(type="any", role="ignore"),
        "b": passthrough("int8"),
        "c": passthrough("date", nullable=True, optional=True),
        "v": ColumnConfig(type="int8[2]", likelihood="gaussian", nullable=True, optional=True),
    }
    found = applied(columns, extra=[1], b=["2"], a=["1"])
    assert found.batch.to_pydict() == {"a": [1], "b": [2], "c": [None], "v": [[None, None]]}
    assert found.batch.schema.types == [arrow_type(it.type) for it in columns.values() if it.role != "ignore"]


@pytest.mark.parametrize(
    ("array", "column", "rules"),
    [
        (["-1", "0", "120", "121"], passthrough("int64", range=(0, 120)), {"below 0": [0], "above 120": [3]}),
        (["-1", "0.5", "1"], passthrough("float64", range=(-0.5, 0.5)), {"below -0.5": [0], "above 0.5": [2]}),
        (["0.1", "0.2"], passthrough("float32", range=(0.1, 0.1)), {"above 0.1": [1]}),
        (["0.1", "0.2"], passthrough("float16", range=(0.1, 0.1)), {"above 0.1": [1]}),
        ([-1, 5], passthrough("int64", range=(0, INF)), {"below 0": [0]}),
        ([-1, 5], passthrough("int64", range=(-INF, 0.5)), {"above 0.5": [1]}),
        (pa.array([-5, 5], pa.int8()), passthrough("int8", range=(1000, 2000)), {"below 1000": [0, 1]}),
        (pa.array([0, 5], pa.uint8()), passthrough("uint8", range=(-9, -1.5)), {"above -1.5": [0, 1]}),
        (pa.array([2**64 - 1, 0], pa.uint64()), passthrough("uint64", range=(-1, 2**63)), {f"above {2**63}": [0]}),
        ([2**53 + 1, 2**53], passthrough("int64", range=(0, 2**53)), {f"above {2**53}": [0]}),
        (["", None, "7"], passthrough("int64", range=(0, 5), nullable=True), {"not int64": [0], "above 5": [2]}),
        (["0", "9", "10", "-1"], passthrough("int8", levels=10), {"no level from 0 to 9": [2, 3]}),
        (["3.0000001", "3", "-1", "10"], passthrough("float64", levels=10), {"no level from 0 to 9": [0, 2, 3]}),
        (["3.0000001", "3"], passthrough("int64", levels=10), {"not int64": [0]}),
        (
            ["low", "mid", "high", None],
            ColumnConfig(type="string", likelihood="ordinal", order=("low", "high"), nullable=True),
            {"not in its order": [1]},
        ),
        (
            pa.array([0.5, 2.5, 3.0]),
            ColumnConfig(type="float64", likelihood="bernoulli", levels=3, binarise="dynamic"),
            {"no level from 0 to 2": [1, 2]},
        ),
        (pa.array([[1, 2], [3, 4], None]), passthrough("int64[2]", range=(0, 3)), {"above 3": [1], "missing": [2]}),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, dict) else "",
)
def test_a_value_beyond_its_rule_is_named_with_the_range(
    array: Any, column: ColumnConfig, rules: dict[str, list[int]]
) -> None:
    """Ranges, levels and ranks, in the column's own precision, whatever the ends of its type."""
    assert broken(array, column) == rules


@pytest.mark.parametrize(
    ("array", "kind", "rule"),
    [
        ([None], "int64", "missing"),
        ([INF], "float64", "not finite"),
        ([NAN], "float64", "not finite"),
        ([2**53 + 1], "float64", "not float64"),
        ([2, 0], "bool", "not bool"),
        (pa.array([1], pa.timestamp("ns", "UTC")), "timestamp", "not timestamp"),
        (pa.array([[1.0]]), "float64[2]", "length is not 2"),
        (pa.array([b"\xff"]), "string", "not string"),
    ],
    ids=str,
)
def test_a_typed_cell_that_would_be_another_value_is_set_aside(array: Any, kind: str, rule: str) -> None:
    """What a type promises is checked where it does not promise enough."""
    assert broken(array, passthrough(kind)) == {rule: [0]}


def test_an_id_is_never_missing() -> None:
    """The row is set aside, as for any rule."""
    found = applied({"id": ColumnConfig(type="int64", role="id")}, id=["7", None])
    assert (found.batch.num_rows, found.rejected[0].rule) == (1, "missing")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (pa.array([2**44], pa.timestamp("s", "UTC")), "17592186044416 of timestamp[s, tz=UTC]"),
        (pa.array([1], pa.timestamp("ns", "UTC")), "1970-01-01 00:00:00.000000001+00:00"),
        (pa.array([1], pa.duration("ns")), "0 days 00:00:00.000000001"),
        (pa.array([None], pa.timestamp("s", "UTC")), "None"),
    ],
)
def test_times_that_python_has_not_are_shown(array: pa.Array, text: str) -> None:
    """A value that cannot be kept can still be told."""
    kind = "duration" if pa.types.is_duration(array.type) else "timestamp"
    assert applied({"x": passthrough(kind)}, x=array).rejected[0].value == text


def test_large_ids_stay_as_they_are() -> None:
    """2^63 - 1, 2^64 - 1 and their neighbours never pass through a float."""
    ids = [2**63 - 1, 2**63 - 2, -(2**63)]
    assert applied({"id": ColumnConfig(type="int64", role="id")}, id=list(map(str, ids))).batch["id"].to_pylist() == ids
    huge = pa.array([2**64 - 1, 2**64 - 2], pa.uint64())
    assert applied({"id": ColumnConfig(type="uint64", role="id")}, id=huge).batch["id"].equals(huge)


def test_unknown_categories_are_counted_and_kept() -> None:
    """They break no rule; those of rows that break another are not counted."""
    columns = {
        "city": ColumnConfig(type="string", likelihood="categorical", categories=("Rome", "Oslo"), nullable=True),
        "code": passthrough("int8", categories=(0, 1)),
        "x": passthrough("float64"),
    }
    found = applied(
        columns, city=["Rome", "Lima", None, "Lima", "Bern"], code=["0", "1", "-1", "7", "8"], x=["1"] * 4 + ["-"]
    )
    assert found.unseen == {"city": Counter(Lima=2), "code": Counter({"-1": 1, "7": 1})}
    assert found.batch["city"].to_pylist() == ["Rome", "Lima", None, "Lima"]
    assert applied(columns, city=["Rome"], code=["1"], x=["1"]).unseen == {}


def test_a_secret_is_never_shown() -> None:
    """Neither where its row is set aside nor among the unknown categories."""
    columns = {
        "pin": passthrough("int8", secret=True),
        "blood": passthrough("string", categories=("A",), secret=True),
    }
    found = applied(columns, pin=["canary", "1", "2"], blood=["A", "canary", "nightingale"])
    assert [it.value for it in found.rejected] == ["***"]
    assert found.unseen == {"blood": Counter({"***": 2})}


def test_nan_may_be_declared_as_missing() -> None:
    """Then it is null; infinity stays what it is."""
    batch = pa.RecordBatch.from_pydict({"x": [1.0, NAN, INF]})
    column = {"x": passthrough("float64", nullable=True)}
    found = schema.apply(batch, column, file="f", positions=range(3), nan_is_missing=True)
    assert found.batch["x"].to_pylist() == [1.0, None]
    assert [(it.row, it.rule) for it in found.rejected] == [(2, "not finite")]


VALUES: dict[str, st.SearchStrategy[Any]] = {
    **{f"int{bits}": st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    **{f"float{bits}": st.floats(width=bits, allow_nan=False, allow_infinity=False) for bits in (16, 32, 64)},
    "bool": st.booleans(),
    "string": st.text(st.characters(codec="utf-8")),
    "binary": st.binary(),
    "date": st.dates(),
    "time": st.times(),
    "timestamp": st.datetimes(timezones=st.just(dt.UTC)),
    "duration": st.timedeltas(dt.timedelta(-(10**8)), dt.timedelta(10**8)),
}


@st.composite
def columns_of(draw: st.DrawFn, kinds: list[str], rows: int) -> dict[str, pa.Array]:
    """A column of each type, some of vectors, with missing cells."""
    table = {}
    for kind in kinds:
        element = VALUES[kind.partition("[")[0]]
        cell = st.lists(element, min_size=2, max_size=2) if kind.endswith("]") else element | st.none()
        table[kind] = pa.array(draw(st.lists(cell, min_size=rows, max_size=rows)), arrow_type(kind))
    return table


@LAWS
@given(data=st.data(), rows=st.integers(0, 6))
def test_every_supported_type_survives_unchanged(data: st.DataObject, rows: int) -> None:
    """Bit for bit: the very buffers, where nothing had to be refused."""
    kinds = data.draw(st.lists(st.sampled_from([*VALUES, "float32[2]", "int8[2]", "bool[2]"]), unique=True, max_size=5))
    table = data.draw(columns_of(kinds, rows))
    contract = {kind: passthrough(kind, nullable=not kind.endswith("]")) for kind in kinds}
    found = schema.apply(pa.record_batch(table), contract, file="f", positions=range(rows))
    assert found.rejected == []
    for kind, array in table.items():
        assert found.batch[kind].equals(array), kind
        assert found.batch[kind].buffers() == array.buffers() or kind.endswith("]"), kind


@pytest.mark.parametrize(("narrow", "wide"), [(one, it) for one, wider in WIDENINGS.items() for it in wider])
@settings(LAWS, max_examples=15)
@given(data=st.data())
def test_every_widening_keeps_the_value(narrow: str, wide: str, data: st.DataObject) -> None:
    """Equal as numbers; a decimal is the float64 nearest to it."""
    value = VALUES.get(
        narrow, st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9)
    )
    kind = pa.decimal128(20, 3) if narrow == "decimal" else arrow_type(narrow)
    cells = data.draw(st.lists(value | st.none(), max_size=6))
    batch = pa.record_batch({"x": pa.array(cells, kind)})
    found = schema.apply(batch, {"x": passthrough(wide, nullable=True)}, file="f", positions=range(len(cells)))
    assert found.rejected == []
    assert found.batch["x"].type == arrow_type(wide)
    exact = [it if it is None or narrow != "decimal" else float(it) for it in cells]
    assert found.batch["x"].to_pylist() == exact
