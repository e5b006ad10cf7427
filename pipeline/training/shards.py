"""Who trains on which row: pure functions of ids, seed, epoch, world size and rank. No process, no file.

The order of an epoch comes in windows. Where one holds all rows, they are permuted. Else runs of neighbours are dealt
out at random to the windows, and the rows permuted inside each: whoever reads it needs the rows of one window at a
time, in a few long reads, and finds in each rows from all over the table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS: Final = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
WINDOW_BYTES: Final = 64 << 20
"""Of the values, float32, of the rows that are shuffled among each other."""
RUN_ROWS: Final = 256
"""Neighbours that stay in one window, at most: they are read at once."""
RUNS: Final = 64
"""Runs in a window, at least: it must mix rows from everywhere."""
_RESOLUTION: Final = 1 << 53


def splits(ids: pa.Array, *, validation: float, test: float) -> npt.NDArray[np.uint8]:
    """TRAIN, VALIDATION or TEST for each row, from a hash of its id alone: it never changes when data grows."""
    share = (hashes(ids) >> np.uint64(11)).astype(np.float64) / _RESOLUTION
    held_out = np.where(share < validation, VALIDATION, TEST)
    return np.where(share < validation + test, held_out, TRAIN).astype(np.uint8)


def hashes(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each id: SplitMix64 (Steele et al. 2014) of integers, BLAKE2b of anything else's text."""
    if pa.types.is_integer(ids.type):
        return _splitmix64(ids.to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64))
    digests = (hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in ids.to_pylist())
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _splitmix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def window_rows(width: int) -> int:
    """Rows of a window, at most, when a row has `width` values."""
    return max(1, WINDOW_BYTES // (4 * width))


def run_rows(window_rows: int) -> int:
    """Neighbours that stay together in windows of this size."""
    return min(RUN_ROWS, max(1, window_rows // RUNS))


def order(rows: int, *, window_rows: int, seed: int, epoch: int) -> Iterator[npt.NDArray[np.int64]]:
    """Every row once, window after window: a function of these numbers alone."""
    if rows <= window_rows:
        yield np.random.default_rng((seed, epoch)).permutation(rows)
        return
    run = run_rows(window_rows)
    runs = np.random.default_rng((seed, epoch)).permutation(-(-rows // run))
    for first in range(0, len(runs), window_rows // run):
        starts = runs[first : first + window_rows // run] * run
        window = (starts[:, None] + np.arange(run)).ravel()
        yield np.random.default_rng((seed, epoch, first)).permutation(window[window < rows])


def share(
    windows: Iterable[npt.NDArray[np.int64]], *, batch_rows: int, world_size: int, rank: int, start: int = 0
) -> Iterator[npt.NDArray[np.int64]]:
    """This rank's rows of each window, in order, from global batch `start` on.

    A global batch is the next `batch_rows` rows of the order; a rank has `[rank::world_size]` of each (`held`).
    """
    done, skipped = 0, start * batch_rows
    for window in windows:
        places = np.arange(done, done + len(window))
        done += len(window)
        mine = (places >= skipped) & (places % batch_rows % world_size == rank)
        if done > skipped:
            yield window[mine]


def held(size: int, *, world_size: int, rank: int) -> int:
    """Rows of a global batch of this size that are this rank's; it may have none, and never has fewer steps."""
    return len(range(rank, size, world_size))
