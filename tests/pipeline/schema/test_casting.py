"""One column as its declared type: what is kept is unchanged, what is not is named by the rule it breaks."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.schema import arrow_type, cast
from pipeline.schema.cells import PATTERNS, Reading
from pipeline.schema.kinds import INSTANT, SCALARS

VECTOR = arrow_type("float32[2]")
DATE, TIME, DURATION = SCALARS["date"], SCALARS["time"], SCALARS["duration"]
LAWS = settings(derandomize=True, deadline=None, max_examples=60)


def ruled(array: pa.Array, kind: pa.DataType, *, nullable: bool = False, **reading: Any) -> dict[str, list[int]]:
    """The rows that break each rule."""
    _, broken = cast(array, kind, nullable=nullable, reading=Reading(**reading))
    return {rule: np.flatnonzero(mask).tolist() for rule, mask in broken.items()}


@pytest.mark.parametrize(
    ("array", "kind", "broken"),
    [
        (pa.array(["1", "x", "2.5", " 3"]), pa.int64(), {"not int64": [1, 2, 3]}),
        (pa.array(["1.5", "1e3", "tall", "1,5"]), pa.float64(), {"not float64": [2, 3]}),
        (pa.array(["true", "False", "1", "0", "yes", "2"]), pa.bool_(), {"not bool": [4, 5]}),
        (pa.array(["127", "128", "-129"]), pa.int8(), {"not int8": [1, 2]}),
        (pa.array([255, 256, -1]), pa.uint8(), {"not uint8": [1, 2]}),
        (pa.array(["9223372036854775807", "9223372036854775808"]), pa.int64(), {"not int64": [1]}),
        (pa.array([1.0, 1.5, 2.0]), pa.int32(), {"not int32": [1]}),
        (pa.array([1, 2**53 + 1]), pa.float64(), {"not float64": [1]}),
        (pa.array([Decimal("1.0"), Decimal("1.5")]), pa.int64(), {"not int64": [1]}),
        (pa.array([b"a", b"\xff"]), pa.string(), {"not string": [1]}),
        (pa.array([1, None, 3]), pa.int64(), {"missing": [1]}),
        (pa.nulls(2), pa.float64(), {"missing": [0, 1]}),
        (pa.array(["x", None, "1"]), pa.int64(), {"not int64": [0], "missing": [1]}),
        (pa.array([1.0, float("nan"), float("inf"), -float("inf")]), pa.float64(), {"not finite": [1, 2, 3]}),
        (pa.array(["nan", "inf", "1"]), pa.float32(), {"not finite": [0, 1]}),
        (pa.array([1.0, 1e300]), pa.float32(), {"not finite": [1]}),
        (pa.array([1.0, 1e5]), pa.float16(), {"not finite": [1]}),
        (pa.array([[1.0, 2.0], [1.0], [1.0, 2.0, 3.0], []]), VECTOR, {"length is not 2": [1, 2, 3]}),
        (pa.array([["1", "2"], ["1", "x"]]), VECTOR, {"not float32": [1]}),
        (pa.array([[1.0, 2.0], [1.0, float("nan")], [float("inf"), 1.0]]), VECTOR, {"not finite": [1, 2]}),
        (pa.array([[1.0, 2.0], None]), VECTOR, {"missing": [1]}),
        (pa.array([[1, 2]], pa.large_list(pa.int64())), VECTOR, {}),
        (pa.array(["2024-02-29", "2023-02-29", "2024-2-9", "today"]), DATE, {"not date": [1, 2, 3]}),
        (pa.array([0, 86_400_001], pa.date64()), DATE, {"not date": [1]}),
        (pa.array(["12:30", "12:30:01.5", "24:00", "12", "12:30Z"]), TIME, {"not time": [2, 3, 4]}),
        (pa.array([1000, 1001], pa.time64("ns")), TIME, {"not time": [1]}),
        (pa.array([1000, 1001], pa.duration("ns")), DURATION, {"not duration": [1]}),
        (pa.array([1, 2**62], pa.duration("s")), DURATION, {"not duration": [1]}),
        (pa.array([1000, 1001], pa.timestamp("ns", "UTC")), INSTANT, {"not timestamp": [1]}),
        (pa.array([1, 2**62], pa.timestamp("s", "UTC")), INSTANT, {"not timestamp": [1]}),
        (pa.array([2048, 2049]), pa.float16(), {"not float16": [1]}),
        (pa.array([0x7FFFFFFFFFFFFFFF, 2**53]), pa.float64(), {"not float64": [0]}),
        (pa.array([Decimal("1"), Decimal("2")], pa.decimal32(5, 0)), pa.int64(), {}),
        (pa.array([2**64 - 1, 1], pa.uint64()), pa.int64(), {"not int64": [0]}),
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
        (pa.array([1, None], pa.timestamp("us")), pa.int64()),
        (pa.array([1, None], pa.date32()), pa.int32()),
        (pa.array([1, None], pa.date32()), INSTANT),
        (pa.array([1, None]), INSTANT),
        (pa.array([1, None]), DATE),
        (pa.array(["1", None]), DURATION),
        (pa.array([1.5, None]), pa.string()),
        (pa.array([[1], None]), pa.string()),
        (pa.array(["[1, 2]", None]), VECTOR),
        (pa.array([[1.0, 2.0, 3.0], None], pa.list_(pa.float32(), 3)), VECTOR),
        (pa.array([pa.MonthDayNano([1, 2, 3]), None]), pa.int64()),
    ],
    ids=lambda it: str(it.type if isinstance(it, pa.Array) else it),
)
def test_a_column_that_has_no_way_to_its_type_breaks_the_rule_in_each_row(array: pa.Array, kind: pa.DataType) -> None:
    """Structs, bits of dates, vectors of another length: each row with a value is named, no exception."""
    found = ruled(array, kind)
    assert found.pop("missing") == [1]
    assert list(found.values()) == [[0]]
    assert next(iter(found)).startswith(("not ", "length is not 2"))


def test_a_null_inside_a_vector_is_missing_too() -> None:
    """A vector with a hole is refused where cells may not be missing, and kept where they may."""
    array = pa.array([[1.0, 2.0], [None, 2.0]], VECTOR)
    assert ruled(array, VECTOR, nullable=True) == {}
    assert ruled(array, VECTOR) == {"missing": [1]}


def test_nan_is_missing_where_it_is_declared_so() -> None:
    """NaN becomes null, which is refused or kept as any other null; infinity stays what it is."""
    array = pa.array([1.0, float("nan"), float("inf"), None])
    typed, broken = cast(array, pa.float64(), nullable=True, reading=Reading(nan_is_missing=True))
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
    typed, broken = cast(array, VECTOR, nullable=True, reading=Reading(nan_is_missing=True))
    assert broken == {}
    assert typed.to_pylist() == [[1.0, None], [1.0, 2.0]]


@pytest.mark.parametrize(
    ("zone", "text", "instant"),
    [
        ("", "2024-07-01T12:00:00Z", "2024-07-01 12:00:00.000000Z"),
        ("", "2024-07-01 12:00+02:00", "2024-07-01 10:00:00.000000Z"),
        ("UTC", "2024-07-01T12:00:00-0330", "2024-07-01 15:30:00.000000Z"),
        ("UTC", "2024-07-01", "2024-07-01 00:00:00.000000Z"),
        ("Europe/Zurich", "2024-07-01T12:00:00.123456", "2024-07-01 10:00:00.123456Z"),
        ("Europe/Zurich", "2024-01-01 12:00", "2024-01-01 11:00:00.000000Z"),
        ("Europe/Zurich", "2024-01-01 12:00Z", "2024-01-01 12:00:00.000000Z"),
    ],
)
def test_text_that_says_an_instant_is_one(zone: str, text: str, instant: str) -> None:
    """ISO 8601, in UTC; where it says no zone, the declared one holds."""
    typed, broken = cast(pa.array([text, None]), INSTANT, nullable=True, reading=Reading(time_zone=zone))
    assert (typed.cast(pa.string()).to_pylist(), broken) == ([instant, None], {})


def test_times_that_the_clock_never_or_twice_showed_are_none() -> None:
    """The hour that summer time skips, and the one it repeats; in text as in typed columns."""
    text = pa.array(
        ["2024-03-31T02:30:00", "2024-10-27T02:30:00", "2024-10-27T03:30:00", "2024-10-27T02:30:00+01:00", "x"]
    )
    assert ruled(text, INSTANT, time_zone="Europe/Zurich") == {
        "never or twice in Europe/Zurich": [0, 1],
        "not timestamp": [4],
    }
    typed = text.slice(0, 3).cast(pa.timestamp("ms"))
    assert ruled(typed, INSTANT, time_zone="Europe/Zurich") == {"never or twice in Europe/Zurich": [0, 1]}
    assert ruled(text, INSTANT) == {"no time zone; declare data.time_zone": [0, 1, 2], "not timestamp": [4]}


def test_a_time_zone_that_nobody_knows_is_a_config_error() -> None:
    """The setting, its value, and an example."""
    with pytest.raises(ConfigError) as caught:
        ruled(pa.array([1], pa.timestamp("us")), INSTANT, time_zone="Mars/Olympus")
    assert str(caught.value) == (
        "data.time_zone = 'Mars/Olympus' is not known\n  cure: a name such as 'Europe/Zurich' or 'UTC'"
    )


def test_the_decimal_mark_is_the_declared_one() -> None:
    """1,5 is a number where the mark is a comma, and 1.5 is none; nothing is guessed."""
    text = pa.array(["1,5", "1.5", "1.234,5", "2"])
    typed, broken = cast(text, pa.float64(), nullable=False, reading=Reading(decimal=","))
    assert np.flatnonzero(broken["not float64"]).tolist() == [1, 2]
    assert (typed[0].as_py(), typed[3].as_py()) == (1.5, 2.0)
    assert ruled(text, pa.float64()) == {"not float64": [0, 2]}


def test_decimals_become_the_nearest_float64() -> None:
    """By declaration: as Python rounds them."""
    array = pa.array([Decimal("0.10"), Decimal("123456789.12"), None])
    typed, broken = cast(array, pa.float64(), nullable=True)
    assert (typed.to_pylist(), broken) == ([0.1, 123456789.12, None], {})


STORED = {
    "dictionary": lambda it: it.dictionary_encode(),
    "run ends": pc.run_end_encode,
    "large": lambda it: it.cast(pa.large_string()),
    "view": lambda it: it.cast(pa.string_view()),
    "slice": lambda it: pa.concat_arrays([pa.array(["padding"]), it, pa.array(["padding"])]).slice(1, len(it)),
    "runs of a dictionary": lambda it: pa.RunEndEncodedArray.from_arrays(
        pa.array(range(1, len(it) + 1), pa.int32()), it.dictionary_encode()
    ),
    "slice of runs": lambda it: pc.run_end_encode(pa.concat_arrays([pa.array(["padding"]), it])).slice(1, len(it)),
    "json": lambda it: pa.ExtensionArray.from_storage(pa.json_(), it),
}
CELLS = [
    None,
    "",
    "1",
    "-1",
    "300",
    "2.5",
    "x",
    "nan",
    "inf",
    "true",
    "9" * 30,
    "日本",
    "1e3",
    " 1",
    "2024-02-29",
    "12:30",
]


@pytest.mark.parametrize("storage", STORED)
@pytest.mark.parametrize("kind", ["int8", "uint64", "float16", "float64", "bool", "string", "date", "time"])
def test_storage_does_not_matter(kind: str, storage: str) -> None:
    """Dictionaries, runs, large, view, sliced and JSON columns are kept and refused as the plain one is."""
    plain = pa.array(CELLS * 2)
    typed, broken = cast(plain, SCALARS[kind], nullable=False)
    other, also = cast(STORED[storage](plain), SCALARS[kind], nullable=False)
    assert repr(other.to_pylist()) == repr(typed.to_pylist())
    assert {rule: rows.tolist() for rule, rows in also.items()} == {
        rule: rows.tolist() for rule, rows in broken.items()
    }


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, pa.list_view, pa.large_list_view])
def test_vectors_may_be_stored_as_any_list(kind: Any) -> None:
    """Lists and list views, large or not, of numbers however stored."""
    rows = [[1, 2], None, [3], [5, 6]]
    typed, broken = cast(pa.array(rows, kind(pa.int8())).slice(0, 4), VECTOR, nullable=True)
    assert np.flatnonzero(broken["length is not 2"]).tolist() == [2]
    assert typed.take(pa.array([0, 1, 3])).to_pylist() == [[1, 2], [None, None], [5, 6]]
    assert cast(pa.array(rows, kind(pa.int8())).slice(3, 1), VECTOR, nullable=True)[0].to_pylist() == [[5, 6]]


TEXTS = st.text("0123456789+-.eEinfatyINFTYxXrusl:TZ ,_", max_size=12)


@LAWS
@given(
    text=st.one_of(
        TEXTS,
        st.floats().map(repr),
        st.integers().map(str),
        st.dates().map(str),
        st.datetimes().map(lambda it: f"{it}Z"),
    )
)
def test_what_is_not_tried_could_not_be_read(text: str) -> None:
    """The patterns that spare slow tries match everything that Arrow reads."""
    cells = pa.array([text])
    for name in SCALARS.keys() - {"string", "binary", "time", "duration"}:
        pattern = next(it for prefix, it in PATTERNS.items() if name.startswith(prefix))
        try:
            cells.cast(SCALARS[name])
        except pa.ArrowInvalid:
            continue
        assert pc.match_substring_regex(cells, pattern)[0].as_py(), (text, name)


TEXT_OF = {
    "int64": st.integers(-(2**63), 2**63 - 1).map(lambda it: (str(it), it)),
    "float64": st.floats(allow_nan=False, allow_infinity=False).map(lambda it: (repr(it), it)),
    "bool": st.booleans().map(lambda it: (str(it).lower(), it)),
    "date": st.dates().map(lambda it: (it.isoformat(), it)),
    "time": st.times().map(lambda it: (it.isoformat(), it)),
    "timestamp": st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29), timezones=st.just(dt.UTC)).map(
        lambda it: (it.isoformat(), it)
    ),
    "string": st.text(st.characters(codec="utf-8")).map(lambda it: (it, it)),
}


@LAWS
@given(data=st.data())
@pytest.mark.parametrize("kind", TEXT_OF)
def test_what_text_says_exactly_is_what_comes(kind: str, data: st.DataObject) -> None:
    """Every value written as text is read as that value."""
    pairs = data.draw(st.lists(TEXT_OF[kind], max_size=8))
    typed, broken = cast(pa.array([text for text, _ in pairs], pa.string()), SCALARS[kind], nullable=False)
    assert broken == {}
    assert typed.to_pylist() == [value for _, value in pairs]
