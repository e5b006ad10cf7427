"""Mixtures of independent columns: the exact likelihood of a row that belongs to one of K classes (Lazarsfeld 1950).

On reals it is a Gaussian mixture with diagonal covariances, on zeros and ones a mixture of Bernoullis; with one class
it is the independence of all columns, the lowest rung of every ladder. Missing cells are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Generator, Tensor

from vae.config import COUNTS, REALS, Column
from vae.likelihoods.warp import Warps

ITERATIONS = 200
TOLERANCE = 1e-6


@dataclass(frozen=True)
class LatentClass:
    """log p(x_o) = log sum_k w_k prod_f p_k(x_f): normal reals, Poisson counts, tables of codes and levels."""

    log_weight: Float64[Tensor, " group"]
    mean: Float64[Tensor, "group feature"]
    """Of reals, standardised, and of counts; unused for codes."""
    variance: Float64[Tensor, "group feature"]
    log_rates: Float64[Tensor, "group feature code"]
    kinds: Kinds

    def log_prob(
        self, values: Float[Tensor, "batch feature"], observed: Bool[Tensor, "batch feature"]
    ) -> Float64[Tensor, " batch"]:
        """log p(x_o) of each row, nats in original units."""
        parts = zip(values.split(4096), observed.split(4096), strict=True)
        return torch.cat([self.joint(value, seen).logsumexp(1) for value, seen in parts])

    def joint(
        self, values: Float[Tensor, "batch feature"], observed: Bool[Tensor, "batch feature"]
    ) -> Float64[Tensor, "batch group"]:
        """log p(x_o, k)."""
        x = torch.where(observed, values, 0.0).double()
        log_unit = self.kinds.warps.log_unit(x)
        each = [self._class(group, x, observed, log_unit) for group in range(len(self.log_weight))]
        return self.log_weight + torch.stack(each, 1)

    def _class(self, group: int, x: Tensor, observed: Tensor, log_unit: Tensor) -> Float64[Tensor, " batch"]:
        mean, variance = self.mean[group], self.variance[group]
        normal = -0.5 * ((x - mean) ** 2 / variance + variance.log() + math.log(2 * math.pi)) - log_unit
        counts = x.clamp_min(0)
        poisson = counts * mean.clamp_min(1e-9).log() - mean - (counts + 1).lgamma()
        code = torch.where(self.kinds.coded, x, 0.0).long()
        table = self.log_rates[group].expand(len(x), -1, -1).gather(2, code[:, :, None])[:, :, 0]
        each = torch.where(self.kinds.real, normal, torch.where(self.kinds.coded, table, poisson))
        return torch.where(observed, each, 0.0).sum(1)


@dataclass(frozen=True)
class Kinds:
    """What each feature is."""

    real: Bool[Tensor, " feature"]
    coded: Bool[Tensor, " feature"]
    floor: Float64[Tensor, " feature"]
    codes: Float64[Tensor, " feature"]
    """Number of codes; 0 for reals and counts."""
    warps: Warps
    """From standardised units to the data's own; of no meaning for counts and codes."""

    @classmethod
    def of(cls, columns: Sequence[Column], device: torch.device) -> Kinds:
        """From the columns' settings."""
        owners = [column for column in columns for _ in range(column.width)]
        real = [column.likelihood in REALS for column in owners]
        coded = [column.likelihood not in (*REALS, *COUNTS) for column in owners]
        codes = [(it.codes or 2) * code for it, code in zip(owners, coded, strict=True)]
        return cls(
            real=torch.tensor(real, device=device),
            coded=torch.tensor(coded, device=device),
            floor=torch.tensor([it.floor for it in owners], device=device, dtype=torch.float64),
            codes=torch.tensor(codes, device=device, dtype=torch.float64),
            warps=Warps(columns, torch.float64).to(device),
        )


@torch.no_grad()
def fit(
    columns: Sequence[Column],
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    *,
    classes: int,
    seed: int = 0,
) -> LatentClass:
    """Maximum likelihood by EM from random memberships; a table counts each code once more than it occurs."""
    kinds = Kinds.of(columns, values.device)
    generator = Generator().manual_seed(seed)
    share = torch.rand(len(values), classes, generator=generator, dtype=torch.float64).to(values.device) ** 4
    model = _maximised(kinds, values, observed, share / share.sum(1, keepdim=True))
    before = -math.inf
    for _ in range(ITERATIONS if classes > 1 else 0):
        joint = torch.cat([model.joint(*part) for part in zip(values.split(4096), observed.split(4096), strict=True)])
        now = float(joint.logsumexp(1).mean())
        if now - before < TOLERANCE * abs(now):
            break
        before, model = now, _maximised(kinds, values, observed, joint.softmax(1))
    return model


def _maximised(kinds: Kinds, values: Tensor, observed: Tensor, share: Float64[Tensor, "batch group"]) -> LatentClass:
    x, seen = torch.where(observed, values, 0.0).double(), observed.double()
    mass = (share.T @ seen).clamp_min(1e-9)
    mean = share.T @ x / mass
    square = torch.where(seen.sum(0) > 0, share.T @ (x**2) / mass, 1.0)  # a standardised column never seen
    rates = _table(kinds, x, seen, share)
    return LatentClass(
        share.mean(0).clamp_min(1e-300).log(),
        mean,
        (square - mean**2).maximum(kinds.floor**2),
        (rates / rates.sum(2, keepdim=True)).log(),
        kinds,
    )


def _table(
    kinds: Kinds,
    x: Float64[Tensor, "batch feature"],
    seen: Float64[Tensor, "batch feature"],
    share: Float64[Tensor, "batch group"],
) -> Float64[Tensor, "group feature code"]:
    """How often each class has each code, and once more over all classes; 0 for codes that do not exist."""
    longest, groups = max(1, int(kinds.codes.max())), share.shape[1]
    counts = share.new_zeros(x.shape[1], longest, groups)
    for feature in kinds.coded.nonzero().flatten().tolist():
        counts[feature].index_add_(0, x[:, feature].long(), share * seen[:, feature, None])
    exists = torch.arange(longest, device=x.device) < kinds.codes.clamp_min(1)[:, None]
    return (counts + 1 / groups).permute(2, 0, 1) * exists
