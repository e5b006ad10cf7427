"""Where rows meet the model: table -> latent codes, latent codes -> table. Shared by encode, sample and serving."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.errors import DataError
from pipeline.features import Features
from vae import checkpoint, objectives
from vae.model import VAE

SHAPE: Final = 1024
"""Rows of every inference batch; a shorter one is padded. One shape for all: a row's code depends on no other row."""


@dataclass(frozen=True)
class Codes:
    """q(z | x) of some rows."""

    mu: npt.NDArray[np.float32]
    """Posterior means, `[row, latent]`."""
    logvar: npt.NDArray[np.float32]
    """Posterior log-variances, `[row, latent]`."""


class Codec:
    """A trained model with its fitted preprocessing."""

    def __init__(self, model: VAE, features: Features) -> None:
        self.model = model.eval()
        self.features = features

    @classmethod
    def load(cls, directory: str | Path, *, device: str = "cpu") -> Self:
        """From a sealed model directory. Raises DataError, naming the file, if anything was altered."""
        try:
            model = checkpoint.load(directory, device=device)
        except checkpoint.CheckpointError as error:
            raise DataError(str(error), cure="fetch the model again: remove its folder and run `encode`") from error
        return cls(model, Features.load(Path(directory)))

    @property
    def latent(self) -> int:
        """Number of latent dimensions."""
        return self.model.config.network.latent

    @torch.inference_mode()
    def encode(self, table: pa.Table | pa.RecordBatch) -> Codes:
        """The codes of the table's rows, in their order."""
        values, observed = (torch.from_numpy(array) for array in self.features.transform(table))
        chunks = zip(self._chunks(values), self._chunks(observed), strict=True)
        posteriors = [self.model.encode(value, seen) for value, seen in chunks]
        mean, logvar = ([getattr(it, part) for it in posteriors] for part in ("mean", "logvar"))
        return Codes(self._joined(mean, len(table)), self._joined(logvar, len(table)))

    @torch.inference_mode()
    def decode(self, z: npt.NDArray[np.float32]) -> pa.StructArray:
        """Reconstructions from codes `[row, latent]`, as the table's own columns."""
        chunks = [self.model.reconstruct(chunk) for chunk in self._chunks(torch.from_numpy(z))]
        return self.features.restore(self._joined(chunks, len(z)))

    @torch.inference_mode()
    def elbo(self, table: pa.Table) -> npt.NDArray[np.float64]:
        """The ELBO of the table's rows by one draw, the same noise in every batch; nats, original units."""
        noise = torch.randn(SHAPE, 1, self.latent, generator=torch.Generator().manual_seed(0)).to(self.model.device)
        values, observed = (torch.from_numpy(array) for array in self.features.transform(table))
        chunks = zip(self._chunks(values), self._chunks(observed), strict=True)
        bounds = [objectives.elbo(self.model, *it, self.model.encode(*it), noise).per_row() for it in chunks]
        return self._joined(bounds, len(table)).astype(np.float64)

    @torch.inference_mode()
    def sample(self, rows: int, *, seed: int) -> pa.StructArray:
        """New rows: codes from the prior, decoded, as the table's own columns."""
        device = self.model.mean.weight.device
        values = self.model.sample(rows, generator=torch.Generator(device).manual_seed(seed))
        return self.features.restore(values.cpu().numpy())

    def _chunks(self, tensor: Tensor) -> Iterator[Tensor]:
        device = self.model.mean.weight.device
        for chunk in tensor.split(SHAPE):
            padding = chunk.new_zeros(SHAPE - len(chunk), *chunk.shape[1:])
            yield torch.cat([chunk, padding]).to(device)

    @staticmethod
    def _joined(chunks: list[Tensor], rows: int) -> npt.NDArray[np.float32]:
        joined: npt.NDArray[np.float32] = torch.cat(chunks)[:rows].cpu().numpy()
        return joined
