"""Quantiles of any number of numbers in one pass: a histogram that halves its resolution where it has too many bins.

The bins are the leading bits of a float64, as many of them as leave at most BINS bins filled. What comes out does not
depend on how the numbers were cut into batches, nor on their order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

BINS: Final = 1 << 16
"""Up to so many distinct numbers quantiles are exact; beyond, a number stands for the others of its bin.

Spread over 64 powers of two, it errs by at most 2^-11 of itself; over fewer, by less in proportion.
"""
Numbers = npt.NDArray[np.float64]
Keys = npt.NDArray[np.int64]
_MAGNITUDE: Final = np.int64(np.iinfo(np.int64).max)
_LARGEST: Final = np.float64(np.finfo(np.float64).max).view(np.int64)


@dataclass
class Quantiles:
    """How many numbers fell into each bin."""

    shift: int = 0
    """Bits that are left out of a key."""
    keys: Keys = field(default_factory=lambda: np.empty(0, np.int64))
    counts: Keys = field(default_factory=lambda: np.empty(0, np.int64))

    def add(self, numbers: Numbers) -> None:
        """Take in some numbers, all finite."""
        keys = _keys(numbers) >> self.shift
        self._take(np.concatenate([self.keys, keys]), np.concatenate([self.counts, np.ones_like(keys)]))

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return int(self.counts.sum())

    def at(self, shares: Numbers) -> Numbers:
        """The smallest number with at least this share at or below it, for each share from 0 to 1."""
        ranks = np.maximum(np.ceil(shares * self.count), 1)
        return _middles(self.keys[np.searchsorted(self.counts.cumsum(), ranks)], self.shift)

    def _take(self, keys: Keys, counts: Keys) -> None:
        self.keys, self.counts = _merged(keys, counts)
        while len(self.keys) > BINS:
            self.shift += 1
            self.keys, self.counts = _merged(self.keys >> 1, self.counts)


def _merged(keys: Keys, counts: Keys) -> tuple[Keys, Keys]:
    found, place = np.unique(keys, return_inverse=True)
    return found, np.bincount(place, weights=counts, minlength=len(found)).astype(np.int64)


def _keys(numbers: Numbers) -> Keys:
    """Whole numbers in the same order: the bits of a float64, all but the sign turned over where it is negative."""
    bits = (numbers + 0.0).view(np.int64)
    return np.where(bits < 0, bits ^ _MAGNITUDE, bits)


def _middles(keys: Keys, shift: int) -> Numbers:
    """The number in the middle of each bin."""
    bits = np.clip((keys << shift) + (1 << shift >> 1), ~_LARGEST, _LARGEST)
    middles: Numbers = np.where(bits < 0, bits ^ _MAGNITUDE, bits).view(np.float64)
    return middles
