"""What the laws of likelihoods share: an example of each kind, its support, and how to add up over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vae.config import COUNTS, LEVELS, REALS, Column
from vae.likelihoods import LIKELIHOODS, Columns, Likelihood

KINDS = tuple(LIKELIHOODS)
"""What a common law is parametrised over: a class that registers itself is held to all of them."""
CONTINUOUS = tuple(kind for kind in KINDS if kind in REALS)
DISCRETE = tuple(kind for kind in KINDS if kind not in REALS)


def column(kind: str, **settings: Any) -> Column:
    """A column of any kind, with units that are not the standardised ones; numbers that float32 holds exactly."""
    needed: dict[str, Any] = {"name": "x", "likelihood": kind}
    if kind in REALS:
        needed |= {"center": -1.5, "scale": 0.125 if kind == "log_normal" else 2.5, "floor": 0.25, "components": 3}
    if kind in ("categorical", "ordinal", *LEVELS):
        needed["codes"] = 5
    if kind == "joint_mixture":
        needed["group"] = "g"
    return Column(**{**needed, **settings})


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that no global state is touched."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal float64."""
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def of(*columns: Column) -> Columns:
    """The likelihood of these columns in float64, every parameter a little off where it begins."""
    likelihood = Columns(columns).double()
    with torch.no_grad():
        for index, parameter in enumerate(likelihood.parameters()):
            parameter.add_(0.3 * normal(*parameter.shape, seed=100 + index))
    return likelihood


def only(likelihood: Columns) -> Likelihood:
    """The one block that there is."""
    (block,) = likelihood.blocks
    assert isinstance(block, Likelihood)
    return block


def outputs_of(likelihood: Columns, rows: int, *, seed: int) -> Tensor:
    """Decoder outputs about where training would begin, and different for every row."""
    return likelihood.bias().double() + normal(rows, sum(likelihood.outputs), seed=seed)


def seen(values: Tensor) -> Tensor:
    """A mask under which nothing is missing."""
    return torch.ones_like(values, dtype=torch.bool)


@torch.no_grad()
def drawn(likelihood: Columns, outputs: Tensor, *, seed: int) -> Tensor:
    """Values that these columns may well hold."""
    return likelihood.sample(outputs, seeded(seed))


def repeated(row: Tensor, times: int) -> Tensor:
    """One row many times."""
    return row.expand(times, -1)


@dataclass(frozen=True)
class Support:
    """Every value of one feature and how much each counts in a sum over x, in original units."""

    values: Tensor
    weights: Tensor

    def mass(self, likelihood: Columns, row: Tensor) -> Tensor:
        """p(x) dx of every value, given one row of outputs."""
        outputs = repeated(row, len(self.values))
        log_prob = likelihood.log_prob(outputs, self.values[:, None], seen(self.values[:, None]))
        return log_prob[:, 0].detach().exp() * self.weights


def whole(most: int) -> Support:
    """The whole numbers 0..most - 1."""
    values = torch.arange(most, dtype=torch.float64)
    return Support(values, torch.ones_like(values))


def stretched(likelihood: Columns, u: Tensor, path: Callable[[Tensor], Tensor]) -> Support:
    """Reals x = units(path(u)) by the trapezoidal rule over u, whose error falls exponentially with its step."""
    u = u.clone().requires_grad_()
    values = path(u)
    (slope,) = torch.autograd.grad(likelihood.units(values[:, None]).sum(), u)
    return Support(values.detach(), slope.abs() * (u[1] - u[0]).item())


def support(likelihood: Columns, kind: str) -> Support:
    """The whole support of an example `column(kind)`, far into its tails."""
    if kind in REALS:
        far = 9 if kind == "log_normal" else 18
        return stretched(likelihood, torch.linspace(-far, far, 4001, dtype=torch.float64), torch.sinh)
    return whole(4000 if kind in COUNTS else column(kind).codes or 2)


def cdf(likelihood: Columns, kind: str, row: Tensor, value: Tensor) -> float:
    """P(X <= value), added up; for reals over x = units(value - e^u)."""
    if kind in REALS:
        u = torch.linspace(-36, 9, 4001, dtype=torch.float64)
        return stretched(likelihood, u, lambda u: value - u.exp()).mass(likelihood, row).sum().item()
    all_of_it = support(likelihood, kind)
    return all_of_it.mass(likelihood, row)[all_of_it.values <= value].sum().item()
