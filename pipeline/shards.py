"""Who trains on which row: pure functions of ids, seed, epoch, world size and rank. No process, no file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

TRAIN, VALIDATION, TEST = 0, 1, 2
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


def epoch(
    rows: int, *, batch_rows: int, seed: int, epoch: int, world_size: int, rank: int
) -> Iterator[tuple[npt.NDArray[np.int64], slice]]:
    """This rank's rows of each global batch, and their places in it.

    The global order depends on seed and epoch only; over all ranks every row comes once. The last batch may be smaller,
    and may leave a rank with no rows, never with fewer steps.
    """
    order = np.random.default_rng((seed, epoch)).permutation(rows)
    for start in range(0, rows, batch_rows):
        batch = order[start : start + batch_rows]
        mine = slice(rank, None, world_size)
        yield batch[mine], mine
