"""Probabilistic PCA: the linear model with an exact likelihood, hence the rival of every VAE.

It knows nothing of units: log-probabilities are nats in the units of the values it is given, and a caller who
standardised them adds the Jacobian. Everything is float64, on the device of the values; rows are read in chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Generator, Tensor

CHUNK = 2**21
"""Numbers in the largest tensor made for one chunk of rows: 16 MiB, of which a handful exist at a time."""
RESOLUTION = 1e-6
"""The smallest noise, in total standard deviations of the data: below it float64 has no digits left for variances."""
LARGEST = 1e100
"""Values far beyond this overflow when squared."""


@dataclass(frozen=True)
class PPCA:
    r"""A Gaussian with q directions of free variance and one noise for all the others (Tipping and Bishop 1999).

    x = W z + m + sigma e with z ~ N(0, I_q) and e ~ N(0, I_d), so x ~ N(m, C) where C = W W^T + sigma^2 I. Missing
    cells are integrated out: x_o ~ N(m_o, W_o W_o^T + sigma^2 I) with the observed rows W_o of W.

    >>> line = PPCA(torch.zeros(2).double(), torch.tensor([[2.0], [0.0]]).double(), torch.tensor(1.0).double())
    >>> line.log_prob(torch.tensor([[math.nan, 0.0]]), torch.tensor([[False, True]])).tolist()
    [-0.9189385332046727]
    >>> line.encode(torch.tensor([[5.0, 7.0]])).tolist()
    [[2.0]]
    """

    mean: Float64[Tensor, " feature"]
    """m"""
    weight: Float64[Tensor, "feature latent"]
    """W; as `fit` makes it, its columns are orthogonal, longest first, the largest entry of each positive."""
    variance: Float64[Tensor, ""]
    """sigma^2 > 0"""

    def log_prob(
        self, values: Float[Tensor, "batch feature"], observed: Bool[Tensor, "batch feature"] | None = None
    ) -> Float64[Tensor, " batch"]:
        """log p(x_o) of each row, exactly: nats, in the units of `values`; 0 where nothing is observed.

        Costs q^2 (d + q) per row with missing cells, by the q x q matrix I + W_o^T W_o / sigma^2; chunks of rows
        without any share one factorisation.
        """
        return torch.cat([known.log_prob for known in self._infer(values, observed)])

    def posterior(
        self, values: Float[Tensor, "batch feature"], observed: Bool[Tensor, "batch feature"] | None = None
    ) -> tuple[Float64[Tensor, "batch latent"], Float64[Tensor, "batch latent latent"]]:
        """Mean M^-1 W_o^T (x_o - m_o) and covariance sigma^2 M^-1 of z given x_o, with M = sigma^2 I + W_o^T W_o."""
        parts = [(known.mean, known.covariance()) for known in self._infer(values, observed)]
        means, covariances = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(covariances)

    def encode(
        self, values: Float[Tensor, "batch feature"], observed: Bool[Tensor, "batch feature"] | None = None
    ) -> Float64[Tensor, "batch latent"]:
        """E[z | x_o]."""
        return torch.cat([known.mean for known in self._infer(values, observed)])

    def reconstruct(self, z: Float[Tensor, "batch latent"]) -> Float64[Tensor, "batch feature"]:
        """E[x | z] = W z + m; with z = E[z | x_o] it fills the missing cells with their conditional mean."""
        return torch.addmm(self.mean, z.to(self.mean), self.weight.mT)

    def sample(self, rows: int, *, generator: Generator | None = None) -> Float64[Tensor, "batch feature"]:
        """New rows: z from N(0, I), then x from N(W z + m, sigma^2 I)."""
        shape = rows, sum(self.weight.shape)
        noise = torch.randn(shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        e, z = noise.split(list(self.weight.shape), 1)
        return self.reconstruct(z).addcmul(self.variance.sqrt(), e)

    def _infer(self, values: Tensor, observed: Tensor | None) -> Iterator[_Inference]:
        return (_infer(self, *chunk) for chunk in _chunks(values, _mask(values, observed), self.weight.shape[1]))


class _Inference(NamedTuple):
    """What is known of some rows, in units of sigma."""

    residual: Float64[Tensor, "batch feature"]
    """(x - m) / sigma, and 0 where a cell is missing."""
    mean: Float64[Tensor, "batch latent"]
    factor: Float64[Tensor, "group latent latent"]
    """Cholesky factors of I + W_o^T W_o / sigma^2: one per row, or one for all."""
    log_prob: Float64[Tensor, " batch"]

    def covariance(self) -> Float64[Tensor, "batch latent latent"]:
        return torch.cholesky_inverse(self.factor).expand(len(self.mean), -1, -1)


def _infer(
    model: PPCA, values: Float64[Tensor, "batch feature"], observed: Bool[Tensor, "batch feature"]
) -> _Inference:
    scale = model.variance.sqrt()
    weight = model.weight / scale
    residual = torch.where(observed, values - model.mean, 0.0) / scale
    factor = _factor(weight, observed)
    rows, (groups, latent, _) = len(values), factor.shape
    projected = (residual @ weight).reshape(groups, rows // groups, latent)
    mean = torch.cholesky_solve(projected.mT, factor).mT.reshape(rows, latent)
    # |u - W z|^2 + |z|^2 at z = E[z | x] is u^T C^-1 u without the cancellation of Woodbury's difference.
    misfit = torch.where(observed, residual - mean @ weight.mT, 0.0)
    square = (misfit**2).sum(1) + (mean**2).sum(1)
    log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
    constant = observed.sum(1) * (math.log(2 * math.pi) + model.variance.log())
    return _Inference(residual, mean, factor, -0.5 * (square + log_det + constant))


def _factor(
    weight: Float64[Tensor, "feature latent"], observed: Bool[Tensor, "batch feature"]
) -> Float64[Tensor, "group latent latent"]:
    if observed.all():
        gram = (weight.mT @ weight)[None]
    else:
        outer = weight[:, :, None] * weight[:, None, :]
        gram = torch.tensordot(observed.to(weight), outer, 1)
    factor: Tensor = torch.linalg.cholesky(gram + torch.eye(weight.shape[1]).to(weight))
    return factor


@torch.no_grad()
def fit(
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"] | None = None,
    *,
    latent: int,
    floor: float = 1e-3,
    iterations: int = 200,
    tolerance: float = 1e-7,
) -> PPCA:
    """The maximum-likelihood model: in closed form, or by EM where cells are missing.

    With S = covariance (divided by n), eigenvalues l_1 >= ... >= l_d and eigenvectors U: sigma^2 is the mean of
    l_{q+1}..l_d and W = U_q (L_q - sigma^2 I)^1/2 (Tipping and Bishop 1999, eqs. 7 and 8). Missing cells are taken to
    be missing at random; EM starts at the closed form of the mean-imputed rows and only ever climbs (`em_step`).

    `latent` at or above the number of features is lowered to one less, which already is the Gaussian with a full
    covariance; one feature leaves q = 0, the plain normal N(m, sigma^2). sigma never falls below `floor`, in the units
    of `values`, nor below a millionth of the total standard deviation. A constant column has no weight, only the
    noise; one never observed has mean 0 besides. EM ends after `iterations`, or when one gains no more than
    `tolerance` nats per observed cell, a rule that does not depend on units.

    Raises ValueError for no cells, a negative `latent`, a `floor` that is not positive, and an observed value that is
    not finite or exceeds 1e100.

    >>> model = fit(torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), latent=1)
    >>> model.weight.mT.tolist(), model.variance.item()
    ([[1.224744871391589, 0.0]], 0.5)
    """
    mask = _mask(values, observed)
    _check(values, mask, latent, floor)
    mean, covariance = _moments(values, mask)
    floor = max(floor, RESOLUTION * covariance.trace().sqrt().item())
    model = _closed_form(mean, covariance, min(latent, len(mean) - 1), floor)
    return model if mask.all() else _climb(model, values, mask, floor=floor, iterations=iterations, tolerance=tolerance)


def _check(values: Tensor, mask: Tensor, latent: int, floor: float) -> None:
    if not values.numel():
        raise ValueError(f"pPCA needs at least one row and one feature, got {tuple(values.shape)}: give it some cells")
    if latent < 0 or not floor > 0:
        raise ValueError(f"pPCA needs latent >= 0 and floor > 0, got latent={latent}, floor={floor}: raise them")
    wrong = torch.cat([seen & ~(rows.abs() <= LARGEST) for rows, seen in _chunks(values, mask)]).nonzero()
    if len(wrong):
        row, feature = wrong[0].tolist()
        raise ValueError(
            f"pPCA needs observed values of at most {LARGEST:g}, got {values[row, feature]} at row {row}, feature "
            f"{feature} ({len(wrong)} such cells): mark it as not observed, or repair or rescale it"
        )


def _moments(values: Tensor, mask: Tensor) -> tuple[Float64[Tensor, " feature"], Float64[Tensor, "feature feature"]]:
    """Mean of the observed cells, and covariance (divided by n) of the rows with that mean in the gaps."""
    total = sum(torch.where(seen, rows, 0.0).sum(0) for rows, seen in _chunks(values, mask))
    mean = total / mask.sum(0).clamp_min(1)
    centered = (torch.where(seen, rows - mean, 0.0) for rows, seen in _chunks(values, mask))
    return mean, sum((rows.mT @ rows for rows in centered), torch.zeros_like(mean)) / len(values)


def _closed_form(
    mean: Float64[Tensor, " feature"], covariance: Float64[Tensor, "feature feature"], latent: int, floor: float
) -> PPCA:
    lengths, axes = (part.flip(-1) for part in torch.linalg.eigh(covariance))
    variance = lengths[latent:].mean().clamp_min(floor**2)
    weight = axes[:, :latent] * (lengths[:latent] - variance).clamp_min(0).sqrt()
    varies = covariance.diagonal()[:, None] > 0  # elsewhere exactly none, not an eigenvector's rounding
    return PPCA(mean, _positive(weight * varies), variance)


def _positive(weight: Float64[Tensor, "feature latent"]) -> Float64[Tensor, "feature latent"]:
    """The same columns, the largest entry of each positive: PCA leaves signs open."""
    largest = weight.gather(0, weight.abs().argmax(0, keepdim=True))
    return torch.where(largest < 0, -weight, weight)


def _climb(model: PPCA, values: Tensor, mask: Tensor, *, floor: float, iterations: int, tolerance: float) -> PPCA:
    """EM until it no longer pays; the best model it met, along principal axes."""
    best, before, cells = model, -math.inf, int(mask.sum())
    for _ in range(iterations + 1):
        following, score = em_step(model, values, mask, floor=floor)
        if score > before:
            best = model
        if not score - before > tolerance * cells:
            break
        model, before = following, float(score)
    _, _, turn = torch.linalg.svd(best.weight, full_matrices=False)
    return PPCA(best.mean, _positive(best.weight @ turn.mT), best.variance)


@torch.no_grad()
def em_step(
    model: PPCA, values: Float[Tensor, "batch feature"], observed: Bool[Tensor, "batch feature"], *, floor: float
) -> tuple[PPCA, Float64[Tensor, ""]]:
    """A model at least as likely, sigma not below `floor`, and the log-likelihood (sum over rows) of the one given.

    Missing cells are integrated out (Ilin and Raiko 2010). Each feature is regressed on the posterior of (z, 1) over
    the rows that have it, which gives its mean along with its weight; then the latents' own mean and covariance,
    momentarily free, are absorbed into m and W (parameter expansion, Liu, Rubin and Wu 1998: far fewer steps).
    """
    parts = (_expect(model, *chunk) for chunk in _chunks(values, observed, model.weight.shape[1]))
    score, square, cells, cross, second = reduce(lambda one, two: _Sums(*map(torch.add, one, two)), parts)
    scale, latent = model.variance.sqrt(), model.weight.shape[1]
    moments, prior = second[:-1], second[-1] / cells[-1].clamp_min(1)
    old = torch.cat([model.weight / scale, torch.zeros_like(model.mean)[:, None]], 1)
    gap = cross - torch.einsum("fij,fj->fi", moments, old)
    new = old + torch.einsum("fij,fj->fi", torch.linalg.pinv(moments, hermitian=True), gap)
    loss = square - 2 * (new * cross).sum() + torch.einsum("fi,fij,fj->", new, moments, new)
    variance = model.variance * loss / cells[:-1].sum().clamp_min(1)
    weight, mean, center = new[:, :latent], new[:, latent], prior[:latent, latent]
    lengths, axes = torch.linalg.eigh(prior[:latent, :latent] - torch.outer(center, center))
    root = axes * lengths.clamp_min(0).sqrt()
    mean = model.mean + scale * (mean + weight @ center)
    return PPCA(mean, scale * weight @ root, variance.clamp_min(floor**2)), score


class _Sums(NamedTuple):
    """What EM needs of the rows, in units of sigma; a feature more than there are stands for "has any"."""

    score: Tensor
    """log p, summed."""
    square: Tensor
    """Squared residuals, summed."""
    cells: Tensor
    """Observed cells, `[feature + 1]`."""
    cross: Tensor
    """Residual times E[(z, 1)], `[feature, latent + 1]`."""
    second: Tensor
    """E[(z, 1) (z, 1)^T] over the rows that have the feature, `[feature + 1, latent + 1, latent + 1]`."""


def _expect(model: PPCA, values: Float64[Tensor, "batch feature"], observed: Bool[Tensor, "batch feature"]) -> _Sums:
    known = _infer(model, values, observed)
    rows, latent = known.mean.shape
    basis = torch.cat([known.mean, known.mean.new_ones(rows, 1)], 1)
    second = basis[:, :, None] * basis[:, None, :]
    second[:, :latent, :latent] += known.covariance()
    seen = torch.cat([observed, observed.any(1, keepdim=True)], 1).to(basis)
    return _Sums(
        score=known.log_prob.sum(),
        square=(known.residual**2).sum(),
        cells=seen.sum(0),
        cross=known.residual.mT @ basis,
        second=torch.tensordot(seen.mT, second, 1),
    )


def _mask(values: Tensor, observed: Tensor | None) -> Bool[Tensor, "batch feature"]:
    """`observed`, or a view of a single True."""
    return torch.ones((), dtype=torch.bool, device=values.device).expand(values.shape) if observed is None else observed


def _chunks(values: Tensor, mask: Tensor, latent: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows in float64 with their mask, so many at a time that no tensor made of them exceeds `CHUNK` numbers."""
    rows = max(1, CHUNK // max(1, values.shape[1], (latent + 1) ** 2))
    for part, seen in zip(values.split(rows), mask.split(rows), strict=True):
        yield part.double(), seen
