"""Distributions over real numbers with a scale of their own: Gaussian, log-normal, Student's t."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Generator, Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from vae.config import Column
from vae.likelihoods.likelihood import RESIDUAL, Likelihood, bounded, present
from vae.likelihoods.special import betaincinv
from vae.likelihoods.warp import Warps

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Real(Likelihood, ABC):
    """A real number as its warp standardises it, with a floor below which no standard deviation falls."""

    def __init__(self, columns: Sequence[Column], *, outputs_per_feature: int = 1) -> None:
        super().__init__(columns, outputs_per_feature=outputs_per_feature)
        self.floor = self.constant("floor", self.spread(column.floor for column in columns))
        self.warps = Warps(columns)
        self._add_periods(columns)

    def units(self, values: Tensor) -> Tensor:
        return self.warps.units(values)

    def log_unit(self, values: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
        """Logarithm of the original units in one standardised unit, at these values: minus the log of the Jacobian."""
        return self.warps.log_unit(values)

    def embed(self, values: Tensor, observed: Tensor | None) -> Tensor:
        """Itself, and behind all features the sine and cosine of those that have periods."""
        numbers = super().embed(values, observed)
        if self.inputs == self.features:
            return numbers
        angle = 2 * math.pi * (self.phase + self.turns * numbers[:, self.periodic]).frac()
        there = None if observed is None else observed[:, self.periodic]
        return torch.cat([numbers, *present(torch.stack([angle.sin(), angle.cos()]), there)], 1)

    def _add_periods(self, columns: Sequence[Column]) -> None:
        """Turns per model value, and at the model value 0, of each feature's periods."""
        owners = [column for column in columns for _ in range(column.width)]
        pairs = [(index, column, period) for index, column in enumerate(owners) for period in column.periods]
        self.periodic = self.constant("periodic", torch.tensor([index for index, _, _ in pairs], dtype=torch.long))
        self.turns = self.constant("turns", torch.tensor([column.scale / period for _, column, period in pairs]))
        self.phase = self.constant("phase", torch.tensor([column.center / period % 1 for _, column, period in pairs]))
        self.inputs += 2 * len(pairs)

    def jitter(self, values: Tensor, noise: Tensor) -> Tensor:
        return values + noise


