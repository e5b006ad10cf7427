"""Rows with their codes, in batches of the one shape that makes a row's figures depend on no other row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline import draws
from pipeline.codec import SHAPE, Codes
from pipeline.draws import Seeds
from pipeline.features.transforms import Observed, Values
from vae.model import Posterior


@dataclass(frozen=True)
class Batch:
    """SHAPE rows as the model is given them; where there are fewer, the others are zeros."""

    values: Tensor
    observed: Tensor
    posterior: Posterior
    guess: Tensor | None
    seeds: Seeds

    def noise(self, numbers: range) -> Tensor:
        """The rows' own draws of these numbers, `[row, draw, latent]`."""
        drawn = draws.normal(self.seeds, numbers, latent=self.posterior.mean.shape[1])
        return torch.from_numpy(drawn).to(self.posterior.mean)


@dataclass(frozen=True)
class Rows:
    """Some rows: `values[row, feature]`, which are observed, their codes, and the seeds of their ids."""

    values: Values
    observed: Observed
    codes: Codes
    seeds: Seeds
    guess: Values | None = None
    """The reconstruction as model values, if it is known."""

    def __len__(self) -> int:
        return len(self.values)

    def take(self, index: npt.NDArray[np.int64]) -> Rows:
        """Some of them."""
        codes = Codes(self.codes.mu[index], self.codes.logvar[index])
        guess = None if self.guess is None else self.guess[index]
        return Rows(self.values[index], self.observed[index], codes, self.seeds[index], guess)

    def batches(self, device: torch.device) -> Iterator[Batch]:
        """All of them; of no rows one batch of zeros."""
        for start in range(0, max(len(self), 1), SHAPE):

            def tensor(rows: npt.NDArray[Any], start: int = start) -> Tensor:
                return torch.from_numpy(_padded(rows[start : start + SHAPE])).to(device)

            posterior = Posterior(tensor(self.codes.mu), tensor(self.codes.logvar))
            guess = None if self.guess is None else tensor(self.guess)
            seeds = _padded(self.seeds[start : start + SHAPE])
            yield Batch(tensor(self.values), tensor(self.observed), posterior, guess, seeds)


def _padded(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if len(rows) == SHAPE:
        return np.ascontiguousarray(rows)
    filled = np.zeros((SHAPE, *rows.shape[1:]), rows.dtype)
    filled[: len(rows)] = rows
    return filled
