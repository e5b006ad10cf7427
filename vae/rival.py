"""What a model has to beat: the likelihood of a row without a neural network.

Reals, standardised, are a probabilistic PCA with as many latent dimensions as the model; counts a negative binomial and
codes and levels a table of frequencies, each feature independent of the others. Exact, missing cells included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn import functional

from vae import ppca
from vae.config import COUNTS, REALS, Column
from vae.ppca import PPCA


@dataclass(frozen=True)
class Rival:
    """The product of a PPCA over the reals and of independent features; made by `fit`."""

    columns: tuple[Column, ...]
    ppca: PPCA | None
    marginals: dict[int, Frequencies | Count]
    """By feature."""

    def log_prob(
        self, values: Float[Tensor, "batch feature"], observed: Bool[Tensor, "batch feature"]
    ) -> Float64[Tensor, " batch"]:
        """log p(x_o) of each row, nats in original units."""
        total = torch.zeros(len(values), dtype=torch.float64, device=values.device)
        if self.ppca is not None:
            real = _real(self.columns).to(values.device)
            x, seen = values[:, real].double(), observed[:, real]
            total += self.ppca.log_prob(x, seen)
            total -= torch.where(seen, _log_units(self.columns, x), 0.0).sum(1)
        for feature, marginal in self.marginals.items():
            seen = observed[:, feature]
            total += torch.where(seen, marginal.log_prob(torch.where(seen, values[:, feature], 0.0).double()), 0.0)
        return total


@dataclass(frozen=True)
class Frequencies:
    """A table of the codes' probabilities."""

    log_rates: Float64[Tensor, " code"]

    def log_prob(self, cells: Float64[Tensor, " batch"]) -> Float64[Tensor, " batch"]:
        """log P(X = cell)."""
        return self.log_rates[cells.long()]


@dataclass(frozen=True)
class Count:
    """A negative binomial by its mean m and dispersion r (see vae.likelihoods.count)."""

    mean: Float64[Tensor, ""]
    dispersion: Float64[Tensor, ""]

    def log_prob(self, cells: Float64[Tensor, " batch"]) -> Float64[Tensor, " batch"]:
        """log P(X = cell)."""
        m, r = self.mean, self.dispersion
        choose = (cells + r).lgamma() - r.lgamma() - (cells + 1).lgamma()
        return choose - r * functional.softplus((m / r).log()) - cells * functional.softplus((r / m).log())


@torch.no_grad()
def fit(
    columns: Sequence[Column],
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    *,
    latent: int,
) -> Rival:
    """Fit on training rows: in closed form, or by EM where real cells are missing. Raises ValueError without rows."""
    real = _real(columns).to(values.device)
    floor = min((column.floor for column in columns if column.likelihood in REALS), default=1.0)
    analysed = ppca.fit(values[:, real], observed[:, real], latent=latent, floor=floor) if real.any() else None
    owners = [column for column in columns for _ in range(column.width)]
    marginals = {
        feature: _marginal(column, values[observed[:, feature], feature].double())
        for feature, column in enumerate(owners)
        if column.likelihood not in REALS
    }
    return Rival(tuple(columns), analysed, marginals)


def _marginal(column: Column, cells: Float64[Tensor, " cell"]) -> Frequencies | Count:
    if column.likelihood not in COUNTS:
        counts = torch.bincount(cells.long(), minlength=column.codes or 2).double() + 1
        return Frequencies((counts / counts.sum()).log())
    if not len(cells):
        cells = cells.new_ones(1)
    mean, variance = cells.mean().clamp_min(1e-3), cells.var(correction=0)
    return Count(mean, (mean**2 / (variance - mean).clamp_min(1e-12)).clamp(1e-3, 1e6))


def _real(columns: Sequence[Column]) -> Bool[Tensor, " feature"]:
    return torch.tensor([column.likelihood in REALS for column in columns for _ in range(column.width)])


def _log_units(columns: Sequence[Column], x: Float64[Tensor, "batch real"]) -> Float64[Tensor, "batch real"]:
    """Logarithm of the original units in one standardised unit, at each value of the reals."""
    real = [column for column in columns if column.likelihood in REALS for _ in range(column.width)]
    scale, center = (x.new_tensor([getattr(column, name) for column in real]) for name in ("scale", "center"))
    logged = torch.tensor([column.likelihood == "log_normal" for column in real], device=x.device)
    return scale.log() + torch.where(logged, center + scale * x, 0.0)