class Scaled(Real, ABC):
    """A location from the decoder, and one scale per column (shared by the pixels of an image), learned or fixed.

    A learned scale is never below the column's floor (Rybkin et al. 2021, sigma-VAE).
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        self.log_scale = nn.Parameter(torch.zeros(len(columns)))
        self.owner = self.constant("owner", torch.repeat_interleave(torch.tensor(self.widths)))
        self.wide = self.features > len(columns)
        self.fixed = self.constant("fixed", self.spread(column.sigma for column in columns))
        self.fixes = any(column.sigma for column in columns)

    def scale(self) -> Float[Tensor, " feature"]:
        """Scale of each feature, in standardised units."""
        own = bounded(self.log_scale, -40.0, 40.0).exp()
        learned = self.floor + (own[self.owner] if self.wide else own)
        return torch.where(self.fixed > 0, self.fixed, learned) if self.fixes else learned

    def bias(self) -> Tensor:
        return self.means

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs

    def residual(self, outputs: Tensor, values: Tensor) -> Tensor:
        """(x - m) / s."""
        return bounded((values - outputs) / self.scale(), -RESIDUAL, RESIDUAL)


def normal(shape: torch.Size, like: Tensor, generator: Generator | None) -> Tensor:
    """Standard normal noise, of the kind and on the device of another tensor."""
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


class Kernel(Function):
    """-r^2 / 2 with r = (x - m) / s within +-RESIDUAL: a normal log-density but for its constant.

    Its gradient keeps r alone and takes half the operations that autograd would; the result is the same to the bit.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        values: Float[Tensor, "batch feature"],
        mean: Float[Tensor, "batch feature"],
        scale: Float[Tensor, " feature"],
    ) -> Float[Tensor, "batch feature"]:
        """Per row and feature."""
        residual = (values - mean).div_(scale).clamp_(-RESIDUAL, RESIDUAL)
        ctx.save_for_backward(residual, scale)
        return residual.square().mul_(-0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Of values, mean and scale; zero where the residual is at its bound."""
        residual, scale = ctx.saved_tensors
        pull = slope * residual
        torch.ops.aten.hardtanh_backward.grad_input(pull, residual, -RESIDUAL, RESIDUAL, grad_input=pull)
        of_scale = (residual / scale).mul_(pull).sum(0)
        of_mean = pull.div_(scale)
        return -of_mean if ctx.needs_input_grad[0] else None, of_mean, of_scale


class Normal(Scaled, ABC):
    """Normal in standardised units; what these are in the data's own is for the warp to say."""

    saturates = True

    def log_prob(self, outputs: Tensor, values: Tensor, observed: Tensor | None) -> Tensor:
        unit = self.log_unit(values[:1] if self.warps.straight else values)
        kernel: Tensor = Kernel.apply(values, outputs, self.scale())
        return kernel - (self.scale().log() + unit + HALF_LOG_2PI)

    def mean(self, outputs: Tensor) -> Tensor:
        return self.warps.mean(outputs, self.scale().expand_as(outputs))

    def deviation(self, outputs: Tensor) -> Tensor:
        return self.warps.deviation(outputs, self.scale().expand_as(outputs))

    def mode(self, outputs: Tensor) -> Tensor:
        return self.warps.mode(outputs, self.scale().expand_as(outputs))

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        return outputs + self.scale() * normal(outputs.shape, outputs, generator)

    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        return outputs + self.scale() * NormalDist().inv_cdf(level)


class Gaussian(Normal, name="gaussian"):
    r"""Normal: log p(x) = -((x - m) / s)^2 / 2 - log s - log(2 pi) / 2 - log(unit).

    With s fixed (`Column.sigma`) this is the squared error: -log p(x) = (x - m)^2 / (2 s^2) + a constant, so
    minimising one minimises the other. A learned s weighs each column's squared error by its own noise.

    >>> height = Gaussian([Column(name="height", likelihood="gaussian", sigma=1.0)])
    >>> outputs, values = torch.zeros(1, 1), torch.tensor([[3.0]])
    >>> seen = torch.tensor([[True]])
    >>> (height.log_prob(outputs, outputs, seen) - height.log_prob(outputs, values, seen)).detach()
    tensor([[4.5000]])
    """


class LogNormal(Normal, name="log_normal"):
    """Positive numbers whose logarithm is Gaussian: log p(x) = log N(log x; m, s) - log x.

    The value is (log x - center) / unit, so log x and the Jacobian -log(unit) - log x follow from it. The mean
    exp(m + s^2 / 2), the median exp(m) and the mode exp(m - s^2) differ.
    """


class StudentT(Scaled, name="student_t"):
    """Student's t for heavy tails, its degrees of freedom v > 1 learned per column (Lange et al. 1989).

    log p(x) = log G((v + 1) / 2) - log G(v / 2) - log(v pi) / 2 - log s - (v + 1) / 2 log(1 + t^2 / v) - log(unit),
    with t = (x - m) / s. An outlier costs its logarithm, not its square.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        self.log_excess = nn.Parameter(torch.ones(len(columns)))

    def freedom(self) -> Float[Tensor, " feature"]:
        """Degrees of freedom v of each feature: 1 + exp(log_excess), between 1.02 and 1,098."""
        return 1 + self.log_excess.clamp(-4, 7).exp()[self.owner]

    def log_prob(self, outputs: Tensor, values: Tensor, observed: Tensor | None) -> Tensor:
        v, t = self.freedom(), self.residual(outputs, values)
        constant = (v / 2).lgamma() - ((v + 1) / 2).lgamma() + 0.5 * (v * math.pi).log()
        return -(v + 1) / 2 * (t**2 / v).log1p() - constant - self.scale().log() - self.log_unit(values)

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs

    def deviation(self, outputs: Tensor) -> Tensor:
        v = self.freedom()
        stretch = torch.where(v > 2, v / (v - 2).clamp_min(1e-30), math.inf).sqrt()
        return self.warps.deviation(outputs, (self.scale() * stretch).expand_as(outputs))

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        v = self.freedom().expand(outputs.shape)
        chi_square = 2 * torch._standard_gamma((v / 2).contiguous(), generator=generator)
        return (
            outputs
            + self.scale() * normal(outputs.shape, outputs, generator) * (v / chi_square.clamp_min(1e-30)).sqrt()
        )

    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        return outputs + self.scale() * _t_quantile(self.freedom().double(), level).to(outputs.dtype)


def _t_quantile(freedom: Float64[Tensor, " feature"], level: float) -> Float64[Tensor, " feature"]:
    """t with P(T <= t) = level, of t^2 = v (1 - w) / w; P(|T| > t) = I_w(v / 2, 1 / 2)."""
    outside, half = 2 * min(level, 1 - level), torch.full_like(freedom, 0.5)
    if outside < 0.5:
        w = betaincinv(freedom / 2, half, outside)
        odds = (1 - w) / w.clamp_min(1e-300)
    else:  # where w is near 1, its complement has more digits
        inside = betaincinv(half, freedom / 2, 1 - outside)
        odds = inside / (1 - inside)
    return math.copysign(1.0, level - 0.5) * (freedom * odds).sqrt()
