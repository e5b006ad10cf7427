"""Quantiles in one pass: NumPy's while they fit, to a stated error beyond, and the same however the numbers come."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.features.quantiles import BINS, Quantiles

LAWS = settings(derandomize=True, deadline=None, max_examples=60)
SHARES = np.array([0.0, 1e-3, 0.25, 0.5, 0.75, 0.999, 1.0])
EXTREME = (0.0, -0.0, 5e-324, -5e-324, 1e-310, 1e300, -1e300, np.finfo(float).max, np.finfo(float).min)


def of(*parts: Any) -> Quantiles:
    """The quantiles of numbers that came in these parts."""
    found = Quantiles()
    for part in parts:
        found.add(np.asarray(part, dtype=float))
    return found


@LAWS
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(EXTREME), min_size=1, max_size=60))
def test_few_numbers_have_numpys_quantiles(numbers: list[float]) -> None:
    """To the bit, of any numbers there are: huge ones, denormals, ties."""
    expected = np.quantile(numbers, SHARES, method="inverted_cdf")
    assert of(numbers).at(SHARES).tolist() == expected.tolist()


def numbers_of(kind: str) -> np.ndarray:
    """More distinct numbers than there are bins."""
    draw = np.random.default_rng(0)
    return {
        "normal": lambda: draw.normal(size=200_000),
        "years": lambda: draw.uniform(1990, 2026, size=200_000),
        "seconds": lambda: draw.normal(1.7e9, 1e6, size=200_000),
        "heavy": lambda: np.sort(draw.standard_cauchy(200_000)),
        "spread": lambda: np.exp2(draw.uniform(-32, 32, size=200_000)),
        "ends": lambda: np.concatenate([draw.uniform(-8e307, 8e307, 200_000), EXTREME]),
    }[kind]()


@pytest.mark.parametrize("kind", ["normal", "years", "seconds", "heavy", "spread", "ends"])
def test_many_numbers_have_nearly_numpys_quantiles(kind: str) -> None:
    """Within 2^-11 of themselves where they are spread over 64 powers of two, and never more bins than BINS."""
    numbers = numbers_of(kind)
    found = of(*np.array_split(numbers, 7))
    assert BINS // 4 < len(found.keys) <= BINS
    assert found.count == len(numbers)
    expected, got = np.quantile(numbers, SHARES, method="inverted_cdf"), found.at(SHARES)
    assert np.isfinite(got).all()
    assert (np.abs(got - expected) <= 2**-11 * np.abs(expected)).all()


@pytest.mark.parametrize("kind", ["normal", "spread"])
def test_neither_cuts_nor_order_matter(kind: str) -> None:
    """The same bins, counts and resolution whatever came first."""
    numbers = numbers_of(kind)[:150_000]
    one = of(numbers)
    for many in (of(*np.array_split(numbers, 11)), of(*np.array_split(numbers[::-1], 3)), of(np.sort(numbers), [])):
        assert one.shift == many.shift > 0
        assert np.array_equal(one.keys, many.keys)
        assert np.array_equal(one.counts, many.counts)


@LAWS
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40), st.data())
def test_quantiles_rise(numbers: list[float], data: st.DataObject) -> None:
    """A larger share never has a smaller quantile, however coarse the bins are."""
    found = of(numbers)
    found.shift += (by := data.draw(st.integers(0, 60)))
    found.keys >>= by
    for low, high in pairwise(found.at(np.linspace(0, 1, 50))):
        assert low <= high
