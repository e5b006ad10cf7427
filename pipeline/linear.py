"""PCA over a mixed table: what users fall back on, with the same verbs as a codec.

Principal components of the encoder's input (standardised numbers, one-hot categories), as a probabilistic PCA, so that
it can also be sampled. It reconstructs the category with the largest one-hot number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa
import torch
from torch import Generator, Tensor

from pipeline.codec import Codes
from pipeline.features import Features
from pipeline.features.transforms import EXACT
from vae import ppca
from vae.config import COUNTS, REALS, Column
from vae.likelihoods import Columns
from vae.ppca import PPCA


@dataclass(frozen=True)
class Linear:
    """A fitted PCA."""

    features: Features
    columns: tuple[Column, ...]
    model: PPCA

    def encode(self, table: pa.Table) -> Codes:
        """E[z | x] of the table's rows, and the log-variance, which is the same for all."""
        inputs = self._embedded(table)
        covariance = self.model.posterior(inputs[:1])[1]
        logvar = covariance.diagonal(dim1=1, dim2=2).log().float().expand(len(inputs), -1)
        return Codes(self.model.encode(inputs).float().numpy(), logvar.numpy())

    def sample(self, rows: int, *, seed: int) -> pa.StructArray:
        """New rows as the table's own columns."""
        values = self.values(self.model.sample(rows, generator=Generator().manual_seed(seed)))
        return self.features.restore(values.numpy())

    def _embedded(self, table: pa.Table) -> Tensor:
        return embedded(self.columns, *(torch.from_numpy(part) for part in self.features.transform(table)))

    def values(self, inputs: Tensor) -> Tensor:
        """What the embedded numbers stand for, column by column."""
        parts, start = [], 0
        for column in self.columns:
            width = column.width * (column.codes if column.likelihood == "categorical" else 1)
            parts.append(_unembedded(column, inputs[:, start : start + width]))
            start += width
        return torch.cat(parts, 1).float()


def fit(features: Features, values: Tensor, observed: Tensor, *, latent: int) -> Linear:
    """Fit on training rows as tensors; a missing cell is its column's mean, as PCA users have it."""
    columns = features.model_columns()
    return Linear(features, columns, ppca.fit(embedded(columns, values, observed), latent=latent))


def embedded(columns: tuple[Column, ...], values: Tensor, observed: Tensor) -> Tensor:
    """Numbers and one-hot codes as an encoder is shown them, without the flags of missing cells, float64."""
    product = Columns([replace(column, periods=(), embedding=0) for column in columns])
    inputs: Tensor = product.embed(values, observed)[:, : sum(product.inputs)].double()
    return inputs


def _unembedded(column: Column, inputs: Tensor) -> Tensor:
    if column.likelihood in REALS:
        return inputs
    if column.likelihood in COUNTS:
        means = torch.tensor(column.means or (1.0,), dtype=inputs.dtype)
        return (inputs + means.log1p()).expm1().clamp(0, EXACT)
    if column.likelihood == "categorical":
        return inputs.view(len(inputs), column.width, column.codes)[:, :, 1:].argmax(2) + 1.0
    highest = max(column.codes, 2) - 1
    return (highest * (inputs + 1) / 2).clamp(0, highest)
