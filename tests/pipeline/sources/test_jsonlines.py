"""JSON lines: an object on each line, whatever else stands there."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sourced import Rows, blocks, listed, ragged, rows, written

from pipeline import sources
from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.schema import cast
from pipeline.sources import windows

NAME = "in.jsonl"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": 1, "b": "x"}\n', [{"a": "1", "b": "x"}]),
        ('{"a": 1.50}\r\n\r\n{"b": true}', [{"a": "1.50", "b": None}, {"a": None, "b": "true"}]),
        ('\ufeff{"a": null}\n', [{"a": None}]),
        (
            '{"a": 123456789012345678901234567890}\n{"a": "é\\u00e9\\ud83d\\ude00"}\n',
            [{"a": "1" + "23456789012345678901234567890"}, {"a": "éé😀"}],
        ),
        ('{"a": NaN}\n{"a": -0.0}\n', [{"a": "NaN"}, {"a": "-0.0"}]),
        ('{"a": [1, 2.50, null, "x"]}\n{"a": []}\n', [{"a": ["1", "2.50", None, "x"]}, {"a": []}]),
        ('{"a": [1]}\n{"a": 2}\n', [{"a": "[1]"}, {"a": "2"}]),
        ('{"a": {"b": [1.0, {"c": "x\\""}]}}\n', [{"a": '{"b": [1.0, {"c": "x\\""}]}'}]),
        ('{"a": ""}\n', [{"a": ""}]),
        ("", []),
        ("\n\r\n", []),
    ],
)
def test_without_types_cells_are_text_as_written(tmp_path: Path, content: str, expected: Rows) -> None:
    """Numbers digit for digit, lists as lists of text, other nesting as JSON; a key that is not there is null."""
    assert rows(written(tmp_path, content, NAME)) == expected


@pytest.mark.parametrize("name", ["in.jsonl", "in.ndjson", "in.jsonl.gz"])
def test_with_types_cells_are_typed(tmp_path: Path, name: str) -> None:
    """Other keys are left out; one that never comes is null; what pyarrow would guess at stays text."""
    content = b'{"a": 1, "b": "x", "v": [1, 2], "z": {}}\n{"v": null, "b": "2020-01-01", "a": 2}\n'
    types = {"a": pa.int8(), "b": pa.string(), "t": pa.timestamp("us"), "v": pa.list_(pa.float32(), 2)}
    path = written(tmp_path, gzip.compress(content) if name.endswith("gz") else content, name)
    (block,) = blocks(path, types=types)
    assert [str(it.type) for it in block.batch.schema] == ["int8", "string", "string", "list<item: float>"]
    assert block.batch.to_pylist() == [
        {"a": 1, "b": "x", "t": None, "v": [1.0, 2.0]},
        {"a": 2, "b": "2020-01-01", "t": None, "v": None},
    ]


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1]",
        "1",
        '{"a": 1',
        '{"a": 1}}',
        '{"a": 1}{"a": 2}',
        '{"a": 1, "a": 2}',
        '{"a": {"b": 1, "b": 2}}',
        '{"a": 01}',
        '{"a": "\\ud800"}',
        " ",
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
@pytest.mark.parametrize("types", [None, {"a": pa.int64()}])
def test_a_line_that_is_no_object_is_set_aside(tmp_path: Path, line: str, types: dict[str, pa.DataType] | None) -> None:
    """With its text and position; the lines around it are read."""
    path = written(tmp_path, f'{{"a": 7}}\n\n{line}\n{{"a": 8}}\n', NAME)
    (block,) = blocks(path, types=types)
    assert block.ragged == ((1, line[:200]),)
    assert [int(row["a"]) for row in block.batch.to_pylist()] == [7, 8]


def test_an_object_over_two_lines_is_none(tmp_path: Path) -> None:
    """Though pyarrow would take it for one, and two on the next line make up for it in number."""
    path = written(tmp_path, '{"a": 1\n}\n{"a": 2}{"a": 3}\n', NAME)
    (block,) = blocks(path, types={"a": pa.int64()})
    assert [text for _, text in block.ragged] == ['{"a": 1', "}", '{"a": 2}{"a": 3}']


def test_a_cell_of_another_type_harms_no_other(tmp_path: Path) -> None:
    """The window is read as text, lists as lists; what is no list cannot be taken for one."""
    types = {"a": pa.int64(), "v": pa.list_(pa.float32(), 1)}
    path = written(
        tmp_path, '{"a": 1, "v": [1.5]}\n{"a": "x", "v": 2}\n{"a": null, "v": null}\n{"v": ""}\n{"v": []}\n', NAME
    )
    (block,) = blocks(path, types=types)
    assert block.batch.column("a").to_pylist() == ["1", "x", None, None, None]
    typed, broken = cast(block.batch.column("v"), types["v"], nullable=True)
    assert typed.to_pylist() == [[1.5], [None], [None], [None], [None]]
    assert {rule: found.tolist() for rule, found in broken.items()} == {
        "length is not 1": [False, True, False, True, True]
    }


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8"), max_size=4)
    | st.sampled_from(["1", "-0", "1e5", "true", "nan", "2020-01-01"])
)  # fmt: skip
KINDS = [pa.int8(), pa.uint64(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), pa.string()]


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, min_size=1, max_size=3), kind=st.sampled_from(KINDS))
def test_typed_is_text_cast(tmp_path: Path, values: list[Any], kind: pa.DataType) -> None:
    """Cell for cell the same value, or the same rule broken, as when the schema casts the text."""
    path = written(tmp_path, "".join(json.dumps({"a": it, "n": 1}) + "\n" for it in values), NAME)
    (fast,), (text,) = blocks(path, types={"a": kind}), blocks(path)
    typed, broken = cast(fast.batch.column("a"), kind, nullable=True)
    expected, rules = cast(text.batch.column("a"), kind, nullable=True)
    assert str(typed) == str(expected)  # NaN is NaN
    assert {rule: found.tolist() for rule, found in broken.items()} == {
        rule: found.tolist() for rule, found in rules.items()
    }


def test_pieces_and_windows_add_up_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut at any line end, the rows are numbered through."""
    monkeypatch.setattr(windows, "MB", 1)
    monkeypatch.setattr(windows, "WINDOW_BYTES", 1)
    path = written(tmp_path, "\n".join("no" if i == 70 else json.dumps({"n": i}) for i in range(100)), NAME)
    data = Data(uri="", unit_mb=100, max_cell_bytes=10)
    cut = sources.cut(listed(path), data)
    assert len(cut.pieces) > 9
    assert cut.rows == 100
    found = [(it, list(sources.blocks(it, data, types={"n": pa.int64()}))) for it in cut.pieces]
    assert [int(row["n"]) for _, some in found for block in some for row in block.batch.to_pylist()] == [
        *range(70),
        *range(71, 100),
    ]
    assert [(it.first or 0) + row for it, some in found for block in some for row, _ in block.ragged] == [70]


def test_names_are_those_of_the_first_lines(tmp_path: Path) -> None:
    """In the order in which they come up; they must differ in more than case."""
    assert sources.names(listed(written(tmp_path, '{"b": 1}\nno\n{"a": 1}\n', NAME)), Data(uri="")) == ["b", "a"]
    assert sources.names(listed(written(tmp_path, "\n", NAME)), Data(uri="")) == []
    path = written(tmp_path, '{"b": 1}\n{"B": 1}\n', NAME)
    with pytest.raises(DataError, match=r"in.jsonl: columns 'b' and 'B' differ only in case"):
        sources.names(listed(path), Data(uri=""))
    with pytest.raises(DataError, match=r"in.jsonl: columns 'b' and 'B' differ only in case"):
        rows(path)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    """The first of them, by its position."""
    with pytest.raises(DataError, match=r"in.jsonl: byte 16 0xff is not UTF-8"):
        ragged(written(tmp_path, b'{"a": 1}\n{"a": "\xff"}\n', NAME))
