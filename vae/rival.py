"""What a model has to beat: the likelihood of a row without a neural network.

Reals, standardised, are a probabilistic PCA with as many latent dimensions as the model; counts a negative binomial and
codes and levels a table of frequencies, each feature independent of the others. Exact, missing cells included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Generator, Tensor
from torch.nn import functional

from vae import ppca
from vae.config import COUNTS, REALS, Column
from vae.likelihoods.warp import Warps
from vae.ppca import PPCA


@dataclass(frozen=True)
class Rival:
    """The product of a PPCA over the reals and of independent features; made by `fit`."""

    columns: tuple[Column, ...]
    real: Bool[Tensor, " feature"]
    """The features of the pPCA."""
    ppca: PPCA | None
    marginals: dict[int, Frequencies | Count]
    """By feature."""

    @property
    def name(self) -> str:
        """What it is made of."""
        parts = ["pPCA"] * (self.ppca is not None) + ["independent columns"] * bool(self.marginals)
        return " and ".join(parts)

    def log_prob(
        self, values: Float[Tensor, "batch feature"], observed: Bool[Tensor, "batch feature"]
    ) -> Float64[Tensor, " batch"]:
        """log p(x_o) of each row, nats in original units."""
        total = torch.zeros(len(values), dtype=torch.float64, device=values.device)
        if self.ppca is not None:
            x, seen = values[:, self.real].double(), observed[:, self.real]
            total += self.ppca.log_prob(x, seen)
            total -= torch.where(seen, self._log_units(x), 0.0).sum(1)
        for feature, marginal in self.marginals.items():
            seen = observed[:, feature]
            total += torch.where(seen, marginal.log_prob(torch.where(seen, values[:, feature], 0.0).double()), 0.0)
        return total

    def _log_units(self, x: Float64[Tensor, "batch real"]) -> Float64[Tensor, "batch real"]:
        """Logarithm of the original units in one standardised unit, at each value of the reals."""
        ends = torch.tensor([column.width for column in self.columns]).cumsum(0) - 1
        real = [column for column, it in zip(self.columns, self.real[ends].tolist(), strict=True) if it]
        return Warps(real, torch.float64).to(x.device).log_unit(x)


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
    dequantised: bool = False,
) -> Rival:
    """Fit on training rows: in closed form, or by EM where real cells are missing. Raises ValueError without rows.

    `latent` at or above the number of reals makes the pPCA the Gaussian with a full covariance. With `dequantised` all
    but categoricals are among its reals: for values to which uniform noise on [0, 1) was added (`dequantise`).
    """
    real = _real(columns, dequantised=dequantised).to(values.device)
    owners = [column for column in columns for _ in range(column.width)]
    floor = min((column.floor for column, it in zip(owners, real.tolist(), strict=True) if it), default=1.0)
    analysed = ppca.fit(values[:, real], observed[:, real], latent=latent, floor=floor) if real.any() else None
    marginals = {
        feature: _marginal(column, values[observed[:, feature], feature].double())
        for feature, column in enumerate(owners)
        if not real[feature]
    }
    return Rival(tuple(columns), real, analysed, marginals)


def dequantise(
    columns: Sequence[Column], values: Float[Tensor, "batch feature"], *, generator: Generator
) -> Float64[Tensor, "batch feature"]:
    """Whole numbers with uniform noise on [0, 1) added, except a categorical's; reals as they are.

    A density's mean log at such values bounds the mean log P(x) of the whole numbers from below (Theis et al. 2016).
    """
    noise = torch.rand(values.shape, generator=generator, dtype=torch.float64).to(values.device)
    whole = _real(columns, dequantised=True) & ~_real(columns)
    return values + noise * whole.to(values.device)


def _marginal(column: Column, cells: Float64[Tensor, " cell"]) -> Frequencies | Count:
    if column.likelihood not in COUNTS:
        counts = torch.bincount(cells.long(), minlength=column.codes or 2).double() + 1
        return Frequencies((counts / counts.sum()).log())
    if not len(cells):
        cells = cells.new_ones(1)
    return _likeliest(*cells.unique(return_counts=True))


def _likeliest(cells: Float64[Tensor, " cell"], counts: Tensor) -> Count:
    """The maximum-likelihood negative binomial: its mean is the sample's, its dispersion the best of a fine grid."""
    mean = ((cells * counts).sum() / counts.sum()).clamp_min(1e-3)
    grid = [Count(mean, dispersion) for dispersion in torch.logspace(6, -3, 361, dtype=torch.float64).to(cells.device)]
    scores = torch.stack([(marginal.log_prob(cells) * counts).sum() for marginal in grid])
    return grid[int(scores.argmax())]


def _real(columns: Sequence[Column], *, dequantised: bool = False) -> Bool[Tensor, " feature"]:
    kinds = [it.likelihood in REALS or (dequantised and it.likelihood != "categorical") for it in columns]
    return torch.tensor(kinds).repeat_interleave(torch.tensor([column.width for column in columns]))
