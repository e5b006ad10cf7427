"""Standard normal numbers that belong to a row: a function of its id, and of no position, batch or worker.

A reader can make them again. The seed of an id is 64 bits: of an integer itself, modulo 2^64; of text (UTF-8) or bytes
their BLAKE2b digest of 8 bytes, little-endian. The p-th word of draw j of a row is, with the finaliser m of SplitMix64
(Steele et al. 2014) and P words in a draw, m(m(seed) + (j P + p + 1) g); its upper and lower half give two uniform
numbers, and these by Box and Muller (1958) two normal ones.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Seeds = npt.NDArray[np.uint64]
GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
"""g: 2^64 over the golden ratio, odd."""
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
HALF: Final = np.uint64(32)
LOWER: Final = np.uint64(0xFFFFFFFF)


def seeds(ids: pa.ChunkedArray | pa.Array) -> Seeds:
    """The seed of each row."""
    if pa.types.is_integer(ids.type):
        return np.asarray(ids.to_numpy(zero_copy_only=False) if isinstance(ids, pa.Array) else ids).astype(np.uint64)
    digests = (blake2b(it, digest_size=8).digest() for it in ids.cast(pa.binary()).to_pylist())
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def normal(seeds: Seeds, draws: range, *, latent: int) -> npt.NDArray[np.float32]:
    """Draws of these numbers, `[row, draw, latent]`; a draw is the same whatever others are asked for with it."""
    pairs = -(-latent // 2)
    words = np.arange(draws.start * pairs + 1, draws.stop * pairs + 1, dtype=np.uint64) * GOLDEN
    bits = _mixed(_mixed(seeds)[:, None] + words).reshape(len(seeds), len(draws), pairs)
    radius = np.sqrt(-2 * np.log(_uniform(bits >> HALF)))
    angle = np.float32(2 * np.pi) * _uniform(bits & LOWER)
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    drawn: npt.NDArray[np.float32] = both.reshape(len(seeds), len(draws), 2 * pairs)[:, :, :latent]
    return drawn


def _mixed(bits: Seeds) -> Seeds:
    bits = (bits ^ (bits >> np.uint64(30))) * FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * SECOND
    return bits ^ (bits >> np.uint64(31))


def _uniform(halves: Seeds) -> npt.NDArray[np.float32]:
    """Between 0 and 1, never 0."""
    return ((halves.astype(np.float64) + 0.5) * 2.0**-32).astype(np.float32)
