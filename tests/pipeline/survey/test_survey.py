"""What is known of a table after all of its rows: the same in whatever pieces, files and order it was seen."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import contract
from pipeline.columns import ColumnConfig
from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.schema import apply, arrow_type
from pipeline.survey import Survey, surveyed
from pipeline.survey import whole as survey

LAWS = settings(derandomize=True, deadline=None, max_examples=60)
NAN = float("nan")


def seen(*batches: dict[str, Any], text: bool = False) -> Survey:
    """A survey of these, each a file."""
    found = Survey()
    for number, columns in enumerate(batches):
        found.add(pa.record_batch(columns), file=f"{number}.parquet", text=[*columns] if text else ())
    return found


def column(*cells: Any, text: bool = False) -> ColumnConfig:
    """The contract of one column of these cells, a file each where they are arrays."""
    arrays = cells if isinstance(cells[0], pa.Array) else [pa.array(cells)]
    return seen(*({"x": it} for it in arrays), text=text).columns()["x"]


def modelled(kind: str, likelihood: Any = "gaussian", **settings: Any) -> ColumnConfig:
    """A feature."""
    return ColumnConfig(type=kind, likelihood=likelihood, **settings)


def kept(kind: str) -> ColumnConfig:
    """A column that nobody models."""
    return ColumnConfig(type=kind, role="passthrough")


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (pa.array([1, 2, 3], pa.int8()), modelled("int8")),
        (pa.array([1.5, None, 2]), modelled("float64", nullable=True)),
        (pa.array([1.5, NAN, 2]), modelled("float64", nullable=True)),
        (pa.array([0, 1, 1]), modelled("int64", "bernoulli", categories=(0, 1))),
        (pa.array([0.0, 1, NAN]), modelled("float64", "bernoulli", categories=(0.0, 1.0), nullable=True)),
        (pa.array([True, False]), modelled("bool", "bernoulli")),
        (pa.array(["b", "a", "b"]), modelled("string", "categorical", categories=("a", "b"))),
        (pa.array(["b", "a"]).dictionary_encode(), modelled("string", "categorical", categories=("a", "b"))),
        (pa.array([f"{i:03d}" for i in range(101)]), modelled("string", "categorical")),
        (pa.array([f"{i}" for i in range(1001)]), kept("string")),
        (pa.array([1, 2], pa.timestamp("ns")), kept("timestamp")),
        (pa.array([1, 2], pa.date32()), kept("date")),
        (pa.array([1, 2], pa.duration("s")), kept("duration")),
        (pa.array([b"a", b"b"]), kept("binary")),
        (pa.array([b"a" * 16, b"b" * 16], pa.uuid()), kept("binary")),
        (pa.array([Decimal("1.5"), Decimal("2.5")]), modelled("float64")),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.uint8(), 2)), modelled("uint8[2]")),
        (pa.array([[1, 2], None], pa.list_(pa.uint8(), 2)), modelled("uint8[2]", nullable=True)),
        (pa.array([[1, 2], [3, None]], pa.list_(pa.uint8(), 2)), modelled("uint8[2]", nullable=True)),
        (pa.array([[1, 2], [3, NAN]], pa.list_(pa.float32(), 2)), modelled("float32[2]", nullable=True)),
        (pa.array([[True, False]], pa.list_(pa.bool_(), 2)), modelled("bool[2]", "bernoulli")),
        (pa.array(np.array([1, 2], np.float16)), modelled("float16")),
        (pa.array([7, 7]), ColumnConfig(type="int64", role="ignore")),
        (pa.nulls(2), ColumnConfig(type="null", role="ignore", nullable=True)),
        (pa.array([{"a": 1}, {"a": 2}]), ColumnConfig(type="struct<a: int64>", role="ignore")),
        (pa.array([[1], [2, 3]]), ColumnConfig(type="list<item: int64>", role="ignore")),
        (
            pa.array([["a"], ["b"]], pa.list_(pa.string(), 1)),
            ColumnConfig(type="fixed_size_list<item: string>[1]", role="ignore"),
        ),
    ],
    ids=lambda it: str(it.type)[:40] if isinstance(it, pa.Array) else it.role,
)
def test_each_type_has_a_contract_to_begin_with(array: pa.Array, found: ColumnConfig) -> None:
    """Its own type, what it may be missing, a likelihood; codes and categories only where they are few."""
    assert column(array) == found


def test_ids_are_those_that_name_every_row() -> None:
    """By their name, of a type that ids have, each once, and none missing."""
    x = [1.5, 2.5, 3.5]
    assert seen({"user_id": [1, 2, 3], "x": x}).columns()["user_id"] == ColumnConfig(type="int64", role="id")
    assert seen({"Key": ["a", "b", "c"], "x": x}).columns()["Key"] == ColumnConfig(type="string", role="id")
    for other in ([1, 2, 2], [1, 2, None], [1.5, 2.5, 3.5], [True, False, None]):
        assert seen({"id": other, "x": x}).columns()["id"].role == "feature", other
    assert [it.role for it in seen({"id": [1, 2], "key": [1, 2]}).columns().values()] == ["id", "feature"]
    parts = [{"id": list(range(start, start + 40_000))} for start in (0, 40_000)]
    assert seen(*parts).columns()["id"].role == "id"
    assert seen(*parts, {"id": [7]}).columns()["id"].role == "feature"


@pytest.mark.parametrize(
    ("kinds", "kind"),
    [
        (["int8", "int64"], "int64"),
        (["uint8", "int8"], "int16"),
        (["int64", "float32"], "float64"),
        (["float16", "float64", "int8"], "float64"),
    ],
)
def test_files_of_compatible_types_are_one_column(kinds: list[str], kind: str) -> None:
    """Of the narrowest type that all widen to, whatever their order."""
    arrays = [pa.array([1, 2]).cast(pa.float32()).cast(arrow_type(it)) for it in kinds]
    assert column(*arrays).type == column(*arrays[::-1]).type == kind


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (pa.array([1]), pa.array(["a"]), "1.parquet: column 'x' is string, but int64 in 0.parquet"),
        (pa.array(["a"]), pa.array([1]), "1.parquet: column 'x' is int64, but string in 0.parquet"),
        (pa.array([[1]]), pa.array([1]), "1.parquet: column 'x' is int64, but list<item: int64> in 0.parquet"),
        (pa.array([1], pa.date32()), pa.array([True]), "1.parquet: column 'x' is bool, but date in 0.parquet"),
    ],
)
def test_files_of_other_types_are_both_named(one: pa.Array, other: pa.Array, message: str) -> None:
    """With both types, and what to do."""
    with pytest.raises(DataError) as caught:
        seen({"x": one}, {"x": other})
    assert str(caught.value) == f"{message}\n  cure: convert one of them, or read them as two tables"


def test_text_and_typed_files_go_together_where_the_text_says_the_type() -> None:
    """A CSV beside a Parquet file."""
    found = seen({"x": pa.array([1, 2], pa.int32())})
    found.add(pa.record_batch({"x": ["3", "4"]}), file="b.csv", text=["x"])
    assert found.columns()["x"] == modelled("int64")
    found.add(pa.record_batch({"x": ["five"]}), file="b.csv", text=["x"])
    with pytest.raises(DataError, match=r"0.parquet: column 'x' is int32, but string in b.csv"):
        found.columns()


def test_a_column_that_some_files_lack_is_optional() -> None:
    """And its remark says in how many; a file is whole, in however many pieces it comes."""
    found = seen({"x": [1.5], "y": [1]}, {"x": [2.5]}, {"x": [3.5], "y": [2]})
    assert found.columns() == {"x": modelled("float64"), "y": modelled("int64", nullable=True, optional=True)}
    assert found.remarks()["y"] == "1 .. 2, 2 distinct, absent in 1 of 3 files"
    pieces = Survey()
    pieces.add(pa.record_batch({"x": [1.5], "y": [1]}), file="a.jsonl")
    pieces.add(pa.record_batch({"x": [2.5]}), file="a.jsonl")
    assert pieces.columns()["y"].nullable
    assert not pieces.columns()["y"].optional


def test_names_that_differ_only_in_case_are_refused() -> None:
    """Within a file or between files."""
    with pytest.raises(DataError, match=r"1.parquet: columns 'x' and 'X' differ only in case\n  cure: rename one"):
        seen({"x": [1]}, {"X": [1]})


@pytest.mark.parametrize(
    ("array", "remark"),
    [
        (pa.array([1, 90, None]), "1 .. 90, 2 distinct, 1 missing"),
        (pa.array([2**24 + 1, 0, 5]), "0 .. 1.67772e+07, 3 distinct, rounded for the model, which has 24 bits"),
        (pa.array(["a", "b"]), "2 distinct"),
        (pa.array(["a", "a"]), "1 distinct, constant"),
        (pa.array(["a", "b"] * 6000) , "2 distinct"),
        (pa.array([f"{i}" for i in range(10_001)]), "too many distinct to count"),
        (pa.array(np.arange(10_001) / 2), "0 .. 5000"),
        (pa.array([1, 2], pa.date32()), "1970-01-02 .. 1970-01-03, 2 distinct"),
        (pa.array([1, 2**44], pa.timestamp("s")), "1970-01-01T00:00:01 .. 559444-03-08T09:40:16, 2 distinct"),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.uint8(), 2)), "vectors"),
        (pa.array([[1, 2], [3, 4]]), "lists of 2 each: flatten them, or declare a vector"),
        (pa.array([[1, 2], [3]]), "lists: flatten them, or declare a vector"),
        (pa.array([{"a": 1}, {"a": 2}]), "flatten it to model it"),
        (pa.nulls(3), "no value at all"),
    ],
    ids=lambda it: str(it.type) if isinstance(it, pa.Array) else it[:30],
)  # fmt: skip
def test_remarks_say_what_was_seen(array: pa.Array, remark: str) -> None:
    """Extremes, distinct values, missing cells, and what to do about a column that cannot be modelled."""
    assert seen({"x": array}).remarks()["x"] == remark


def test_a_type_that_nobody_decided_about_is_refused() -> None:
    """Where no one declares columns, none is dropped in silence; a column without a value is."""
    columns = seen({"x": [1.5, 2.5], "empty": pa.nulls(2)}).columns()
    assert survey.modelled(columns, where="t") == columns
    with pytest.raises(DataError) as caught:
        survey.modelled(seen({"x": [1.5], "s": [{"a": 1}]}).columns(), where="t.parquet")
    assert str(caught.value) == (
        "t.parquet: column 's' is struct<a: int64>\n  cure: flatten it, or declare role = 'ignore' under columns.s"
    )


CELLS = [
    "0",
    "1",
    "7",
    "-2.5",
    "1e3",
    "nan",
    "007",
    "0x1F",
    "true",
    "2024-02-29",
    "2024-02-29T10:00Z",
    "2024-02-29 10:00",
    "x",
]


@LAWS
@given(data=st.data(), cells=st.lists(st.sampled_from(CELLS) | st.none(), max_size=12), few=st.integers(1, 4))
def test_pieces_and_order_do_not_matter(data: st.DataObject, cells: list[str | None], few: int) -> None:
    """Cells in any order, at any cuts, merged in any order, are the same column."""
    alphabet = data.draw(st.lists(st.sampled_from(CELLS), min_size=few, max_size=few))
    cells = [it if it in alphabet else None for it in cells]
    whole = seen({"x": pa.array(cells, pa.string())}, text=True)
    shuffled = data.draw(st.permutations(cells))
    cut = data.draw(st.integers(0, len(cells)))
    parts = [seen({"x": pa.array(it, pa.string())}, text=True) for it in (shuffled[:cut], shuffled[cut:])]
    merged = Survey()
    for part in data.draw(st.permutations(parts)):
        merged.merge(part)
    assert merged.columns() == whole.columns()
    assert merged.remarks() == whole.remarks()


@LAWS
@given(cells=st.lists(st.sampled_from(CELLS) | st.none(), min_size=1, max_size=12))
def test_all_rows_keep_the_contract_that_they_suggest(cells: list[str | None]) -> None:
    """Nothing that was seen is set aside, but NaN where it is not declared as missing."""
    batch = pa.record_batch({"x": pa.array(cells, pa.string()), "y": pa.array(range(len(cells)), pa.int8())})
    found = Survey()
    found.add(batch, file="f", text=["x"])
    applied = apply(
        batch, found.columns(), file="f", positions=range(len(cells)), untyped=["x"], nan_is_missing=found.nan
    )
    assert (applied.rejected, applied.unseen) == ([], {})


def test_distinct_values_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the memory that is given, those of the column with the most are given up."""
    monkeypatch.setattr(survey, "MEMORY_BYTES", 20_000)
    found = seen({"many": [f"name {i}" for i in range(2000)], "few": ["a", "b"] * 1000})
    assert sum(it.distinct.bytes for it in found.seen.values()) <= 20_000
    assert found.columns() == {"many": kept("string"), "few": modelled("string", "categorical", categories=("a", "b"))}


def test_a_source_is_surveyed_with_all_its_files(tmp_path: Path) -> None:
    """Files of several formats, and partition keys, which are text; the contract of it can be written and read."""
    for year, kind in ((2023, pa.int8()), (2024, pa.int32())):
        folder = tmp_path / "t" / f"year={year}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"id": pa.array([year, year + 10]), "n": pa.array([1, 2], kind)}), folder / "a.parquet")
    found = surveyed(Data(uri=str(tmp_path / "t"), partitioning="hive"))
    columns = found.columns()
    assert found.rows == 4
    assert {name: (it.type, it.role) for name, it in columns.items()} == {
        "id": ("int64", "id"),
        "n": ("int32", "feature"),
        "year": ("int64", "feature"),
    }
    path = tmp_path / "contract.toml"
    path.write_text(contract.text("t", columns, found.remarks()))
    assert contract.read(path) == columns
