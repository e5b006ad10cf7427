"""How far some rows are from others, both counted in the same cells; and how far chance alone would bring them.

Counts merge by addition. Of numbers the cells are some quantiles and the spaces between them; in a space numbers are
taken to lie evenly, and beyond the outermost quantiles they count as lying on those: no wild value decides a distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Line:
    """Cells on the line: below the first edge, on it, between it and the second, on that, ..., above the last.

    `excess[..., cell]` below is the share of some rows in each cell less that of others.
    """

    quantiles: Numbers
    """Of a distribution, at evenly spaced levels from 0 to 1."""

    @cached_property
    def edges(self) -> Numbers:
        """The quantiles, each once."""
        return np.unique(self.quantiles)

    @property
    def cells(self) -> int:
        """How many there are."""
        return 2 * len(self.edges) + 1

    @cached_property
    def spread(self) -> float:
        """Mean distance from the median; 1 for a constant."""
        return float(np.abs(self.quantiles - np.median(self.quantiles)).mean()) or 1.0

    def count(self, numbers: Numbers) -> Counts:
        """Numbers in each cell."""
        above = np.searchsorted(self.edges, numbers, side="left")
        on = self.edges[np.minimum(above, len(self.edges) - 1)] == numbers
        return np.bincount(2 * above + on, minlength=self.cells)

    def gather(self, weights: npt.NDArray[np.float32], numbers: Numbers) -> Numbers:
        """`[draw, cell]`: what numbers weigh together, by `weights[draw, number]`."""
        cell = 2 * np.searchsorted(self.edges, numbers, side="left")  # on an edge lies hardly one of them
        gathered = weights @ (cell[:, None] == np.arange(self.cells)).astype(weights.dtype)
        return np.asarray(gathered, dtype=np.float64)

    def wasserstein(self, excess: Numbers) -> Numbers:
        """W1, the area between the two distribution functions, in spreads."""
        after, before = self._between(excess)
        total, same_side = np.abs(after) + np.abs(before), after * before >= 0
        crossing = (after**2 + before**2) / np.where(same_side, 1, total)
        return np.asarray((np.where(same_side, total, crossing) * np.diff(self.edges)).sum(-1) / (2 * self.spread))

    def fall(self, excess: Numbers) -> Numbers:
        """By how many spreads the mean is lower."""
        after, before = self._between(excess)
        return np.asarray(((after + before) * np.diff(self.edges)).sum(-1) / (2 * self.spread))

    def _between(self, excess: Numbers) -> tuple[Numbers, Numbers]:
        """Difference of the distribution functions just after each edge but the last, and before each but the first."""
        cumulated = excess.cumsum(-1)
        return cumulated[..., 1:-2:2], cumulated[..., 2:-1:2]


def variation(excess: Numbers) -> Numbers:
    """Total variation: the share of rows that would have to be of another category."""
    return np.asarray(np.abs(excess).sum(-1) / 2)


def shares(counts: Counts | Numbers) -> Numbers:
    """Of all that were counted; noughts if none were."""
    return np.asarray(counts / (counts.sum() or 1))


def bridges(expected: Numbers, noise: float, draws: int, generator: np.random.Generator) -> Numbers:
    """`[draw, cell]`: excess by chance, of variance `noise` = 1/n + 1/m; normal, and nought in all."""
    normal = generator.standard_normal((draws, len(expected))) * np.sqrt(noise * expected)
    return np.asarray(normal - normal.sum(1, keepdims=True) * expected)


def redrawn(counts: Numbers, rows: float, draws: int, generator: np.random.Generator) -> Numbers:
    """`[draw, cell]`: excess by chance of `rows` over as many as were counted; where cells may be all but empty."""
    expected, sizes = shares(counts), (max(round(it), 1) for it in (rows, counts.sum()))
    ours, theirs = (generator.multinomial(size, expected, draws) / size for size in sizes)
    return np.asarray(ours - theirs)
