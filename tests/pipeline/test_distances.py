"""Distances between counts: those of scipy from all the rows, and chance as redrawing rows has it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from pipeline.distances import Line, bridges, redrawn, shares, variation

LAWS = settings(derandomize=True, deadline=None, max_examples=40)


def between(line: Line, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Excess of the one over the other."""
    return shares(line.count(ours)) - shares(line.count(theirs))


@LAWS
@given(st.integers(0, 1000), st.floats(-1, 1), st.floats(0.5, 2))
def test_the_distance_is_that_of_all_rows(seed: int, shift: float, scale: float) -> None:
    """Counts in a hundred spaces lose little of it: a twentieth at most, or of the spread."""
    generator = np.random.default_rng(seed)
    theirs = np.sort(generator.normal(size=4000))
    line = Line(np.quantile(theirs, np.linspace(0, 1, 101)))
    ours = (generator.normal(size=3000) * scale + shift).clip(theirs[0], theirs[-1])
    expected = wasserstein_distance(ours, theirs) / line.spread
    assert float(line.wasserstein(between(line, ours, theirs))) == pytest.approx(expected, rel=0.05, abs=0.05)
    fall = (theirs.mean() - ours.mean()) / line.spread
    assert float(line.fall(between(line, ours, theirs))) == pytest.approx(fall, rel=0.05, abs=0.05)


@pytest.mark.parametrize("values", [[0, 1, 2, 3], [0, 0, 0, 50], [7, 7, 7, 7]])
def test_numbers_that_repeat_are_counted_where_they_are(values: list[float]) -> None:
    """Between tables of few different numbers the distance is exact; of one number there is none."""
    theirs, ours = np.repeat(values, 25).astype(float), np.repeat(values, [40, 30, 20, 10]).astype(float)
    line = Line(np.quantile(theirs, np.linspace(0, 1, 101)))
    found = float(line.wasserstein(between(line, ours, theirs)))
    assert found == pytest.approx(wasserstein_distance(ours, theirs) / line.spread, abs=1e-12)


def test_what_lies_beyond_counts_as_on_the_edge() -> None:
    """One wild value is one value: it does not make a distance."""
    theirs = np.linspace(0, 1, 1001)
    line, wild = Line(np.quantile(theirs, np.linspace(0, 1, 101))), np.append(theirs, 1e12)
    assert float(line.wasserstein(between(line, wild, theirs))) < 1e-2
    assert line.count(np.array([-5.0, 7.0, 8.0]))[[0, -1]].tolist() == [1, 2]


def test_chance_is_that_of_redrawn_rows() -> None:
    """W1 between fresh samples varies as over the bridges; the variation as over the redrawn counts."""
    generator = np.random.default_rng(0)
    theirs = generator.normal(size=100_000)
    line = Line(np.quantile(theirs, np.linspace(0, 1, 101)))
    known = shares(line.count(theirs))
    by_rows = np.array(
        [float(line.wasserstein(between(line, *(generator.normal(size=n) for n in (500, 800))))) for _ in range(400)]
    )
    by_chance = line.wasserstein(bridges(known, 1 / 500 + 1 / 800, 2000, generator))
    assert by_chance.mean() == pytest.approx(by_rows.mean(), rel=0.08)
    assert by_chance.std() == pytest.approx(by_rows.std(), rel=0.15)
    counts = np.array([500, 290, 200, 9, 1])
    drawn = [np.bincount(generator.choice(5, n, p=counts / 1000), minlength=5) for n in (700, 1000) * 400]
    apart = [variation(shares(a) - shares(b)) for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    assert variation(redrawn(counts, 700, 2000, generator)).mean() == pytest.approx(np.mean(apart), rel=0.08)
