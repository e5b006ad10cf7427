"""Distributions over the levels 0..K-1 of an ordered scale, such as a pixel's 256: binomial, discretised logistic."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from vae.config import Column
from vae.likelihoods.likelihood import Likelihood, present, smallest
from vae.likelihoods.special import betainc, log_beta


class Levelled(Likelihood, ABC):
    """Whole numbers 0..n."""

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        self.highest = self.constant("highest", self.spread(float(column.codes - 1) for column in columns))

    def guess(self, column: Column) -> float:
        return (column.codes - 1) / 2

    def embed(self, values: Tensor, observed: Tensor | None) -> Tensor:
        return present(2 * values / self.highest - 1, observed)

    def extreme(self, uniform: Tensor) -> Tensor:
        return torch.where(uniform < 0.5, 0.0, self.highest)

    def share(self) -> Float[Tensor, " feature"]:
        """The data's mean as a share of the highest level, away from 0 and 1."""
        return (self.means / self.highest).clamp(1e-3, 1 - 1e-3)


class Binomial(Levelled, name="binomial"):
    """Heads among n throws of a coin: log P(x) = log C(n, x) + x log p + (n - x) log(1 - p), p the output's logistic.

    For n = 1 it is the Bernoulli distribution.
    """

    def bias(self) -> Tensor:
        return torch.logit(self.share())

    def log_prob(self, outputs: Tensor, values: Tensor, observed: Tensor | None) -> Tensor:
        rest = self.highest - values
        choose = -log_beta(1 + values.double(), 1 + rest.double()) - self.highest.double().log1p()
        heads, tails = functional.logsigmoid(outputs), functional.logsigmoid(-outputs)
        return choose.to(outputs.dtype) + values * heads + rest * tails

    def mean(self, outputs: Tensor) -> Tensor:
        return self.highest * outputs.sigmoid()

    def deviation(self, outputs: Tensor) -> Tensor:
        return (self.highest * outputs.sigmoid() * (-outputs).sigmoid()).sqrt()

    def mode(self, outputs: Tensor) -> Tensor:
        return ((self.highest + 1) * outputs.sigmoid()).floor().minimum(self.highest)

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        trials = self.highest.to(outputs.dtype).expand(outputs.shape).contiguous()
        return torch.binomial(trials, outputs.sigmoid(), generator=generator)

    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        failure, n = (-outputs.double()).sigmoid(), self.highest.double().expand(outputs.shape)

        def cdf(k: Tensor) -> Tensor:
            inside = betainc((n - k).clamp_min(1.0), k.clamp_min(0) + 1, failure)
            return torch.where(k >= n, 1.0, inside)

        return smallest(cdf, level, start=n).to(outputs.dtype)


class DiscretisedLogistic(Levelled, name="discretised_logistic"):
    """A logistic density around m cut into levels: P(x) = S((x + 1/2 - m) / s) - S((x - 1/2 - m) / s).

    S is the logistic function; the outermost levels take the tails (Salimans et al. 2017, PixelCNN++). The scale s, in
    levels, is learned per column; m = n / 2 (1 + output).
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        self.log_scale = nn.Parameter(torch.tensor([math.log(0.1 * (column.codes - 1) + 0.5) for column in columns]))
        self.owner = self.constant("owner", torch.repeat_interleave(torch.tensor(self.widths)))

    def scale(self) -> Float[Tensor, " feature"]:
        """s of each feature, in levels; at least 0.05, where a single level holds all."""
        return 0.05 + self.log_scale.clamp(-40, 40).exp()[self.owner]

    def location(self, outputs: Tensor) -> Tensor:
        """m of each feature, in levels."""
        return self.highest / 2 * (1 + outputs)

    def bias(self) -> Tensor:
        return 2 * self.share() - 1

    def log_prob(self, outputs: Tensor, values: Tensor, observed: Tensor | None) -> Tensor:
        s, apart = self.scale(), values - self.location(outputs)
        upper = functional.logsigmoid((apart + 0.5) / s)
        lower = functional.logsigmoid((0.5 - apart) / s)
        inner = upper + lower + torch.log(-torch.expm1(-1 / s))
        return torch.where(values <= 0, upper, torch.where(values >= self.highest, lower, inner))

    def mean(self, outputs: Tensor) -> Tensor:
        total = torch.zeros_like(outputs)
        for _, above in self._above(outputs):
            total += above
        return total

    def deviation(self, outputs: Tensor) -> Tensor:
        """By E[X^2] = sum_k (2k + 1) P(X > k), in float64, where the difference of large numbers keeps its digits."""
        first, second = torch.zeros_like(outputs.double()), torch.zeros_like(outputs.double())
        for level, above in self._above(outputs.double()):
            first, second = first + above, second + (2 * level + 1) * above
        return (second - first**2).clamp_min(0).sqrt().to(outputs.dtype)

    def _above(self, outputs: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each level k below the highest of all features, and P(X > k)."""
        m, s = self.location(outputs), self.scale()
        for level in range(int(self.highest.max())):
            yield level, torch.where(level < self.highest, ((m - level - 0.5) / s).sigmoid(), 0.0)

    def mode(self, outputs: Tensor) -> Tensor:
        inner = self.location(outputs).round().clamp_min(0).minimum(self.highest)
        ends = (torch.zeros_like(inner), self.highest.expand(inner.shape))
        seen = torch.ones_like(inner, dtype=torch.bool)
        candidates = torch.stack([inner, *ends])
        scores = torch.stack([self.log_prob(outputs, candidate, seen) for candidate in candidates])
        return candidates.gather(0, scores.argmax(0, keepdim=True))[0]

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        uniform = torch.rand(outputs.shape, generator=generator, device=outputs.device, dtype=outputs.dtype)
        return self._level(outputs, torch.logit(uniform, eps=1e-7))

    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        return self._level(outputs, torch.full_like(outputs, math.log(level / (1 - level))))

    def _level(self, outputs: Tensor, logit: Tensor) -> Tensor:
        """The smallest level x with S((x + 1/2 - m) / s) >= S(logit)."""
        level = (self.location(outputs) + self.scale() * logit - 0.5).ceil()
        return level.clamp_min(0).minimum(self.highest)
