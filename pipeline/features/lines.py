"""Straight lines through knots: the map of `rank_gauss`, from numbers to the normal scores of their ranks, and back."""

from __future__ import annotations

from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.features.quantiles import Quantiles

KNOTS: Final = 128
"""Scores at which a column's quantiles are taken: evenly from that of its lowest number to that of its highest."""
Numbers = npt.NDArray[np.float64]


def along(numbers: Numbers, starts: tuple[float, ...], ends: tuple[float, ...]) -> Numbers:
    """Where the lines from `starts` to `ends`, both rising, take the numbers; beyond the outermost knots they go on."""
    x, y = np.array(starts), np.array(ends)
    piece = np.searchsorted(x[1:-1], numbers)
    taken: Numbers = y[piece] + (numbers - x[piece]) * (np.diff(y) / np.diff(x))[piece]
    return taken


def fit(quantiles: Quantiles, *, center: float, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots, in units of `scale` about `center`, and their scores; none if there are no two numbers to tell apart.

    A number that several scores share gets that of its middle rank. All are numbers that float32 holds.
    """
    normal, tail = NormalDist(), 0.5 / quantiles.count
    scores = np.linspace(normal.inv_cdf(tail), -normal.inv_cdf(tail), KNOTS)
    shares = np.array([normal.cdf(score) for score in scores])
    numbers = ((quantiles.at(shares) - center) / scale).astype(np.float32)
    knots, first, count = np.unique(numbers, return_index=True, return_counts=True)
    if len(knots) < 2:
        return (), ()
    middles = (shares[first] + shares[first + count - 1]) / 2
    ranked = np.array([normal.inv_cdf(share) for share in middles], np.float32)
    return tuple(knots.tolist()), tuple(ranked.tolist())
