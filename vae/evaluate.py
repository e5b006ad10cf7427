"""The judge: how good is a model, in nats and in the data's own units.

Everything is a sum over rows first (`Sums`), so batches, files and workers add up exactly; `Evaluation` is the sums
turned into figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from vae.model import VAE, Posterior

ACTIVE_VARIANCE = 0.01
"""A latent dimension is active if Var over x of E[z_i | x] exceeds this (Burda et al. 2015, section 5.2)."""


@dataclass(frozen=True)
class Sums:
    """Sufficient statistics of an evaluation, float64. Adding two is evaluating their rows together."""

    packed: Float64[Tensor, " statistic"]
    columns: int
    latents: int

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.packed + other.packed, self.columns, self.latents)

    def split(self) -> tuple[Tensor, ...]:
        """(rows; log-likelihood, squared or 0/1 error, observed cells by column; KL, mean, mean^2 by latent)."""
        return tuple(self.packed.split([1, *[self.columns] * 3, *[self.latents] * 3]))


def zero(model: VAE) -> Sums:
    """The sums over no rows."""
    columns, latents = len(model.config.columns), model.config.network.latent
    device = model.mean.weight.device
    return Sums(torch.zeros(1 + 3 * columns + 3 * latents, dtype=torch.float64, device=device), columns, latents)


@torch.no_grad()
def tally(
    model: VAE,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    noise: Float[Tensor, "batch latent"],
) -> Sums:
    """The sums over one batch, at one posterior draw per row."""
    result = model(values, observed, noise)
    cells = model.columns.per_column(observed.to(values.dtype))
    sums = [
        torch.tensor([len(values)], device=values.device),
        model.columns.per_column(result.log_likelihood).sum(0, dtype=torch.float64),
        _errors(model, values, observed, result.mean).sum(0, dtype=torch.float64),
        cells.sum(0, dtype=torch.float64),
        Posterior(result.mean, result.logvar).kl().sum(0, dtype=torch.float64),
        result.mean.sum(0, dtype=torch.float64),
        (result.mean.double() ** 2).sum(0),
    ]
    return Sums(torch.cat([part.double() for part in sums]), cells.shape[1], result.mean.shape[1])


def _errors(model: VAE, values: Tensor, observed: Tensor, mean: Tensor) -> Float[Tensor, "batch column"]:
    """Squared error (Gaussian, standardised units) or 0/1 error (the others) of the reconstruction from E[z | x]."""
    guess = model.reconstruct(mean)
    wrong = torch.where(_is_gaussian(model), (guess - values) ** 2, (guess.round() != values).to(values.dtype))
    return model.columns.per_column(torch.where(observed, wrong, 0.0))


def _is_gaussian(model: VAE) -> Bool[Tensor, " feature"]:
    gaussian = [column.likelihood == "gaussian" for column in model.config.columns]
    return torch.tensor(gaussian, device=model.columns.owner.device)[model.columns.owner]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of a model on some rows. Nats are per row, in original units."""

    rows: int
    elbo: float
    """log_likelihood - kl: a lower bound on the mean log p(x), nats per row."""
    log_likelihood: float
    """E_q[log p(x | z)], nats per row."""
    kl: float
    """KL(q(z | x) || p(z)), nats per row."""
    active_units: int
    """Latent dimensions with Var(E[z_i | x]) > 0.01."""
    kl_per_latent: tuple[float, ...]
    variance_per_latent: tuple[float, ...]
    """Var over rows of E[z_i | x]: 1 is full use, 0 is collapse."""
    log_likelihood_per_column: dict[str, float]
    error_per_column: dict[str, float]
    """RMSE in original units (Gaussian) or share of wrong cells (the others), from z = E[z | x]."""

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Evaluation:
        """Back from `dataclasses.asdict` and JSON."""
        tuples = {name: tuple(plain[name]) for name in ("kl_per_latent", "variance_per_latent")}
        return cls(**{**plain, **tuples})

    @property
    def verdict(self) -> str:
        """In plain words, how much of the latent space is in use."""
        latents = len(self.kl_per_latent)
        if self.active_units == 0:
            return "collapsed: no latent dimension carries information; lower beta or train longer"
        if self.active_units == latents:
            return f"all {latents} latent dimensions in use"
        return f"{latents - self.active_units} of {latents} latent dimensions unused"


def conclude(model: VAE, sums: Sums) -> Evaluation:
    """Turn sums into figures. Raises ValueError when there were no rows."""
    count, log_likelihood, error, cells, kl, mean, square = (part.cpu() for part in sums.split())
    rows = int(count)
    if rows == 0:
        raise ValueError("an evaluation needs at least one row")
    variance = (square / rows - (mean / rows) ** 2).clamp_min(0)
    names = [column.name for column in model.config.columns]
    errors = zip(model.config.columns, (error / cells.clamp_min(1)).tolist(), strict=True)
    return Evaluation(
        rows=rows,
        elbo=float((log_likelihood.sum() - kl.sum()) / rows),
        log_likelihood=float(log_likelihood.sum() / rows),
        kl=float(kl.sum() / rows),
        active_units=int((variance > ACTIVE_VARIANCE).sum()),
        kl_per_latent=tuple((kl / rows).tolist()),
        variance_per_latent=tuple(variance.tolist()),
        log_likelihood_per_column=dict(zip(names, (log_likelihood / rows).tolist(), strict=True)),
        error_per_column={
            column.name: error**0.5 * column.scale if column.likelihood == "gaussian" else error
            for column, error in errors
        },
    )
