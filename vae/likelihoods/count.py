"""Distributions over counts 0, 1, 2, ...: Poisson and negative binomial. The decoder's output is the log of the mean.

Log-probabilities of large counts are small differences of large numbers; they are taken in float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from vae.config import Column
from vae.likelihoods.likelihood import Likelihood, bounded, present, smallest
from vae.likelihoods.special import betainc, log_beta

LOG_MEAN_RANGE = (-20.0, 20.0)
"""Of the decoder's output: means between 2e-9 and 5e8."""


class Counted(Likelihood, ABC):
    """A count with mean exp(output)."""

    def guess(self, column: Column) -> float:
        return 1.0

    def embed(self, values: Tensor, observed: Tensor | None) -> Tensor:
        return present(values.clamp_min(0).log1p() - self.means.log1p(), observed)

    def bias(self) -> Tensor:
        return self.means.clamp_min(1e-3).log()

    def mean(self, outputs: Tensor) -> Tensor:
        return bounded(outputs, *LOG_MEAN_RANGE).exp()

    def log_prob(self, outputs: Tensor, values: Tensor, observed: Tensor | None) -> Tensor:
        log_mean, counts = bounded(outputs, *LOG_MEAN_RANGE).double(), values.clamp(0, 1e30).double()
        return self.log_mass(log_mean, counts).to(outputs.dtype)

    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        mean = self.mean(outputs).double()
        return smallest(lambda count: self.cdf(mean, count), level, start=mean).to(outputs.dtype)

    def extreme(self, uniform: Tensor) -> Tensor:
        return super().extreme(uniform).clamp_min(0)

    @abstractmethod
    def log_mass(
        self, log_mean: Float[Tensor, "batch feature"], counts: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch feature"]:
        """log P(X = count), float64."""

    @abstractmethod
    def cdf(
        self, mean: Float[Tensor, "batch feature"], counts: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch feature"]:
        """P(X <= count), float64."""


class Poisson(Counted, name="poisson"):
    """Poisson: log P(x) = x log m - m - log x!. Its variance is its mean.

    >>> visits = Poisson([Column(name="visits", likelihood="poisson", means=(3.0,))])
    >>> visits.mean(visits.bias()[None]).round()
    tensor([[3.]])
    """

    def log_mass(self, log_mean: Tensor, counts: Tensor) -> Tensor:
        return counts * log_mean - log_mean.exp() - (counts + 1).lgamma()

    def cdf(self, mean: Tensor, counts: Tensor) -> Tensor:
        return torch.igammac(counts + 1, mean)

    def deviation(self, outputs: Tensor) -> Tensor:
        return self.mean(outputs).sqrt()

    def mode(self, outputs: Tensor) -> Tensor:
        return self.mean(outputs).floor()

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.poisson(self.mean(outputs), generator=generator)


class NegativeBinomial(Counted, name="negative_binomial"):
    """Overdispersed counts: mean m, variance m + m^2 / r, the dispersion r learned per column.

    log P(x) = log G(x + r) - log G(r) - log x! + r log(r / (r + m)) + x log(m / (r + m)); a Poisson as r grows.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        self.log_dispersion = nn.Parameter(torch.ones(len(columns)))
        self.owner = self.constant("owner", torch.repeat_interleave(torch.tensor(self.widths)))

    def dispersion(self) -> Float[Tensor, " feature"]:
        """r of each feature, between 1e-3 and 6e4; float64."""
        return self.log_dispersion.double().clamp(-7, 11).exp()[self.owner]

    def log_mass(self, log_mean: Tensor, counts: Tensor) -> Tensor:
        r, odds = self.dispersion(), log_mean - self.dispersion().log()
        choose = -log_beta(r.expand_as(counts), counts + 1) - (counts + r).log()
        return choose + r * functional.logsigmoid(-odds) + counts * functional.logsigmoid(odds)

    def cdf(self, mean: Tensor, counts: Tensor) -> Tensor:
        r = self.dispersion().expand(mean.shape)
        return betainc(r, counts.clamp_min(0) + 1, r / (r + mean))

    def deviation(self, outputs: Tensor) -> Tensor:
        mean = self.mean(outputs).double()
        return (mean + mean**2 / self.dispersion()).sqrt().to(outputs.dtype)

    def mode(self, outputs: Tensor) -> Tensor:
        r = self.dispersion()
        return (self.mean(outputs) * ((r - 1) / r).clamp_min(0)).floor().to(outputs.dtype)

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        r = self.dispersion().expand(outputs.shape)
        gamma = torch._standard_gamma(r.contiguous(), generator=generator)
        return torch.poisson((gamma * self.mean(outputs) / r).to(outputs.dtype), generator=generator)
