"""What a model says of one row: its bound, its evidence, what it got wrong, and what stands in its missing cells.

Everything is per row, and at noise that the caller gives: so a row's figures depend on no other row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from vae import objectives
from vae.config import CATEGORIES
from vae.importance import log_mean_weight
from vae.likelihoods.likelihood import present
from vae.likelihoods.warp import Warps
from vae.model import VAE, Posterior

LARGEST: Final = torch.finfo(torch.float32).max
"""What stands for a figure beyond it, and for one that overflow leaves undefined: a wild row is the worst there is."""


@dataclass(frozen=True)
class Imputation:
    """The posterior predictive p(x_m | x_o) of each feature; of use where a cell is missing."""

    value: Float64[Tensor, "batch feature"]
    """Its mean in original units; of codes the one that is reconstructed from E[z | x]."""
    sd: Float64[Tensor, "batch feature"]
    """Standard deviation in original units: the decoder's noise and what is not known of z. A categorical's is NaN."""
    probability: Float64[Tensor, "batch feature"]
    """Of the code in `value`; NaN for numbers."""


class Witness:
    """A model, asked about rows one by one. Original units are computed in float64, whatever the model's precision."""

    def __init__(self, model: VAE) -> None:
        columns = model.config.columns
        self.model = model
        self.warps = Warps(columns, torch.float64).to(model.device)
        coded = [column.likelihood in CATEGORIES and not column.dynamic for column in columns]
        self.coded = torch.tensor(coded, device=model.device)[model.columns.owner]

    def units(self, values: Float[Tensor, "batch feature"]) -> Float64[Tensor, "batch feature"]:
        """Model values in original units; codes, counts and levels are what they are."""
        return self.warps.units(values.double())

    @torch.no_grad()
    def elbo(
        self,
        values: Float[Tensor, "batch feature"],
        observed: Bool[Tensor, "batch feature"],
        posterior: Posterior,
        noise: Float[Tensor, "batch draw latent"],
    ) -> Float64[Tensor, " batch"]:
        """E_q[log p(x | z)] - KL(q(z | x) || p(z)) by the mean over the draws; nats in original units.

        The KL under N(0, I) is the closed form. A dynamic column counts by its mean over all zeros and ones that its
        probabilities stand for.
        """
        bound = objectives.elbo(self.model, values, observed, posterior, noise)
        elbo = bound.log_likelihood.sum(1, dtype=torch.float64) - bound.kl.sum(1, dtype=torch.float64)
        return elbo.nan_to_num(-LARGEST, LARGEST, -LARGEST)

    @torch.no_grad()
    def nll(
        self,
        values: Float[Tensor, "batch feature"],
        observed: Bool[Tensor, "batch feature"],
        posterior: Posterior,
        noise: Iterable[Float[Tensor, "batch _ latent"]],
    ) -> Float64[Tensor, " batch"]:
        """-log p(x) by importance sampling: in expectation above it, and the closer the more draws."""
        return -log_mean_weight(self.model, values, observed, posterior, noise).nan_to_num(-LARGEST, LARGEST, -LARGEST)

    @torch.no_grad()
    def errors(
        self,
        values: Float[Tensor, "batch feature"],
        observed: Bool[Tensor, "batch feature"],
        guess: Float[Tensor, "batch feature"],
    ) -> Float64[Tensor, "batch column"]:
        """How far the reconstruction `guess` is from each column, over its observed features; NaN if it has none.

        Root mean square, in original units; a code is 0 if right and 1 if wrong.
        """
        true = present(values, observed)
        apart = self.units(guess) - self.units(true)
        each = torch.where(self.coded, (guess.round() != true).double(), apart)
        cells = self.model.columns.per_column(observed.double())
        held = present(each, observed).nan_to_num(LARGEST).clamp(-LARGEST, LARGEST)
        return (self.model.columns.per_column(held**2) / cells).sqrt()

    @torch.no_grad()
    def imputed(
        self,
        values: Float[Tensor, "batch feature"],
        observed: Bool[Tensor, "batch feature"],
        posterior: Posterior,
        noise: Float[Tensor, "batch draw latent"],
    ) -> Imputation:
        """What the missing cells may hold, by the mean over the draws of p(x_m | z, x_o)."""
        columns, draws = self.model.columns, noise.shape[1]
        guess = self.model.reconstruct(posterior.mean).double()
        codes = torch.where(self.coded, guess.round(), present(values, observed).double())
        middle = self.units(guess)
        first, second, chance = (torch.zeros_like(middle) for _ in range(3))
        for z in self.model.draw(posterior, noise).unbind(1):
            outputs = self.model.decode(z).double()
            mean, deviation = columns.moments(outputs, values.double(), observed)
            apart = self.units(mean) - middle
            first, second = first + apart, second + deviation**2 + apart**2
            if self.coded.any():
                chance = chance + columns.log_prob(outputs, codes, None).exp()
        shift = first / draws
        return Imputation(
            value=torch.where(self.coded, codes, middle + shift),
            sd=(second / draws - shift**2).clamp_min(0).sqrt(),
            probability=torch.where(self.coded, chance / draws, torch.nan),
        )
