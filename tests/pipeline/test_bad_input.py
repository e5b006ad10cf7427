"""The bad-input table, end to end: cells, columns and ids. Rows, quarantine or refusal, each to the letter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from outcomes import (
    ID,
    NUMBER,
    Case,
    aside,
    column,
    kept,
    parameters,
    refused,
    table,
    wider,
)

INTEGER = {**NUMBER, "type": "int64"}
MISSING = {**NUMBER, "nullable": True}
TEXT = {**ID, "type": "string"}
VECTOR = {**NUMBER, "type": "float32[2]"}
CODE = {"type": "string", "likelihood": "categorical", "categories": ["a", "b"]}
LEVEL = {"type": "int64", "likelihood": "binomial", "levels": 10}
NAN, INF = float("nan"), float("inf")
INFINITE = "not finite"
NO_VALUE = "column 'x' holds no value at all\n  cure: set its role to 'ignore'"


def lacks(name: str, found: str, *, meant: str = "", column: str = "x") -> str:
    """The refusal of a file without a column."""
    hint = f"did you mean {meant!r}? " if meant else ""
    return f"{name}: column {column!r} is missing; found: {found}\n  cure: {hint}rename it under [columns]"


TABLE: dict[str, dict[str, Case]] = {
    "NaN, Inf": {
        "text": aside(
            "id,x\n1,nan\n2,inf\n3,-Infinity\n4,1\n",
            [
                ("1", 0, "x", INFINITE, "nan"),
                ("2", 1, "x", INFINITE, "inf"),
                ("3", 2, "x", INFINITE, "-inf"),
            ],
            [(4, 1.0)],
        ),
        "Parquet": aside(
            table(NAN, 1.0, INF),
            [("1", 0, "x", INFINITE, "nan"), ("3", 2, "x", INFINITE, "inf")],
            [(2, 1.0)],
        ),
        "JSON lines": aside(
            {"t.jsonl": '{"id":1,"x":NaN}\n{"id":2,"x":1e400}\n{"id":3,"x":1}\n'},
            [("1", 0, "x", INFINITE, "NaN"), ("2", 1, "x", INFINITE, "1e400")],
            [(3, 1.0)],
        ),
        "npy": aside(
            {"t.npy": lambda path: np.save(path, np.array([1.0, NAN]))},
            [("1", 1, "values", INFINITE, "nan")],
            [(0, 1.0)],
            {"values": NUMBER},
        ),
        "in a vector": aside(
            table([1.0, NAN], [1.0, 2.0], kind=pa.list_(pa.float32())),
            [("1", 0, "x", INFINITE, "[1.0, nan]")],
            [(2, [1.0, 2.0])],
            column(VECTOR),
        ),
        "beyond float32": aside(
            "id,x\n1,1e39\n2,1\n",
            [("1", 0, "x", INFINITE, "inf")],
            [(2, 1.0)],
            column({**NUMBER, "type": "float32"}),
        ),
        "NaN is missing": aside(
            "id,x\n1,NaN\n2,inf\n3,1\n",
            [("2", 1, "x", INFINITE, "inf")],
            [(1, None), (3, 1.0)],
            column(MISSING),
            nan_is_missing=True,
        ),
        "NaN is missing where nothing may be": aside(
            table(NAN, 1.0), [("1", 0, "x", "missing", "nan")], [(2, 1.0)], nan_is_missing=True
        ),
    },
    "nulls, sentinels": {
        "not declared": aside(
            "id,x\n1,?\n2,NA\n3,\n4,1\n",
            [("1", 0, "x", "not float64", "?"), ("2", 1, "x", "not float64", "NA"), ("3", 2, "x", "missing", "None")],
            [(4, 1.0)],
        ),
        "declared": kept(
            "id,x\n1,?\n2,NA\n3,\n4,-999\n5,1\n6,-9990\n",
            [(1, None), (2, None), (3, None), (4, None), (5, 1.0), (6, -9990.0)],
            column(MISSING),
            null_tokens=["", "?", "NA", "-999"],
        ),
        "text": kept("id,x\n1,NA\n2,null\n3,None\n", [(1, "NA"), (2, "null"), (3, "None")], column("string")),
        "-999 is a number": kept("id,x\n1,-999\n2,2\n", [(1, -999.0), (2, 2.0)]),
        "-999 beyond the range": aside(
            table(-999, 2), [("1", 0, "x", "below 0", "-999")], [(2, 2)], column({**INTEGER, "range": [0, 100]})
        ),
        "null in Parquet": aside(table(1.0, None), [("2", 1, "x", "missing", "None")], [(1, 1.0)]),
        "no value at all": refused(
            "id,x\n1,\n2,\n",
            f"t.csv: {NO_VALUE}",
            column(MISSING),
        ),
        "of Arrow's type null": refused(
            table(None, None),
            f"t.parquet: {NO_VALUE}",
            column(MISSING),
        ),
    },
    "wrong type": {
        "a word": aside("id,x\n1,abc\n2,2\n", [("1", 0, "x", "not int64", "abc")], [(2, 2)], column(INTEGER)),
        "a fraction": aside(
            "id,x\n1,1.5\n2,2\n3,3.0\n",
            [("1", 0, "x", "not int64", "1.5"), ("3", 2, "x", "not int64", "3.0")],
            [(2, 2)],
            column(INTEGER),
        ),
        "no truth": aside(
            "id,x\n1,yes\n2,true\n3,1\n4,0\n5,FALSE\n6,t\n",
            [("1", 0, "x", "not bool", "yes"), ("6", 5, "x", "not bool", "t")],
            [(2, True), (3, True), (4, False), (5, False)],
            column("bool"),
        ),
        "int and float files": refused(
            {"a.parquet": table(1, 2), "b.parquet": table(1.5)},
            wider("b.parquet", "float64", "int64", "float64"),
            column(INTEGER),
        ),
        "int and string files": refused(
            {"a.parquet": table(1, 2), "b.parquet": table("1")}, wider("b.parquet", "string", "float64", "string")
        ),
        "files that widen": kept(
            {
                "a.parquet": table(1, 2, kind=pa.int8()),
                "b.parquet": pa.table({"id": [3], "x": pa.array([1.5], pa.float32())}),
                "c.parquet": pa.table({"id": [4], "x": [2**53]}),
            },
            [(1, 1.0), (2, 2.0), (3, 1.5), (4, 2.0**53)],
        ),
    },
    "columns": {
        "missing": refused("id,y\n1,2\n", lacks("t.csv", "id, y")),
        "missing in one file": refused({"a.csv": "id,x\n1,2\n", "b.csv": "id,z\n2,3\n"}, lacks("b.csv", "id, z")),
        "renamed": refused("id,xs\n1,2\n", lacks("t.csv", "id, xs", meant="xs")),
        "by case": refused("id,X\n1,2\n", lacks("t.csv", "id, X", meant="X")),
        "by case, though optional": refused(
            "id,X\n1,2\n", lacks("t.csv", "id, X", meant="X"), column({**MISSING, "optional": True})
        ),
        "by a blank": refused("id, x\n1,2\n", lacks("t.csv", "id,  x", meant=" x")),
        "optional": kept(
            {"a.csv": "id,x,y\n1,2,3\n", "b.csv": "id,x\n2,3\n"},
            [(1, 2.0, 3.0), (2, 3.0, None)],
            {"id": ID, "x": NUMBER, "y": {**MISSING, "optional": True}},
        ),
        "extra": kept(
            "id,x,more\n1,2,3\n2,3,4\n",
            [(1, 2.0), (2, 3.0)],
            notices=("columns that nobody declared, ignored: 'more'",),
        ),
        "extra, refused": refused(
            "id,x,more\n1,2,3\n",
            "t.csv: columns that nobody declared: 'more'\n  cure: declare them, if only with role = 'ignore'",
            extra_columns="refuse",
        ),
        "extra keys of JSON, refused": refused(
            {"t.jsonl": '{"id":1,"x":1,"more":2}\n'},
            "t.jsonl: columns that nobody declared: 'more'\n  cure: declare them, if only with role = 'ignore'",
            extra_columns="refuse",
        ),
        "reordered": kept({"a.csv": "id,x\n1,2\n", "b.csv": "x,id\n3,2\n"}, [(1, 2.0), (2, 3.0)]),
        "twice": refused("id,x,x\n1,2,3\n", "t.csv: two columns are named 'x'\n  cure: rename one of them"),
        "twice in Parquet": refused(
            pa.Table.from_arrays([[1], [1.0], [2.0]], names=["id", "x", "x"]),
            "t.parquet: two columns are named 'x'\n  cure: rename one of them",
        ),
        "twice in a JSON line": aside(
            {"t.jsonl": '{"id":1,"x":1,"x":2}\n{"id":2,"x":1}\n'},
            [(None, 0, "", "not an object, or with a key twice", '{"id":1,"x":1,"x":2}')],
            [(2, 1.0)],
        ),
        "twice but for case": refused(
            "id,x,X\n1,2,3\n", "t.csv: columns 'x' and 'X' differ only in case\n  cure: rename one of them"
        ),
        "of an empty name": kept("id,\n1,2\n", [(1, 2.0)], {"id": ID, "": NUMBER}),
        "of an empty name, twice": refused("id,x,,\n", "t.csv: two columns are named ''\n  cure: rename one of them"),
        "of odd names": kept('id,😀 é,"a\nb"\n1,2,3\n', [(1, 2.0, 3.0)], {"id": ID, "😀 é": NUMBER, "a\nb": NUMBER}),
    },
    "ids": {
        "twice": refused("id,x\n1,1\n2,2\n1,3\n", "t.csv: column 'id' repeats 1 ids: 1\n  cure: ids must be unique"),
        "twice in two files": refused(
            {"a.csv": "id,x\n1,1\n2,2\n", "b.csv": "id,x\n2,1\n3,2\n"},
            "a.csv, b.csv: column 'id' repeats 1 ids: 2\n  cure: ids must be unique",
        ),
        "the first ten": refused(
            "id,x\n" + "".join(f"{it},1\n{it},2\n" for it in range(12)),
            "t.csv: column 'id' repeats 12 ids: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n  cure: ids must be unique",
        ),
        "twice, of bytes": refused(
            {
                "a.parquet": pa.table({"id": [b"\xff", b"a"], "x": [1, 2]}),
                "b.parquet": pa.table({"id": [b"\xff"], "x": [1]}),
            },
            "a.parquet, b.parquet: column 'id' repeats 1 ids: ff\n  cure: ids must be unique",
            {"id": {**ID, "type": "binary"}, "x": NUMBER},
        ),
        "twice, secret": refused(
            "id,x\nb,1\na,2\nb,3\n",
            "t.csv: column 'id' repeats 1 ids: ***\n  cure: ids must be unique",
            {"id": {**TEXT, "secret": True}, "x": NUMBER},
        ),
        "01 and 1 as numbers": refused(
            "id,x\n01,1\n1,2\n", "t.csv: column 'id' repeats 1 ids: 1\n  cure: ids must be unique"
        ),
        "01 and 1 as text": kept("id,x\n01,1\n1,2\n", [("01", 1.0), ("1", 2.0)], {"id": TEXT, "x": NUMBER}),
        "null": aside("id,x\n,1\n2,2\n", [(None, 0, "id", "missing", "None")], [(2, 2.0)]),
        "null in Parquet": aside(
            pa.table({"id": [None, 2], "x": [1.0, 2.0]}), [(None, 0, "id", "missing", "None")], [(2, 2.0)]
        ),
        "of another type in another file": refused(
            {"a.parquet": table(1.0), "b.parquet": pa.table({"id": ["2"], "x": [1.0]})},
            wider("b.parquet", "string", "int64", "string", at="id"),
        ),
        "floats": refused(
            pa.table({"id": [1.0], "x": [1.0]}), wider("t.parquet", "float64", "int64", "float64", at="id")
        ),
        "floats in text": aside(
            "id,x\n1.0,1\n1e3,2\n3,3\n",
            [("1.0", 0, "id", "not int64", "1.0"), ("1e3", 1, "id", "not int64", "1e3")],
            [(3, 3.0)],
        ),
        "of 63 bits": kept(
            f"id,x\n{2**63 - 1},1\n{2**63 - 2},2\n{-(2**63)},3\n",
            [(2**63 - 1, 1.0), (2**63 - 2, 2.0), (-(2**63), 3.0)],
        ),
        "of 64 bits": kept(
            pa.table({"id": pa.array([2**64 - 1, 2**64 - 2], pa.uint64()), "x": [1.0, 2.0]}),
            [(2**64 - 1, 1.0), (2**64 - 2, 2.0)],
            {"id": {**ID, "type": "uint64"}, "x": NUMBER},
        ),
    },
    "constant column": {
        "number": kept("id,x\n1,5\n2,5\n", [(1, 5.0), (2, 5.0)], notices=("column 'x' is constant",)),
        "category": kept("id,x\n1,a\n2,a\n", [(1, "a"), (2, "a")], column(CODE), notices=("column 'x' is constant",)),
        "near": kept("id,x\n1,5\n2,5.0000000001\n", [(1, 5.0), (2, 5.0000000001)], notices=()),
    },
    "unseen category": {
        "within the limit": kept(
            "id,x\n" + "".join(f"{it},{'ab'[it % 2]}\n" for it in range(30)) + "30,z\n31,z\n32,<b>\n",
            None,
            column(CODE),
            notices=("column 'x': 3 cells in categories new to its contract: z, <b>",),
        ),
        "secret": kept(
            "id,x\n" + "".join(f"{it},{'ab'[it % 2]}\n" for it in range(30)) + "30,z\n",
            None,
            column({**CODE, "secret": True}),
            notices=("column 'x': 1 cells in categories new to its contract: ***",),
        ),
        "beyond the limit": refused(
            "id,x\n1,a\n2,z\n",
            "t.csv: column 'x': 1 of 2 cells are in categories new to its contract, such as z\n"
            "  cure: add them to its categories, or raise data.unseen_limit",
            column(CODE),
        ),
    },
    "class code": {
        "out of range": aside(
            "id,x\n1,0\n2,9\n3,10\n4,-1\n5,3.0000001\n6,3.0\n",
            [
                ("3", 2, "x", "no level from 0 to 9", "10"),
                ("4", 3, "x", "no level from 0 to 9", "-1"),
                ("5", 4, "x", "not int64", "3.0000001"),
                ("6", 5, "x", "not int64", "3.0"),
            ],
            [(1, 0), (2, 9)],
            column(LEVEL),
        ),
        "float": refused(table(3.0, 3.0000001), wider("t.parquet", "float64", "int64", "float64"), column(LEVEL)),
        "not in its order": aside(
            "id,x\n1,lo\n2,hi\n3,HI\n",
            [("3", 2, "x", "not in its order", "HI")],
            [(1, "lo"), (2, "hi")],
            column({"type": "string", "likelihood": "ordinal", "order": ["lo", "hi"]}),
        ),
    },
}


@pytest.mark.parametrize("case", parameters(TABLE))
def test_bad_input(tmp_path: Path, case: Case) -> None:
    """Ends as the table says: every row is published as it was, or set aside with its rule, or nothing is published."""
    case.judge(tmp_path)
