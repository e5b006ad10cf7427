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
from pipeline.features.transforms import Observed, Values
from vae import checkpoint
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

    def __init__(self, model: VAE, features: Features, directory: str | Path = "") -> None:
        self.model = model.eval()
        self.features = features
        self.directory = Path(directory)

    @classmethod
    def load(cls, directory: str | Path, *, device: str = "cpu") -> Self:
        """From a sealed model directory. Raises DataError, naming the file, if anything was altered."""
        try:
            model = checkpoint.load(directory, device=device)
        except checkpoint.CheckpointError as error:
            raise DataError(str(error), cure="fetch the model again: remove its folder and run `encode`") from error
        return cls(model, Features.load(Path(directory)), directory)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def latent(self) -> int:
        """Number of latent dimensions."""
        return self.model.config.network.latent

    def encode(self, table: pa.Table | pa.RecordBatch) -> Codes:
        """The codes of the table's rows, in their order."""
        return self.infer(*self.features.transform(table))

    @torch.inference_mode()
    def infer(self, values: Values, observed: Observed) -> Codes:
        """The codes of rows `[row, feature]` as the model is given them."""
        chunks = zip(*(self._chunks(torch.from_numpy(array)) for array in (values, observed)), strict=True)
        posteriors = [self.model.encode(value, seen) for value, seen in chunks]
        mean, logvar = ([getattr(it, part) for it in posteriors] for part in ("mean", "logvar"))
        return Codes(self._joined(mean, len(values)), self._joined(logvar, len(values)))

    def decode(self, z: npt.NDArray[np.float32]) -> pa.StructArray:
        """Reconstructions from codes `[row, latent]`, as the table's own columns."""
        return self.features.restore(self.guess(z))

    @torch.inference_mode()
    def guess(self, z: npt.NDArray[np.float32]) -> Values:
        """Reconstructions from codes `[row, latent]`, as model values `[row, feature]`."""
        return self._joined([self.model.reconstruct(chunk) for chunk in self._chunks(torch.from_numpy(z))], len(z))

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
