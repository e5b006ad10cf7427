"""What the model value of a real stands for: an increasing map to the data's own units, and what follows from it.

    none         x = center + unit v
    log_normal   x = exp(center + unit v)
    log1p        x = exp(center + unit v) - 1
    knots        x = center + unit g(v), with g straight between neighbouring knots, and beyond the outermost ones

v is the model value, x the number.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Final

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from vae.config import Column
from vae.likelihoods.likelihood import RESIDUAL

NODES: Final = 17
"""Points, half a standard deviation apart, at which a knotted line is looked at for its spread."""
BEYOND: Final = 1e30
"""A score, and a number, that no value reaches: knots from there on only make tables equally long."""


class Warp(nn.Module, ABC):
    """x = units(v), feature by feature."""

    @abstractmethod
    def units(self, values: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
        """Model values in the data's own units."""

    @abstractmethod
    def log_unit(self, values: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
        """log dx/dv, the logarithm of the original units in one standardised unit: minus the log of the Jacobian."""

    @abstractmethod
    def mean(
        self, mean: Float[Tensor, "batch feature"], scale: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch feature"]:
        """The model value of the mean of x, where v is normal."""

    @abstractmethod
    def deviation(
        self, mean: Float[Tensor, "batch feature"], scale: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch feature"]:
        """The standard deviation of x, in its own units, where v is normal."""

    @abstractmethod
    def average(
        self,
        log_weight: Float[Tensor, "batch feature component"],
        values: Float[Tensor, "batch feature component"],
    ) -> Float[Tensor, "batch feature"]:
        """The model value of the weighted mean of what several stand for."""

    def mode(
        self, mean: Float[Tensor, "batch feature"], scale: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch feature"]:
        """The model value of the most probable x, where v is normal: the middle of N(v; mean, scale) dv/dx."""
        return mean

    def log_mass(
        self, mean: Float[Tensor, "batch feature"], scale: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch feature"]:
        """log of the integral of N(v; mean, scale) dv/dx, up to what all normals share."""
        return torch.zeros_like(mean)


class Linear(Warp):
    """x = center + unit v."""

    def __init__(self, columns: Sequence[Column], dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.widths = torch.tensor([column.width for column in columns])
        self.unit = self.spread("unit", torch.tensor([column.scale for column in columns], dtype=dtype))
        self.center = self.spread("center", torch.tensor([column.center for column in columns], dtype=dtype))

    def spread(self, name: str, settings: Tensor) -> Tensor:
        """Register `[column, ...]` as `[feature, ...]`, a constant that is not saved."""
        spread = settings.repeat_interleave(self.widths, 0)
        self.register_buffer(name, spread, persistent=False)
        return spread

    def units(self, values: Tensor) -> Tensor:
        return self.center + self.unit * values

    def log_unit(self, values: Tensor) -> Tensor:
        return self.unit.log().expand_as(values)

    def mean(self, mean: Tensor, scale: Tensor) -> Tensor:
        return mean

    def deviation(self, mean: Tensor, scale: Tensor) -> Tensor:
        return self.unit * scale

    def average(self, log_weight: Tensor, values: Tensor) -> Tensor:
        return (log_weight.exp() * values).sum(2)


class Logarithmic(Linear):
    """log x = center + unit v, or log(1 + x): where v is normal, x or 1 + x is log-normal."""

    def __init__(self, columns: Sequence[Column], dtype: torch.dtype | None = None) -> None:
        super().__init__(columns, dtype)
        self.shifted = columns[0].warp == "log1p"

    def units(self, values: Tensor) -> Tensor:
        logarithm = super().units(values)
        return logarithm.expm1() if self.shifted else logarithm.exp()

    def log_unit(self, values: Tensor) -> Tensor:
        return self.unit.log() + self.center + self.unit * values.clamp(-RESIDUAL, RESIDUAL)

    def mean(self, mean: Tensor, scale: Tensor) -> Tensor:
        return mean + 0.5 * self.unit * scale**2

    def deviation(self, mean: Tensor, scale: Tensor) -> Tensor:
        variance = (self.unit * scale) ** 2
        return (self.center + self.unit * mean + 0.5 * variance).exp() * variance.expm1().sqrt()

    def average(self, log_weight: Tensor, values: Tensor) -> Tensor:
        return (log_weight + self.unit[:, None] * values).logsumexp(2) / self.unit

    def mode(self, mean: Tensor, scale: Tensor) -> Tensor:
        return mean - self.unit * scale**2

    def log_mass(self, mean: Tensor, scale: Tensor) -> Tensor:
        return 0.5 * (self.unit * scale) ** 2 - self.unit * mean


class Knotted(Linear):
    """x = center + unit g(v): lines through the columns' `scores` (v) and `knots` (g).

    The density of x jumps at each knot, which is the fit's doing, not the data's: `mode` is that of v.
    """

    def __init__(self, columns: Sequence[Column], dtype: torch.dtype | None = None) -> None:
        super().__init__(columns, dtype)
        longest = max(len(column.knots) for column in columns)
        lines = torch.stack([_lines(column, longest) for column in columns]).to(self.unit.dtype)
        self.scores = self.spread("scores", lines[:, 0])
        self.knots = self.spread("knots", lines[:, 1])
        self.slopes = self.spread("slopes", lines[:, 2])

    def units(self, values: Tensor) -> Tensor:
        return super().units(_along(values, self.scores, self.knots, self.slopes))

    def log_unit(self, values: Tensor) -> Tensor:
        return self.unit.log() + _picked(self.slopes, _piece(values, self.scores)).log()

    def mean(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Exact: g is the line about v = 0 and, at every knot away from there, a hinge (v - score)+ or (score - v)+."""
        scores, slopes, m, s = (part.double() for part in (self.scores, self.slopes, mean, scale))
        zero = torch.zeros_like(m)
        total = _along(zero, scores, self.knots.double(), slopes) + _picked(slopes, _piece(zero, scores)) * m
        for score, bend in zip(scores.T[1:], slopes.diff(dim=1).T, strict=True):
            z = torch.where(score >= 0, m - score, score - m) / s
            total = total + bend * s * (z * torch.special.ndtr(z) + (-0.5 * z**2).exp() / math.sqrt(2 * math.pi))
        return self._value(total).to(mean.dtype)

    def deviation(self, mean: Tensor, scale: Tensor) -> Tensor:
        """By the trapezoidal rule over NODES points of the normal: to about a hundredth."""
        line = torch.linspace(-4, 4, NODES, dtype=mean.dtype, device=mean.device)
        weights = (-0.5 * line**2).softmax(0)
        middle = _along(mean, self.scores, self.knots, self.slopes)
        first, second = torch.zeros_like(mean), torch.zeros_like(mean)
        for weight, at in zip(weights, line, strict=True):
            apart = _along(mean + at * scale, self.scores, self.knots, self.slopes) - middle
            first, second = first + weight * apart, second + weight * apart**2
        return self.unit * (second - first**2).clamp_min(0).sqrt()

    def average(self, log_weight: Tensor, values: Tensor) -> Tensor:
        each = [_along(value, self.scores, self.knots, self.slopes) for value in values.unbind(2)]
        return self._value((log_weight.exp() * torch.stack(each, 2)).sum(2))

    def _value(self, numbers: Tensor) -> Tensor:
        """The model values of standardised numbers."""
        return _along(numbers, self.knots, self.scores, 1 / self.slopes)


class Warps(Warp):
    """Columns side by side, whatever the warp of each."""

    def __init__(self, columns: Sequence[Column], dtype: torch.dtype | None = None) -> None:
        super().__init__()
        runs = [list(run) for _, run in groupby(columns, key=_kind)]
        self.parts = nn.ModuleList(KINDS[_kind(run[0])](run, dtype) for run in runs)
        self.widths = [sum(column.width for column in run) for run in runs]
        self.straight = all(_kind(run[0]) == "none" for run in runs)
        """Whether the units are the same at every value, and so in every row."""

    def units(self, values: Tensor) -> Tensor:
        return self._each(lambda warp, *part: warp.units(*part), values)

    def log_unit(self, values: Tensor) -> Tensor:
        return self._each(lambda warp, *part: warp.log_unit(*part), values)

    def mean(self, mean: Tensor, scale: Tensor) -> Tensor:
        return self._each(lambda warp, *part: warp.mean(*part), mean, scale)

    def deviation(self, mean: Tensor, scale: Tensor) -> Tensor:
        return self._each(lambda warp, *part: warp.deviation(*part), mean, scale)

    def average(self, log_weight: Tensor, values: Tensor) -> Tensor:
        return self._each(lambda warp, *part: warp.average(*part), log_weight, values)

    def mode(self, mean: Tensor, scale: Tensor) -> Tensor:
        return self._each(lambda warp, *part: warp.mode(*part), mean, scale)

    def log_mass(self, mean: Tensor, scale: Tensor) -> Tensor:
        return self._each(lambda warp, *part: warp.log_mass(*part), mean, scale)

    def _each(self, of: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        if len(self.parts) == 1:
            return of(self.parts[0], *tensors)
        parts = zip(self.parts, *(tensor.split(self.widths, 1) for tensor in tensors), strict=True)
        return torch.cat([of(*part) for part in parts], 1)


KINDS: Final[dict[str, type[Linear]]] = {
    "none": Linear,
    "log_normal": Logarithmic,
    "log1p": Logarithmic,
    "knots": Knotted,
}


def _kind(column: Column) -> str:
    return column.likelihood if column.likelihood == "log_normal" else column.warp


def _lines(column: Column, longest: int) -> Float64[Tensor, "3 knot"]:
    """Scores, knots and the slope to the right of each, made `longest` long by knots that lie beyond all values."""
    scores, knots = (torch.tensor(line, dtype=torch.float64) for line in (column.scores, column.knots))
    slopes, beyond = knots.diff() / scores.diff(), scores.new_full((longest - len(scores),), BEYOND)
    on = slopes[-1:].expand(longest - len(slopes))
    return torch.stack([torch.cat(pair) for pair in ((scores, beyond), (knots, beyond), (slopes, on))])


def _piece(values: Float[Tensor, "batch feature"], starts: Float[Tensor, "feature knot"]) -> Tensor:
    """The last knot before each value; of those before the first, the first."""
    return (torch.searchsorted(starts.to(values.dtype), values.T.contiguous()).T - 1).clamp_min(0)


def _picked(table: Float[Tensor, "feature knot"], piece: Tensor) -> Float[Tensor, "batch feature"]:
    return table.T.gather(0, piece)


def _along(
    values: Float[Tensor, "batch feature"],
    starts: Float[Tensor, "feature knot"],
    ends: Float[Tensor, "feature knot"],
    slopes: Float[Tensor, "feature knot"],
) -> Float[Tensor, "batch feature"]:
    """Where the lines from `starts` to `ends` take the values."""
    piece = _piece(values, starts)
    return _picked(ends, piece) + (values - _picked(starts, piece)) * _picked(slopes, piece)
