"""Probes measure what they say: a label that follows from codes, samples that cannot be told from data."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import probes

RNG = np.random.default_rng(0)


def test_a_label_that_follows_from_the_codes_is_found() -> None:
    """Linearly separable codes score 1 by both probes; codes of pure noise score chance."""
    labels = np.repeat(["a", "b"], 200)
    told, noise = RNG.normal(size=(400, 3)) + 8 * (labels == "b")[:, None], RNG.normal(size=(400, 3))
    assert probes.probe((told, labels), (told, labels), neighbours=5) == (1.0, 1.0)
    fresh = RNG.normal(size=(400, 3))
    assert max(probes.probe((noise, labels), (fresh, labels), neighbours=25)) < 0.6


def test_a_label_of_many_numbers_is_regressed() -> None:
    """R^2 near 1 where the label is a linear function of the codes; few distinct numbers are classes."""
    codes = RNG.normal(size=(600, 2))
    label = codes @ np.array([2.0, -1.0])
    linear, nearest = probes.probe((codes[:400], label[:400]), (codes[400:], label[400:]), neighbours=5)
    assert linear == pytest.approx(1, abs=1e-3)
    assert nearest > 0.9
    assert probes.regressed(np.array([0.5, 1.5]))
    assert not probes.regressed(np.array([1.0, 2.0]))
    few = (label > 0).astype(float)
    assert 0.9 < probes.probe((codes[:400], few[:400]), (codes[400:], few[400:]), neighbours=5)[0] <= 1


def test_two_samples_of_one_distribution_cannot_be_told_apart() -> None:
    """The trees' accuracy is near one half; a shifted, or a differently correlated, sample is found out."""
    real, same = RNG.normal(size=(800, 2)), RNG.normal(size=(800, 2))
    score = probes.two_sample(real, same, categorical=[False, False], seed=0)
    assert abs(score - 0.5) < 0.06
    assert probes.two_sample(real, same + 3, categorical=[False, False], seed=0) > 0.9
    twins = np.repeat(RNG.normal(size=(800, 1)), 2, axis=1)
    assert probes.two_sample(real, twins, categorical=[False, False], seed=0) > 0.8


def test_missing_cells_and_codes_are_no_give_away() -> None:
    """Where both samples miss the same cells, missing tells nothing; more codes than the trees split are numbers."""
    real, fake = (RNG.integers(1, 400, size=(600, 2)).astype(float) for _ in range(2))
    for sample in (real, fake):
        sample[:200, 0] = np.nan
    assert abs(probes.two_sample(real, fake, categorical=[True, False], seed=0) - 0.5) < 0.08


def test_what_cannot_be_told_is_not_told() -> None:
    """Too few rows, or nothing observed, give no figure; a feature that is never observed spoils nothing."""
    real, far = RNG.normal(size=(200, 2)), RNG.normal(size=(200, 2)) + 100
    assert probes.two_sample(real[:40], far[:40], categorical=[False, False], seed=0) is None
    assert probes.two_sample(real * np.nan, far * np.nan, categorical=[False, False], seed=0) is None
    for sample in (real, far):
        sample[3:, 0] = np.nan
    assert probes.two_sample(real, far, categorical=[True, False], seed=0) > 0.99


def test_more_neighbours_than_rows_are_all_rows() -> None:
    """A small table is probed with what it has."""
    codes, labels = RNG.normal(size=(4, 1)), np.array(["a", "a", "a", "b"])
    assert probes.probe((codes, labels), (codes, labels), neighbours=50)[1] == 0.75
