"""Typed at once, or as text: it must make no difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sourced import blocks, written

from pipeline.config import Data
from pipeline.schema import cast
from pipeline.schema.cells import Reading
from pipeline.schema.kinds import SCALARS
from pipeline.sources.parser import Parser, converts_alike
from pipeline.sources.quoting import Scan

NASTY = (
    *(
        "5",
        "-5",
        "+5",
        "--5",
        "+-5",
        "+ 5",
        " 5",
        "5 ",
        "\t5",
        "\xa05",
        "5\xa0",
        "5\0",
        "5d",
        "5f",
        '5"',
        "007",
        "00",
        "-007",
    ),
    *(
        '"5"',
        '" 5"',
        '"5 "',
        '"5\n"',
        '"\r5"',
        '""5',
        '"1,5"',
        '"1.5"',
        "1.5.2",
        "1.",
        "1.0",
        ".5",
        "+.5",
        "0.1",
        "1_000",
    ),
    *("0x1F", "0X1f", "-0x1F", "0x1p3", "1e5", "1E5", "1e+5", "1e", "1e400", "1e-400", "\uff15", "\uff15e5"),
    *("nan", "NaN", "NAN", "-nan", "+nan", "nan(5)", "inf", "Inf", "INF", "-inf", "+inf", "infinity", "-Infinity"),
    *(
        "TRUE",
        "true",
        "True",
        "tRue",
        "T",
        "t",
        "yes",
        "FALSE",
        "false",
        "0",
        "-0",
        "-0.0",
        "1",
        "2",
        "127",
        "128",
        "255",
        "256",
    ),
    *("", '""', "NA", '"NA"', "null", "?", " ?", '" ?"', "16777217", "3.4028236e38", "9223372036854775807"),
    *("9223372036854775808", "-9223372036854775808", "18446744073709551615", "99999999999999999999"),
)
ALIKE = sorted(name for name, kind in SCALARS.items() if converts_alike(kind))


def both(content: str, kind: pa.DataType, **settings: Any) -> list[tuple[str, dict[str, list[bool]]]]:
    """Column x as the schema has it, typed at once and as text; with the rules that its cells break."""
    data, found = Data(uri="", delimiter=";", **settings), []
    window = content.encode()
    scan = Scan(np.frombuffer(window, np.uint8), delimiter=";", whole=True)
    for types in ({"x": kind}, None):
        parser = Parser(["x", "n"], data, delimiter=";", types=types)
        block = parser.parsed(pa.py_buffer(window), first=0, padded=scan.padded)
        typed, broken = cast(block.batch.column("x"), kind, nullable=True, reading=Reading(decimal=data.decimal))
        found.append((str(typed), {rule: rows.tolist() for rule, rows in broken.items()}))
    return found


@pytest.mark.parametrize("name", ALIKE)
def test_typed_is_text_cast(name: str) -> None:
    """Every nasty cell: the same value, or the same rule broken, as when the schema casts the text."""
    for cell in NASTY:
        fast, text = both(f"{cell};1\n", SCALARS[name])
        assert fast == text, cell


@settings(deadline=None, max_examples=100)
@given(
    cells=st.lists(st.sampled_from(NASTY), min_size=1, max_size=4),
    name=st.sampled_from(ALIKE),
    declared=st.fixed_dictionaries(
        {
            "trim": st.booleans(),
            "decimal": st.sampled_from(".,"),
            "null_tokens": st.sampled_from([("",), ("NA", "?"), ("5", "nan"), ()]),
        }
    ),
)
def test_typed_is_text_cast_whatever_is_declared(cells: list[str], name: str, declared: dict[str, Any]) -> None:
    """Next to each other, trimmed, with other decimal marks and null tokens."""
    fast, text = both("".join(f"{cell};1\n" for cell in cells), SCALARS[name], **declared)
    assert fast == text


def test_numbers_and_truth_values_are_typed_at_once(tmp_path: Path) -> None:
    """All others stay text, for the schema; columns that are not wanted are left out."""
    types = {"a": pa.int8(), "b": pa.float32(), "c": pa.bool_(), "d": pa.date32(), "e": pa.float16(), "f": pa.string()}
    path = written(tmp_path, "f,g,e,d,c,b,a\nx,0,1,2020-01-01,true,0.5,7\n")
    (block,) = blocks(path, types=types)
    found = {field.name: str(field.type) for field in block.batch.schema}
    assert found == {"f": "string", "e": "string", "d": "string", "c": "bool", "b": "float", "a": "int8"}


def test_a_window_with_a_bad_cell_is_text(tmp_path: Path) -> None:
    """So that the schema can name the cell; ragged rows are set aside once."""
    path = written(tmp_path, "a,b\n1,2\nragged\nx,4\n")
    (block,) = blocks(path, types={"a": pa.int64(), "b": pa.int64()})
    assert block.batch.to_pylist() == [{"a": "1", "b": "2"}, {"a": "x", "b": "4"}]
    assert block.ragged == ((1, "ragged"),)


def test_a_file_without_the_wanted_columns_shows_what_it_has(tmp_path: Path) -> None:
    """The schema names what is missing among what is there."""
    (block,) = blocks(written(tmp_path, "a,b\n1,2\n"), types={"c": pa.int64()})
    assert block.batch.to_pylist() == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("decimal", [",", "."])
def test_the_decimal_mark_is_declared(tmp_path: Path, decimal: str) -> None:
    """The other one makes no number."""
    (block,) = blocks(written(tmp_path, "a;b\n1,5;2\n"), types={"a": pa.float64()}, delimiter=";", decimal=decimal)
    assert block.batch.column("a").to_pylist() == ([1.5] if decimal == "," else ["1,5"])
