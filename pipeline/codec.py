"""Where rows meet the model: table -> latent codes, latent codes -> table. Shared by encode, sample and serving."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.arithmetic import arithmetic
from pipeline.errors import DataError
from pipeline.features import Features
from pipeline.features.transforms import Observed, Values
from vae import checkpoint
from vae.model import VAE

SHAPE: Final = 1024
"""Rows of an inference batch, at least; a shorter one is padded. One shape for all: no code depends on another row."""
LONGEST: Final = 4096
"""Rows at most: a narrow network's steps are so short that threads would wait for each other between them."""
CELLS: Final = 1 << 19
"""Rows times units of the widest layer, at most, where that allows more than SHAPE rows."""


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

    @cached_property
    def shape(self) -> int:
        """Rows of every inference batch of this model, a power of two."""
        if self.model.config.network.body == "convolution":
            return SHAPE
        widest = max(it.out_features for it in self.model.modules() if isinstance(it, torch.nn.Linear))
        rows = CELLS // max(widest, self.features.width)
        return min(max(1 << rows.bit_length() - 1, SHAPE), LONGEST)

    @cached_property
    def computed(self) -> dict[str, Any]:
        """All that the last bits of a code depend on beside its row and the model."""
        return {**arithmetic(self.device.type), "rows": self.shape}

    def encode(self, table: pa.Table | pa.RecordBatch) -> Codes:
        """The codes of the table's rows, in their order."""
        return self.infer(*self.features.transform(table))

    @torch.inference_mode()
    def infer(self, values: Values, observed: Observed) -> Codes:
        """The codes of rows that `features.transform` made numbers of."""
        mu, logvar = (np.empty((len(values), self.latent), np.float32) for _ in range(2))
        for rows in self._spans(len(values)):
            seen = None if observed[rows].all() else self._padded(observed[rows])
            posterior = self.model.encode(self._padded(values[rows]), seen)
            for codes, part in ((mu, posterior.mean), (logvar, posterior.logvar)):
                codes[rows] = _first(part, len(codes[rows]))
        return Codes(mu, logvar)

    def decode(self, z: npt.NDArray[np.float32]) -> pa.StructArray:
        """Reconstructions from codes `[row, latent]`, as the table's own columns."""
        return self.features.restore(self.guess(z))

    @torch.inference_mode()
    def guess(self, z: npt.NDArray[np.float32]) -> Values:
        """Reconstructions from codes `[row, latent]`, as model values `[row, feature]`."""
        values = np.empty((len(z), self.features.width), np.float32)
        for rows in self._spans(len(z)):
            values[rows] = _first(self.model.reconstruct(self._padded(z[rows])), len(z[rows]))
        return values

    @torch.inference_mode()
    def sample(self, rows: int, *, seed: int) -> pa.StructArray:
        """New rows: codes from the prior, decoded, as the table's own columns."""
        device = self.model.mean.weight.device
        values = self.model.sample(rows, generator=torch.Generator(device).manual_seed(seed))
        return self.features.restore(values.cpu().numpy())

    def _padded(self, rows: npt.NDArray[Any]) -> Tensor:
        """Up to `shape` rows as `shape` rows, on the model's device."""
        tensor = torch.from_numpy(rows)
        if missing := self.shape - len(rows):
            tensor = torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])
        return tensor.to(self.model.device)

    def _spans(self, rows: int) -> Iterator[slice]:
        return (slice(start, start + self.shape) for start in range(0, rows, self.shape))


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes in the calling thread, and in those begun inside: for who spreads batches over threads itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first(tensor: Tensor, rows: int) -> npt.NDArray[np.float32]:
    first: npt.NDArray[np.float32] = tensor[:rows].cpu().numpy()
    return first
