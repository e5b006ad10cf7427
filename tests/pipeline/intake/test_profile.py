"""What is known of columns: right, and the same however the rows were cut."""

from __future__ import annotations

import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import batch

from pipeline.intake.profile import DISTINCT, LEVELS, SCHEMA, Column, Profile

CELLS = st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), max_size=60)


def profiled(*batches: pa.RecordBatch, **settings: Any) -> Profile:
    """Of these batches, one after the other."""
    profile = Profile(**settings)
    for it in batches:
        profile.add(it)
    return profile


def column(array: pa.Array) -> Column:
    """Of one column."""
    return profiled(batch(x=array)).columns["x"]


def test_numbers_agree_with_numpy() -> None:
    """Mean, variance and extremes as numpy has them; quantiles within 0.4 % of their size."""
    numbers = np.random.default_rng(0).lognormal(3, 2, 20_000)
    found = column(pa.array(numbers))
    assert found.facts()["mean"] == pytest.approx(numbers.mean(), rel=1e-12)
    assert found.facts()["variance"] == pytest.approx(numbers.var(), rel=1e-12)
    assert (found.low, found.high) == (numbers.min(), numbers.max())
    for level in LEVELS:
        assert found.quantile(level) == pytest.approx(np.quantile(numbers, level), rel=2**-8 + 1e-3)


def test_a_variance_far_from_zero_keeps_its_digits() -> None:
    """A billion plus noise: the sum of squares would lose all of it."""
    numbers = 1e9 + np.random.default_rng(0).normal(size=10_000)
    found = profiled(*(batch(x=pa.array(it)) for it in np.split(numbers, 100))).columns["x"]
    assert found.variance == pytest.approx(numbers.var(), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(cells=CELLS, cuts=st.lists(st.integers(0, 60), max_size=5))
def test_merging_is_adding(cells: list[float | None], cuts: list[int]) -> None:
    """Cut anywhere, profiled apart and merged: counts, extremes, quantiles and categories are those of the whole."""
    whole = pa.array(cells, pa.float64())
    edges = [0, *sorted(min(it, len(cells)) for it in cuts), len(cells)]
    parts = [profiled(batch(x=whole[low:high])) for low, high in pairwise(edges)]
    merged, plain = Profile.merged(it.to_batch() for it in parts), profiled(batch(x=whole))
    moments = ("mean", "variance")
    one, other = (it.columns["x"].facts() for it in (merged, plain))
    assert {k: v for k, v in one.items() if k not in moments} == {k: v for k, v in other.items() if k not in moments}
    numbers = whole.drop_null().to_numpy()
    if len(numbers) and (scale := max(abs(numbers).max(), 1e-100)) < 1e100:
        assert one["mean"] == pytest.approx(other["mean"], abs=1e-12 * scale)
        assert one["variance"] == pytest.approx(other["variance"], rel=1e-9, abs=1e-12 * scale**2)


@pytest.mark.parametrize(
    ("array", "facts"),
    [
        (pa.array(["b", "a", None, "b"]), {"rows": 4, "nulls": 1, "distinct": 2, "values": [["b", 2], ["a", 1]]}),
        (pa.array([True, False, True]), {"rows": 3, "nulls": 0, "distinct": 2, "values": [[True, 2], [False, 1]]}),
        (pa.array([b"\x00"]), {"rows": 1, "nulls": 0, "distinct": 0, "values": []}),
        (
            pa.array([datetime.date(2026, 1, 2), None]),
            {"rows": 2, "nulls": 1, "min": "2026-01-02", "max": "2026-01-02", "distinct": 0, "values": []},
        ),
        (pa.array([], pa.int8()), {"rows": 0, "nulls": 0, "distinct": 0, "values": []}),
    ],
)
def test_other_types(array: pa.Array, facts: dict[str, Any]) -> None:
    """Texts and booleans are counted, times have extremes, bytes only a number of cells."""
    assert column(array).facts() == facts


def test_few_values_have_exact_quantiles() -> None:
    """Where every value is counted, a quantile is one of them."""
    assert column(pa.array([1] * 9 + [1000])).quantile(0.5) == 1
    assert column(pa.array([1] * 9 + [1000])).quantile(0.95) == 1000


def test_too_many_values_are_not_counted() -> None:
    """Above the limit there is no count, in one batch or over several; the rest is there all the same."""
    texts = [f"t{index}" for index in range(DISTINCT + 1)]
    assert "distinct" not in column(pa.array(texts)).facts()
    halves = profiled(batch(x=pa.array(texts[:600])), batch(x=pa.array(texts[500:])))
    assert "distinct" not in halves.columns["x"].facts()
    assert column(pa.array(texts[1:])).facts()["distinct"] == DISTINCT


def test_a_vector_is_profiled_over_its_numbers() -> None:
    """Cells of a vector count one by one; missing ones, and missing vectors, are left out."""
    found = column(pa.array([[1.0, 2.0], None, [3.0, None]], pa.list_(pa.float32(), 2)))
    assert (found.rows, found.nulls, found.cells, found.mean) == (3, 1, 3, 2.0)


def test_a_secret_column_leaves_only_counts() -> None:
    """No value of it is kept, not as an extreme, not as a category."""
    found = profiled(batch(x=pa.array(["hunter2", None])), secret=frozenset({"x"}))
    assert found.facts() == {"x": {"rows": 2, "nulls": 1}}
    assert "hunter2" not in str(found.to_batch().to_pylist())


def test_extreme_numbers_overflow_nothing() -> None:
    """Infinite in float32, or denormal: counted, and the extremes stay exact."""
    found = column(pa.array([1e300, -1e300, 5e-324]))
    assert (found.low, found.high, found.cells) == (-1e300, 1e300, 3)
    assert found.quantile(0.01) == -1e300


def test_it_survives_a_file() -> None:
    """Written as rows and read again it is the same profile, to the bit."""
    table = batch(
        x=pa.array([0.1, 0.2, None]), y=pa.array(["a", "b", "ü"]), z=pa.array([datetime.date(2026, 1, 1)] * 3)
    )
    before = profiled(table)
    assert before.to_batch().schema == SCHEMA
    assert Profile.merged([before.to_batch()]).facts() == before.facts()
