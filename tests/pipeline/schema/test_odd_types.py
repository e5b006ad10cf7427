"""Whatever type a column has, it is taken, set aside or refused by name; it is never a stranger's exception."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from pipeline.columns import ColumnConfig
from pipeline.errors import DataError
from pipeline.schema import apply, arrow_type, cast
from pipeline.survey import Survey

FAR = 2**62
DECIMALS = [Decimal("1.5"), None, Decimal("-1.0"), Decimal("0.0")]
STORED = pa.array([[1, 2], None, [3, 4], [5, 6]], pa.list_(pa.int8(), 2))
ARRAYS: list[pa.Array] = [
    *(pa.array([1, 0, None, 7], it) for it in (pa.int8(), pa.uint8(), pa.int64(), pa.uint64(), pa.float32())),
    pa.array(np.array([1, np.nan, np.inf, 0], np.float16)),
    pa.array([True, None, False, True]),
    pa.array(["1", "x", None, "2024-01-01"]),
    pa.array([b"1", b"\xff", None, b""]),
    pa.array([b"ab", None, b"cd", b"ab"], pa.binary(2)),
    pa.array([dt.date(2024, 1, 1), None, dt.date(1, 1, 1), dt.date(9999, 1, 1)]),
    pa.array([1, None, FAR, -(2**63)], pa.date64()),
    *(
        pa.array([1, None, -1, FAR], pa.timestamp(it, zone))
        for it in ("s", "ns")
        for zone in (None, "UTC", "Asia/Tokyo")
    ),
    pa.array([1, None, 2, 3], pa.time32("ms")),
    pa.array([1, None, 2, 3], pa.time64("ns")),
    *(pa.array([1, None, -1, FAR], pa.duration(it)) for it in ("s", "us", "ns")),
    *(pa.array(DECIMALS, it) for it in (pa.decimal32(5, 1), pa.decimal128(20, 3), pa.decimal256(60, 3))),
    pa.array([{"a": 1}, None, {"a": 2}, {"a": None}]),
    pa.array([[("a", 1)], None, [], [("b", 2)]], pa.map_(pa.string(), pa.int8())),
    pa.array([[1, 2], None, [3], []]),
    pa.array([["1", "2"], None, ["x", "y"], ["1", None]]),
    pa.array([[1, 2], None, [3], []], pa.large_list_view(pa.float32())),
    pa.array([[[1.0]], None, [], [[2.0, 3.0]]]),
    STORED,
    pa.nulls(4),
    pa.array([None] * 4, pa.list_(pa.float32(), 2)),
    pa.array([pa.MonthDayNano([1, 2, 3]), None, None, None]),
    pa.UnionArray.from_sparse(pa.array([0, 1, 0, 0], pa.int8()), [pa.array([1, 2, 3, 4]), pa.array(["a"] * 4)]),
    pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"a" * 16] * 3 + [None], pa.binary(16))),
    pa.ExtensionArray.from_storage(pa.json_(), pa.array(["1", "{}", None, "x"])),
    pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, None, 1], pa.int8())),
    pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int8(), [2]), STORED),
]


def stored(array: pa.Array) -> list[pa.Array]:
    """The array in each encoding that its type can have."""
    found, runs = [array], pa.array([1, 2, 3, 4], pa.int32())
    for encoded in (array.dictionary_encode, lambda: pa.RunEndEncodedArray.from_arrays(runs, array)):
        try:
            found.append(encoded())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
    return found


@pytest.mark.parametrize("array", [it for array in ARRAYS for it in stored(array)], ids=lambda it: str(it.type)[:60])
@pytest.mark.parametrize(
    "kind", ["int8", "uint64", "float16", "bool", "string", "binary", "date", "timestamp", "int8[2]"]
)
def test_no_pair_of_types_is_a_crash(array: pa.Array, kind: str) -> None:
    """All rows are kept or set aside, of the declared type; or the column is refused."""
    column = ColumnConfig(type=kind, role="passthrough", nullable=not kind.endswith("]"))
    batch = pa.RecordBatch.from_arrays([array], names=["x"])
    for settings in ({}, {"untyped": ["x"]}, {"time_zone": "Europe/Zurich"}):
        try:
            found = apply(batch, {"x": column}, file="f", positions=range(4), **settings)
        except DataError:
            continue
        found.batch.validate(full=True)
        assert len(found.batch) + len(found.rejected) == 4
        assert found.batch["x"].type == arrow_type(kind)
    typed, broken = cast(array, arrow_type(kind), nullable=False)
    assert (len(typed), {len(rows) for rows in broken.values()} - {4}) == (4, set())


LOSSES = {"not finite", "not date", "not time", "not timestamp", "not duration"}


@pytest.mark.parametrize("array", [it for array in ARRAYS for it in stored(array)], ids=lambda it: str(it.type)[:60])
def test_every_type_has_a_contract_that_its_rows_keep(array: pa.Array) -> None:
    """But for cells that are not finite, or finer or further than a microsecond tells."""
    batch, survey = pa.RecordBatch.from_arrays([array], names=["x"]), Survey()
    survey.add(batch, file="f")
    assert survey.remarks()["x"]
    found = apply(
        batch, survey.columns(), file="f", positions=range(4), nan_is_missing=survey.nan, time_zone="Europe/Zurich"
    )
    assert {it.rule for it in found.rejected} <= LOSSES
