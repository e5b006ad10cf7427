"""Columns of times as features: through a model, its reconstructions, and what serves it."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import batch, cells, column, feature

from pipeline import register, serving
from pipeline.codec import Codec
from pipeline.features import Feature, fitting
from vae.config import ModelConfig, Network
from vae.likelihoods import Columns
from vae.model import VAE

STEP = 1e-7
"""A little over the rounding of float32, relative to a model value or to 1."""
KINDS = ("timestamp", "date", "time", "duration")


def times(rows: int) -> pa.RecordBatch:
    """A column of each kind; every fifth cell is missing."""
    start = datetime(2025, 1, 1, tzinfo=UTC)
    found = {
        "timestamp": [start + timedelta(hours=7 * row, microseconds=row) for row in range(rows)],
        "date": [date(2025, 1, 1) + timedelta(days=row) for row in range(rows)],
        "time": [time(row % 24, row % 60, 1) for row in range(rows)],
        "duration": [timedelta(minutes=row, microseconds=row) for row in range(rows)],
    }
    return batch(**{k: cells([None if row % 5 == 4 else it for row, it in enumerate(v)], k) for k, v in found.items()})


def codec_of(table: pa.RecordBatch) -> Codec:
    """An untrained model of the table."""
    columns = {kind: column(kind, "student_t") for kind in KINDS}
    features = fitting.fit([table], columns)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Codec(VAE(ModelConfig(columns=features.model_columns(), network=Network(latent=2))), features)


def test_times_are_encoded_and_decoded() -> None:
    """Codes are finite, and a reconstruction has the table's own types, nothing beyond the calendar."""
    table = times(40)
    codec = codec_of(table)
    codes = codec.encode(table)
    assert np.isfinite(codes.mu).all()
    decoded = codec.decode(np.concatenate([codes.mu, 1e6 * codes.mu]))
    assert [it.type for it in decoded.type] == [it.type for it in table.schema]
    assert all(cell is not None for row in decoded.to_pylist() for cell in row.values())


def test_times_are_served() -> None:
    """MLflow's DataFrame holds text and seconds; from it come the very codes of the table's own cells."""
    table = times(20)
    codec = codec_of(table)
    frame = register.frame(codec.features, pa.Table.from_batches([table]))
    assert frame["timestamp"][0] == "2025-01-01 00:00:00.000000Z"
    assert frame["duration"][1] == 60.000001
    assert "required" in str(register._signature(codec.features))
    encoder = serving.Encoder()
    encoder.codec = codec
    again = pd.DataFrame({name: frame[name].tolist() for name in frame})
    assert np.array_equal(np.stack(encoder.predict(None, again)["mu"].to_list()), codec.encode(table).mu)
    assert list(register.example(codec).columns) == list(KINDS)


TIMES: dict[str, tuple[list[Any], tuple[float, ...]]] = {
    "timestamp": (
        [datetime(2024, 2, 29, 23, 59, 59, 999_999, UTC), datetime(2026, 1, 1, tzinfo=UTC), None,
         datetime(2025, 6, 1, 12, 30, tzinfo=UTC)],
        (86_400, 604_800, 31_556_952),
    ),
    "date": ([date(2024, 2, 29), date(2026, 1, 1), None, date(1999, 12, 31)], (7, 365.2425)),
    "time": ([time(0, 0), time(23, 59, 59, 999_999), None, time(12, 30)], (86_400,)),
    "duration": ([timedelta(0), timedelta(days=3, microseconds=1), None, timedelta(hours=5)], ()),
}  # fmt: skip
ENDS: dict[str, tuple[Any, Any]] = {
    "timestamp": (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_936, UTC)),
    "date": (date(1, 1, 1), date(9999, 12, 31)),
    "time": (time(0, 0), time(23, 59, 59, 999_999)),
    "duration": (timedelta(microseconds=1024 - 2**63), timedelta(microseconds=2**63 - 1024)),
}


@pytest.mark.parametrize("transform", ["standardise", "robust"])
@pytest.mark.parametrize("kind", TIMES)
def test_every_time_comes_back(kind: str, transform: str) -> None:
    """Dates to the day; times within 1e-7 of their distance from the center, or of the scale; missing ones stay so."""
    moments, waves = TIMES[kind]
    array = cells(moments, kind)
    found = feature(array, kind, "gaussian", transform=transform)
    assert found.column().periods == waves
    values, observed = found.transform(array)
    assert observed.ravel().tolist() == [it is not None for it in moments]
    restored = found.restore(values)
    assert restored.type == array.type
    whole = pa.int32() if kind == "date" else pa.int64()
    pairs = zip(array.cast(whole).to_pylist(), restored.cast(whole).to_pylist(), values.ravel().tolist(), strict=True)
    for before, after, value in pairs:
        if before is not None:
            limit = 0 if kind == "date" else 1 + 1e6 * STEP * found.scale * max(abs(value), 1)
            assert abs(before - after) <= limit


@pytest.mark.parametrize("kind", TIMES)
def test_no_time_wraps(kind: str) -> None:
    """What a model says beyond the calendar, or beyond midnight, is held at its end."""
    found = Feature(name="x", type=kind, likelihood="gaussian", nullable=False)
    assert found.restore(np.array([[-3e38], [3e38]], np.float32)).to_pylist() == list(ENDS[kind])


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1)), min_size=1, max_size=20))
def test_timestamps_of_any_century_come_back(moments: list[datetime]) -> None:
    """Within 1e-7 of their distance from the center, or of the scale, and a microsecond."""
    array = cells([it.replace(tzinfo=UTC) for it in moments], "timestamp")
    found = feature(array, "timestamp", "student_t")
    values, _ = found.transform(array)
    apart = np.abs(array.cast(pa.int64()).to_numpy() - found.restore(values).cast(pa.int64()).to_numpy())
    assert (apart <= 1e6 * STEP * found.scale * np.maximum(np.abs(values.ravel()), 1) + 1).all()


def test_the_encoder_sees_the_calendar() -> None:
    """A week later is the same day of the week: that wave is equal, and log p is of the one number, time."""
    start = datetime(2025, 3, 3, 8, tzinfo=UTC)
    array = cells([start + timedelta(days=days) for days in range(400)], "timestamp")
    found = feature(array, "timestamp", "gaussian")
    product = Columns([found.column()])
    values, observed = (torch.from_numpy(it) for it in found.transform(array))
    shown = product.embed(values, observed)
    assert shown.shape == (400, 1 + 2 * 3 + 1)
    waves = shown[:, [2, 5]]
    assert (waves[:-7] - waves[7:]).abs().max() < 1e-3 < (waves[:-3] - waves[3:]).abs().max()
    assert product.log_prob(values, values, observed).shape == (400, 1)
