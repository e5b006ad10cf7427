"""The bad-input table, end to end: types. Values stay what they are, or their rows are set aside, or all is refused."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outcomes import ID, NUMBER, Case, arrow, aside, column, kept, parameters, passthrough, refused, table, wider

from pipeline.errors import ConfigError

VECTOR = {**NUMBER, "type": "float32[2]"}
IMAGE = {"type": "uint8[2]", "likelihood": "discretised_logistic", "levels": 256}
SUMMER, WINTER = (dt.datetime(2020, month, 1, tzinfo=dt.UTC) for month in (7, 1))
GAP, TWICE = dt.datetime(2020, 3, 29, 2, 30), dt.datetime(2020, 10, 25, 2, 30)
ZURICH = "never or twice in Europe/Zurich"
NO_ZONE = "no time zone; declare data.time_zone"
LISTS = pa.list_(pa.float32())


def of(kind: str) -> dict[str, Any]:
    """A number of this type."""
    return column({**NUMBER, "type": kind})


def flatten(kind: str, name: str = "t.parquet") -> str:
    """The refusal of what is no scalar."""
    return f"{name}: column 'x' is {kind}\n  cure: flatten it, or declare role = 'ignore' under columns.x"


def encoded(*arrays: pa.Array) -> Case:
    """Files of the same text, each stored in another way."""
    files = {f"{number}.arrow": arrow(_numbered(number, it)) for number, it in enumerate(arrays)}
    texts = [(10 * number + at, text) for number in range(len(arrays)) for at, text in enumerate(["b", "a", "a"])]
    return kept(files, texts, column("string"))


def _numbered(number: int, array: pa.Array) -> pa.Table:
    return pa.table({"id": pa.array(range(10 * number, 10 * number + len(array)), pa.int64()), "x": array})


def int96(path: Path) -> None:
    """A file of the timestamps that Spark and Impala wrote."""
    moments = pa.array([dt.datetime(2020, 1, 1), dt.datetime(9999, 1, 1)], pa.timestamp("us"))
    pq.write_table(table(moments), path, use_deprecated_int96_timestamps=True)


PLAIN = pa.array(["b", "a", "a"])
UUIDS = [uuid.UUID(int=number).bytes for number in (1, 2)]
TABLE: dict[str, dict[str, Case]] = {
    "integer overflow, huge numbers": {
        "int8": aside(
            "id,x\n1,300\n2,-128\n3,127\n4,-129\n",
            [("1", 0, "x", "not int8", "300"), ("4", 3, "x", "not int8", "-129")],
            [(2, -128), (3, 127)],
            of("int8"),
        ),
        "int64": aside(
            f"id,x\n1,{2**63}\n2,{2**63 - 1}\n3,{-(2**63) - 1}\n",
            [("1", 0, "x", "not int64", str(2**63)), ("3", 2, "x", "not int64", str(-(2**63) - 1))],
            [(2, 2**63 - 1)],
            of("int64"),
        ),
        "negative and unsigned": aside("id,x\n1,-1\n2,1\n", [("1", 0, "x", "not uint8", "-1")], [(2, 1)], of("uint8")),
        "2^53 + 1 as float64": aside(
            table(2**53 + 1, 2**53), [("1", 0, "x", "not float64", str(2**53 + 1))], [(2, 2.0**53)]
        ),
        "int32 as float32": refused(
            table(2**24, kind=pa.int32()), wider("t.parquet", "int32", "float32", "int32"), of("float32")
        ),
        "uint64 as int64": refused(
            table(1, kind=pa.uint64()), wider("t.parquet", "uint64", "int64", "uint64"), of("int64")
        ),
        "beyond 2^24": kept(
            table(-(2**24) - 1, 1),
            [(1, -(2**24) - 1), (2, 1)],
            of("int64"),
            notices=("column 'x': numbers beyond 16,777,216 are rounded for the model, which has 24 bits",),
        ),
        "of 64 bits": kept(
            table(2**64 - 1, 0, kind=pa.uint64()), [(1, 2**64 - 1), (2, 0)], column(passthrough("uint64"))
        ),
    },
    "decimals, dates, times": {
        "decimal128": kept(
            table(Decimal("1.10"), Decimal("-9007199254740993.5"), kind=pa.decimal128(19, 2)),
            [(1, 1.1), (2, -9007199254740993.5)],
        ),
        "decimal256": kept(table(Decimal("0.1"), Decimal("1e50"), kind=pa.decimal256(76, 2)), [(1, 0.1), (2, 1e50)]),
        "decimal as int64": aside(
            table(Decimal("1.00"), Decimal("1.50")), [("2", 1, "x", "not int64", "1.50")], [(1, 1)], of("int64")
        ),
        "decimal as float32": refused(
            table(Decimal("1.5"), kind=pa.decimal128(5, 2)),
            wider("t.parquet", "decimal128(5, 2)", "float32", "float64"),
            of("float32"),
        ),
        "dates": aside(
            "id,x\n1,2020-02-29\n2,2021-02-29\n3,29.02.2020\n4,2020-2-9\n",
            [
                ("2", 1, "x", "not date", "2021-02-29"),
                ("3", 2, "x", "not date", "29.02.2020"),
                ("4", 3, "x", "not date", "2020-2-9"),
            ],
            [(1, dt.date(2020, 2, 29))],
            column("date"),
        ),
        "dates before the year 1": aside(
            "id,x\n1,0000-12-31\n2,0001-01-01\n",
            [("1", 0, "x", "beyond the years 1 to 9999", "0000-12-31")],
            [(2, dt.date(1, 1, 1))],
            column("date"),
        ),
        "times": aside(
            "id,x\n1,01:02:03\n2,25:00:00\n3,01:02\n",
            [("2", 1, "x", "not time", "25:00:00")],
            [(1, dt.time(1, 2, 3)), (3, dt.time(1, 2))],
            column("time"),
        ),
        "timestamps with a zone": kept(
            table(SUMMER, WINTER, kind=pa.timestamp("ns", "Europe/Zurich")),
            [(1, SUMMER), (2, WINTER)],
            column("timestamp"),
        ),
        "timestamps without": refused(
            table(SUMMER, kind=pa.timestamp("us")),
            "t.parquet: column 'x' is timestamp[us], without a time zone\n"
            "  cure: declare data.time_zone, such as 'UTC' or 'Europe/Zurich'",
            column("timestamp"),
        ),
        "timestamps without, declared": aside(
            table(dt.datetime(2020, 7, 1, 2), GAP, TWICE),
            [("2", 1, "x", ZURICH, "2020-03-29 02:30:00"), ("3", 2, "x", ZURICH, "2020-10-25 02:30:00")],
            [(1, SUMMER)],
            column("timestamp"),
            time_zone="Europe/Zurich",
        ),
        "timestamps in text": aside(
            "id,x\n1,2020-07-01T00:00:00Z\n2,2020-07-01 00:00:00\n3,2020-07-01T02:00:00+02:00\n4,1577836800\n",
            [("2", 1, "x", NO_ZONE, "2020-07-01 00:00:00"), ("4", 3, "x", "not timestamp", "1577836800")],
            [(1, SUMMER), (3, SUMMER)],
            column("timestamp"),
        ),
        "timestamps between microseconds": aside(
            table(1, 1000, kind=pa.timestamp("ns", "UTC")),
            [("1", 0, "x", "not timestamp", "1970-01-01 00:00:00.000000001+00:00")],
            [(2, dt.datetime(1970, 1, 1, microsecond=1, tzinfo=dt.UTC))],
            column("timestamp"),
        ),
        "timestamps beyond the year 9999": aside(
            table(10**18, 0, kind=pa.timestamp("us", "UTC")),
            [("1", 0, "x", "beyond the years 1 to 9999", "1000000000000000000 of timestamp[us, tz=UTC]")],
            [(2, dt.datetime(1970, 1, 1, tzinfo=dt.UTC))],
            column("timestamp"),
        ),
        "timestamps that overflow": aside(
            {"t.arrow": arrow(table(2**60, 0, kind=pa.timestamp("s", "UTC")))},
            [("1", 0, "x", "not timestamp", f"{2**60} of timestamp[s, tz=UTC]")],
            [(2, dt.datetime(1970, 1, 1, tzinfo=dt.UTC))],
            column("timestamp"),
        ),
        "int96": kept(
            {"t.parquet": int96},
            [(1, WINTER), (2, dt.datetime(9999, 1, 1, tzinfo=dt.UTC))],
            column("timestamp"),
            time_zone="UTC",
        ),
        "an integer is no timestamp": refused(
            table(1577836800), wider("t.parquet", "int64", "timestamp", "int64"), column("timestamp")
        ),
        "durations": aside(
            table(1, 1000, kind=pa.duration("ns")),
            [("1", 0, "x", "not duration", "0 days 00:00:00.000000001")],
            [(2, dt.timedelta(microseconds=1))],
            column("duration"),
        ),
        "durations in text": refused(
            "id,x\n1,3 days\n",
            "t.csv: column 'x' is string, which tells no duration\n  cure: declare a number, and its unit",
            column("duration"),
        ),
        "intervals": refused(
            {"t.arrow": arrow(table(pa.MonthDayNano([1, 2, 3])))},
            flatten("month_day_nano_interval", "t.arrow"),
            column("duration"),
        ),
    },
    "dictionaries, run-end, views, large": {
        "unified by value": encoded(
            PLAIN,
            PLAIN.dictionary_encode(),
            pa.DictionaryArray.from_arrays(pa.array([1, 2, 2], pa.int8()), ["z", "b", "a"]),
            PLAIN.cast(pa.large_string()),
            PLAIN.cast(pa.string_view()),
            pa.RunEndEncodedArray.from_arrays([1, 3], ["b", "a"]),
        ),
        "null in the dictionary": kept(
            {"t.arrow": arrow(table(pa.DictionaryArray.from_arrays([0, 1, None], ["a", None])))},
            [(1, "a"), (2, None), (3, None)],
            column(passthrough("string", nullable=True)),
        ),
        "index out of range": refused(
            {"t.arrow": arrow(table(pa.DictionaryArray.from_arrays(pa.array([0, 5]), pa.array(["a"]), safe=False)))},
            "t.arrow: cannot be read: In column 1: Invalid: Dictionary indices invalid: Invalid: "
            "Value at position 1 out of bounds: 5 (should be in [0, 0])\n  cure: check data.format and the file",
            column("string"),
        ),
    },
    "nested": {
        "struct": refused(table({"a": 1}), flatten("struct<a: int64>")),
        "map": refused(table([("a", 1)], kind=pa.map_(pa.string(), pa.int8())), flatten("map<string, int8 ('x')>")),
        "list": refused(table([1.0], [2.0]), flatten("list<element: double>")),
        "union": refused(
            {
                "t.arrow": arrow(
                    table(
                        pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])
                    )
                )
            },
            flatten("sparse_union<0: int64=0, 1: string=1>", "t.arrow"),
        ),
        "extension": refused(
            table(pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1], pa.int8()))),
            flatten("extension<arrow.bool8>"),
            column("bool"),
        ),
        "ignored": kept(table({"a": 1}), [(1,)], {"id": ID, "x": {"type": "struct", "role": "ignore"}}),
        "ragged vectors": aside(
            table([1, 2], [1], [], [1, 2, 3], [3, 4], kind=LISTS),
            [
                ("2", 1, "x", "length is not 2", "[1.0]"),
                ("3", 2, "x", "length is not 2", "[]"),
                ("4", 3, "x", "length is not 2", "[1.0, 2.0, 3.0]"),
            ],
            [(1, [1.0, 2.0]), (5, [3.0, 4.0])],
            column(VECTOR),
        ),
        "ragged vectors in JSON lines": aside(
            {"t.jsonl": '{"id":1,"x":[1,2]}\n{"id":2,"x":[1]}\n{"id":3,"x":5}\n{"id":4,"x":[1,"a"]}\n'},
            [
                ("2", 1, "x", "length is not 2", "['1']"),
                ("3", 2, "x", "length is not 2", "['5']"),
                ("4", 3, "x", "not float32", "['1', 'a']"),
            ],
            [(1, [1.0, 2.0])],
            column(VECTOR),
        ),
        "holes in vectors": aside(
            table([1, 2], None, [1, None], kind=LISTS),
            [("2", 1, "x", "missing", "None"), ("3", 2, "x", "missing", "[1.0, None]")],
            [(1, [1.0, 2.0])],
            column(VECTOR),
        ),
        "vectors of another length": refused(
            table([1, 2, 3], kind=pa.list_(pa.float32(), 3)),
            wider("t.parquet", "float32[3]", "float32[2]", "float32[3]"),
            column(VECTOR),
        ),
        "vectors in CSV": refused(
            'id,x\n1,"[1, 2]"\n',
            "t.csv: column 'x' is string, not float32[2]\n"
            "  cure: keep vectors as lists, in Parquet, Arrow IPC, npy or JSON lines",
            column(VECTOR),
        ),
    },
    "binary, uuid, json": {
        "binary": kept(table(b"\xff\0", b"a"), [(1, b"\xff\0"), (2, b"a")], column("binary")),
        "binary as text": aside(
            table(b"\xff", b"ok"), [("1", 0, "x", "not string", r"b'\xff'")], [(2, "ok")], column("string")
        ),
        "uuid as id": kept(
            pa.table(
                {"id": pa.ExtensionArray.from_storage(pa.uuid(), pa.array(UUIDS, pa.binary(16))), "x": [1.0, 2.0]}
            ),
            [(UUIDS[0], 1.0), (UUIDS[1], 2.0)],
            {"id": {"type": "binary", "role": "id"}, "x": NUMBER},
        ),
        "json": kept(
            table(pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a":1}', "1"]))),
            [(1, '{"a":1}'), (2, "1")],
            column("string"),
        ),
        "json as a number": refused(
            table(pa.ExtensionArray.from_storage(pa.json_(), pa.array(["1"]))),
            wider("t.parquet", "extension<arrow.json>", "float64", "string"),
        ),
        "geometry": refused(
            table(pa.ExtensionArray.from_storage(pa.opaque(pa.binary(), "wkb", "geo"), pa.array([b"a"]))),
            flatten("extension<arrow.opaque[storage_type=binary, type_name=wkb, v"),
            column("binary"),
        ),
    },
    "bool, float16, images": {
        "bool": kept(table(True, False), [(1, True), (2, False)], column({"type": "bool", "likelihood": "bernoulli"})),
        "0 and 1 as bool": aside(
            table(0, 1, 2, kind=pa.int8()), [("3", 2, "x", "not bool", "2")], [(1, False), (2, True)], column("bool")
        ),
        "bool as int8": refused(table(True), wider("t.parquet", "bool", "int8", "bool"), of("int8")),
        "float16": kept(table(np.float16(1.5), np.float16(65504)), [(1, 1.5), (2, 65504.0)], of("float16")),
        "beyond float16": aside(
            "id,x\n1,65504\n2,70000\n", [("2", 1, "x", "not finite", "70000")], [(1, 65504.0)], of("float16")
        ),
        "uint8": kept(table([0, 255], [1, 2], kind=pa.list_(pa.uint8())), [(1, [0, 255]), (2, [1, 2])], column(IMAGE)),
        "no wrap": aside(
            {"t.jsonl": '{"id":1,"x":[0,256]}\n{"id":2,"x":[0,255]}\n{"id":3,"x":[-1,255]}\n'},
            [("1", 0, "x", "not uint8", "['0', '256']"), ("3", 2, "x", "not uint8", "['-1', '255']")],
            [(2, [0, 255])],
            column(IMAGE),
        ),
        "int8 is no uint8": refused(
            table([-1, 127], kind=pa.list_(pa.int8())),
            wider("t.parquet", "list<element: int8>", "uint8[2]"),
            column(IMAGE),
        ),
        "npy": kept(
            {"t.npy": lambda path: np.save(path, np.array([[[0, 255]], [[1, 2]]], np.uint8))},
            [(0, [0, 255]), (1, [1, 2])],
            {"values": IMAGE},
        ),
    },
    "named like SQL or HTML": {
        "columns and categories": kept(
            'id,"x""; DROP TABLE t; --",<script>\n1,1,<b>&\n2,3,\'; --\n',
            [(1, 1.0, "<b>&"), (2, 3.0, "'; --")],
            {"id": ID, 'x"; DROP TABLE t; --': NUMBER, "<script>": {"type": "string", "likelihood": "categorical"}},
        ),
    },
}


@pytest.mark.parametrize("case", parameters(TABLE))
def test_bad_types(tmp_path: Path, case: Case) -> None:
    """End as the table says: no value is ever another than it was."""
    case.judge(tmp_path)


def test_bytes_are_no_feature(tmp_path: Path) -> None:
    """Refused with the configuration, before any file is looked at."""
    with pytest.raises(ConfigError) as caught:
        kept(table(b"a"), None, of("binary")).config(tmp_path)
    assert str(caught.value) == (
        "config: columns.x: type = 'binary' with role = 'feature': no likelihood takes it, use 'passthrough'"
    )


def test_naughty_strings(tmp_path: Path, shared_data: Path) -> None:
    """Each comes out as it went in, as text and as an id, through CSV's quotes, JSON's escapes and Parquet."""
    strings = sorted(set(json.loads((shared_data / "odd/naughty-strings.json").read_text())))
    lines = "".join(json.dumps({"id": number, "x": it}) + "\n" for number, it in enumerate(strings))
    quoted = "".join(f'{number},"{it.replace(chr(34), chr(34) * 2)}"\n' for number, it in enumerate(strings) if it)
    expected = list(enumerate(strings))
    kept({"t.jsonl": lines}, expected, column("string")).judge(tmp_path / "jsonl")
    kept("id,x\n" + quoted, [it for it in expected if it[1]], column("string")).judge(tmp_path / "csv")
    ids = pa.table({"id": strings, "x": [1.0] * len(strings)})
    kept(ids, [(it, 1.0) for it in strings], {"id": {**ID, "type": "string"}, "x": NUMBER}).judge(tmp_path / "parquet")
