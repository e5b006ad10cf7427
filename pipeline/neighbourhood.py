"""UMAP (McInnes et al. 2018) of some codes, and where other codes lie among them.

umap-learn (extra `umap`) lays out the sample. What is kept of it is the sample's codes and their coordinates, as
numbers: umap-learn's own state is a pickle. Every code is then placed by its neighbours in the sample: the mean of
their coordinates by UMAP's membership strengths. That is how umap-learn's `transform` begins; its optimisation of the
new points, which makes the place of one depend on the others of its batch, is left out. So a code has one place
whatever else is placed, a sample's code its own, and to apply takes no umap-learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.neighbors import NearestNeighbors

from pipeline.errors import ConfigError
from pipeline.latents import vector

Codes = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
HALVINGS: Final = 40
LEAST: Final = 1e-3
"""Of sigma, in mean distances of a row's neighbours; umap-learn's."""
CHUNK: Final = 16_384
"""Rows placed at a time."""


@dataclass(frozen=True)
class Neighbourhood:
    """Codes of a sample and where they lie."""

    mu: Codes
    """`[sample, latent]`, each code once."""
    coords: Codes
    """`[sample, dims]`."""
    neighbours: int

    @classmethod
    def fit(cls, codes: Codes, *, dims: int, neighbours: int, min_dist: float, seed: int) -> Self:
        """By umap-learn, on one thread, the same every time. Raises ConfigError where it is not installed."""
        mu = np.unique(codes, axis=0)
        neighbours = min(neighbours, len(mu) - 1)
        if len(mu) <= dims + 2:
            raise ConfigError(f"umap of {len(mu)} different codes", "reduce.method", "set it to 'pca'")
        return cls(mu, _umap(mu, dims=dims, neighbours=neighbours, min_dist=min_dist, seed=seed), neighbours)

    def apply(self, codes: Codes) -> Codes:
        """Codes `[row, latent]` as coordinates `[row, dims]`, each by itself."""
        if not len(codes):
            return np.empty((0, self.coords.shape[1]), np.float32)
        return np.concatenate([self._place(codes[start : start + CHUNK]) for start in range(0, len(codes), CHUNK)])

    def to_batch(self) -> pa.RecordBatch:
        """As rows of a Parquet file."""
        arrays = {name: pa.array(it.ravel()) for name, it in (("mu", self.mu), ("coords", self.coords))}
        types = {"mu": vector(self.mu.shape[1]), "coords": vector(self.coords.shape[1])}
        fields = [pa.field(name, types[name], nullable=False) for name in arrays]
        columns = [pa.FixedSizeListArray.from_arrays(arrays[name], type=types[name]) for name in arrays]
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))

    @classmethod
    def from_table(cls, table: pa.Table, *, neighbours: int) -> Self:
        """Back from `to_batch` and Parquet."""
        columns = (table.column(name).combine_chunks() for name in ("mu", "coords"))
        mu, coords = (it.flatten().to_numpy().reshape(len(it), -1) for it in columns)
        return cls(mu, coords, neighbours)

    @cached_property
    def _index(self) -> Any:
        return NearestNeighbors(n_neighbors=self.neighbours, algorithm="kd_tree").fit(self.mu)

    def _place(self, codes: Codes) -> Codes:
        apart, near = self._index.kneighbors(codes)
        strength = strengths(apart)
        share = strength / strength.sum(1, keepdims=True)
        placed: Codes = np.einsum("rk,rkd->rd", share, self.coords[near].astype(np.float64)).astype(np.float32)
        itself = apart[:, 0] == 0
        placed[itself] = self.coords[near[itself, 0]]
        return placed


def strengths(apart: Numbers) -> Numbers:
    """UMAP's membership strengths exp(-distance / sigma) of neighbours, `[row, neighbour]` nearest first.

    sigma is as for a new point in umap-learn: no distance is taken off for the nearest, and the strengths of all but
    the nearest sum to log2(neighbours). Told relative to the nearest, so that a row far from all has a place, too.
    """
    target, mean = np.log2(apart.shape[1]), apart.mean(1, keepdims=True)
    relative = apart / np.where(mean > 0, mean, 1)
    low, high = np.zeros(len(apart)), np.full(len(apart), np.inf)
    sigma = np.ones(len(apart))
    for _ in range(HALVINGS):
        total = np.exp(-relative[:, 1:] / sigma[:, None]).sum(1)
        low, high = np.where(total < target, sigma, low), np.where(total < target, high, sigma)
        sigma = np.where(np.isinf(high), sigma * 2, (low + high) / 2)
    return np.exp((relative[:, :1] - relative) / np.maximum(sigma, LEAST)[:, None])


def _umap(mu: Codes, *, dims: int, neighbours: int, min_dist: float, seed: int) -> Codes:
    try:
        import umap
    except ImportError as error:
        raise ConfigError("umap-learn is not installed", "reduce.method", "pip install 'latentpipe[umap]'") from error
    layout = umap.UMAP(
        n_components=dims, n_neighbors=neighbours, min_dist=min_dist, random_state=seed, n_jobs=1, low_memory=True
    )
    coords: Codes = layout.fit_transform(mu).astype(np.float32)
    return coords
