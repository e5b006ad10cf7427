"""Mixture densities for reals with several modes or a spread that varies: per column, or joint over a group of columns.

Bishop (1994), Mixture Density Networks. Every parameter of every component is an output of the decoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from vae.config import Column
from vae.likelihoods.likelihood import RESIDUAL, bounded, present
from vae.likelihoods.real import HALF_LOG_2PI, Real, normal

LOG_SCALE_RANGE = (-12.0, 12.0)
SLOPE_RANGE = (-30.0, 30.0)
MODE_STEPS, BISECTIONS = 40, 80


class Mixed(Real, ABC):
    """Reals whose distribution, feature by feature, is a mixture of Gaussians."""

    def __init__(self, columns: Sequence[Column], *, outputs_per_feature: int = 1) -> None:
        super().__init__(columns, outputs_per_feature=outputs_per_feature)
        self.components = columns[0].components

    @abstractmethod
    def marginals(
        self, outputs: Float[Tensor, "batch output"]
    ) -> tuple[
        Float[Tensor, "batch feature component"],
        Float[Tensor, "batch feature component"],
        Float[Tensor, "batch feature component"],
    ]:
        """Log-weights, means and standard deviations of each feature's components, standardised units."""

    def mean(self, outputs: Tensor) -> Tensor:
        log_weight, mean, scale = self.marginals(outputs)
        return self.warps.average(log_weight, _each(self.warps.mean, mean, scale))

    def deviation(self, outputs: Tensor) -> Tensor:
        return self.spread_of(*self.marginals(outputs))

    def spread_of(self, log_weight: Tensor, mean: Tensor, scale: Tensor) -> Float[Tensor, "batch feature"]:
        """The standard deviation of a mixture, in original units: within its components and between them."""
        within = _each(self.warps.deviation, mean, scale)
        centre = _each(lambda *part: self.units(self.warps.mean(*part)), mean, scale)
        weight = log_weight.exp()
        between = centre - (weight * centre).sum(2, keepdim=True)
        return (weight * (within**2 + between**2)).sum(2).sqrt()

    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        log_weight, mean, scale = (part.double() for part in self.marginals(outputs))
        each = mean + scale * NormalDist().inv_cdf(level)
        low, high = each.amin(2), each.amax(2)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            mass = (log_weight.exp() * torch.special.ndtr((middle[:, :, None] - mean) / scale)).sum(2)
            low, high = torch.where(mass < level, middle, low), torch.where(mass < level, high, middle)
        return high.to(outputs.dtype)

    def scales(self, raw: Tensor, floor: Tensor) -> Tensor:
        """Standard deviations, never below the floor."""
        return floor + bounded(raw, *LOG_SCALE_RANGE).exp()

    def starts(self) -> Float[Tensor, "feature component"]:
        """Means that begin apart, so that components do not stay twins."""
        apart = torch.linspace(-1.5, 1.5, self.components) if self.components > 1 else torch.zeros(1)
        return self.means[:, None] + apart

    def _choose(self, log_weight: Tensor, generator: Generator | None) -> Tensor:
        shape, like = log_weight.shape[:-1], log_weight
        uniform = torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)
        below = log_weight.exp().cumsum(-1) < uniform[..., None]
        return below.sum(-1, keepdim=True).clamp_max(self.components - 1)


def _each(of: Callable[[Tensor, Tensor], Tensor], mean: Tensor, scale: Tensor) -> Tensor:
    """A property of each component's normal."""
    return torch.stack([of(*part) for part in zip(mean.unbind(2), scale.unbind(2), strict=True)], 2)


def _residual(values: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return bounded((values - mean) / scale, -RESIDUAL, RESIDUAL)


class Mixture(Mixed, name="mixture"):
    """A mixture of K Gaussians per feature: log p(x) = log sum_k w_k N(x; m_k, s_k) - log(unit).

    With one component it is a Gaussian whose scale depends on z.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns, outputs_per_feature=3 * columns[0].components)

    def marginals(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logit, mean, raw = outputs.view(len(outputs), self.features, 3, self.components).unbind(2)
        return functional.log_softmax(logit, 2), mean, self.scales(raw, self.floor[:, None])

    def bias(self) -> Tensor:
        zeros = torch.zeros(self.features, self.components)
        return torch.stack([zeros, self.starts(), zeros - 0.5 * (self.components > 1)], 1).flatten()

    def log_prob(self, outputs: Tensor, values: Tensor, observed: Tensor | None) -> Tensor:
        log_weight, mean, scale = self.marginals(outputs)
        each = log_weight - 0.5 * _residual(values[:, :, None], mean, scale) ** 2 - scale.log() - HALF_LOG_2PI
        return each.logsumexp(2) - self.log_unit(values)

    def mode(self, outputs: Tensor) -> Tensor:
        """The highest peak that climbing from each component's mean finds (mean shift, Carreira-Perpinan 2000)."""
        log_weight, mean, scale = self.marginals(outputs)
        log_weight = log_weight + _each(self.warps.log_mass, mean, scale)
        mean = _each(self.warps.mode, mean, scale)
        log_weight, mean, scale = (part[:, :, None] for part in (log_weight, mean, scale))

        def density(x: Tensor) -> Tensor:
            return log_weight - 0.5 * _residual(x[..., None], mean, scale) ** 2 - scale.log()

        x = mean[:, :, 0]
        for _ in range(MODE_STEPS):
            pull = (density(x) - 2 * scale.log()).softmax(3)
            x = (pull * mean).sum(3)
        return x.gather(2, density(x).logsumexp(3).argmax(2, keepdim=True))[:, :, 0]

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        log_weight, mean, scale = self.marginals(outputs)
        chosen = self._choose(log_weight, generator)
        mean, scale = mean.gather(2, chosen)[:, :, 0], scale.gather(2, chosen)[:, :, 0]
        return mean + scale * normal(mean.shape, outputs, generator)


class JointMixture(Mixed, name="joint_mixture"):
    """A mixture over all features of a group, for columns that correlate given z: sum_k w_k N(x; m_k, S_k).

    Each component is a factor analyser of rank one (Ghahramani and Hinton 1996): x = m + s (t u + e), with one u for
    all features and an e for each, both standard normal; S = diag(s) (I + t t') diag(s). For two columns that is any
    covariance. The determinant is prod s^2 (1 + t't), the inverse is known, and what is missing is just left out.

    The log-probability of a feature is that given the group's features before it: log p(x_1) + log p(x_2 | x_1) + ...
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        self.outputs = self.components * (1 + 3 * self.features)

    def parts(
        self, outputs: Float[Tensor, "batch output"]
    ) -> tuple[
        Float[Tensor, "batch component"],
        Float[Tensor, "batch component feature"],
        Float[Tensor, "batch component feature"],
        Float[Tensor, "batch component feature"],
    ]:
        """Log-weights, means m, scales s and slopes t of the components."""
        logit, rest = outputs.split([self.components, 3 * self.components * self.features], 1)
        mean, raw, slope = rest.view(len(outputs), 3, self.components, self.features).unbind(1)
        return functional.log_softmax(logit, 1), mean, self.scales(raw, self.floor), bounded(slope, *SLOPE_RANGE)

    def marginals(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_weight, mean, scale, slope = self.parts(outputs)
        deviation = scale * (1 + slope**2).sqrt()
        weights = log_weight[:, None].expand(-1, self.features, -1)
        return weights, mean.transpose(1, 2), deviation.transpose(1, 2)

    def bias(self) -> Tensor:
        zeros = torch.zeros(self.components, self.features)
        slopes = torch.linspace(-0.5, 0.5, self.components)[:, None] if self.components > 1 else 0.1
        parts = [torch.zeros(self.components), self.starts().T.flatten(), zeros.flatten(), (zeros + slopes).flatten()]
        return torch.cat(parts)

    def log_prob(self, outputs: Tensor, values: Tensor, observed: Tensor | None) -> Tensor:
        up_to = self._joint(outputs, values, observed)
        return functional.pad(up_to, (1, 0)).diff(dim=1) - self.log_unit(values)

    def mode(self, outputs: Tensor) -> Tensor:
        """The mean of the component whose mean is the most probable of all components' means."""
        _, means, _, _ = self.parts(outputs)
        scores = [self._joint(outputs, mean, None)[:, -1] for mean in means.unbind(1)]
        best = torch.stack(scores, 1).argmax(1)
        return means[torch.arange(len(outputs), device=outputs.device), best]

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        nothing = torch.zeros(len(outputs), self.features, dtype=outputs.dtype, device=outputs.device)
        return self.complete(outputs, nothing, nothing.bool(), generator)

    def complete(self, outputs: Tensor, values: Tensor, observed: Tensor, generator: Generator | None = None) -> Tensor:
        """By the components' weights given what is observed, and u ~ N(a't / (1 + t't), 1 / (1 + t't))."""
        values = torch.where(observed, values, 0.0)
        chosen = self._choose(self._posed(outputs, values, observed)[:, :, -1].log_softmax(1), generator)
        parts = self.parts(outputs)[1:]
        mean, scale, slope = (part.gather(1, chosen[:, :, None].expand(-1, -1, self.features))[:, 0] for part in parts)
        a = torch.where(observed, _residual(values, mean, scale), 0.0)
        t = torch.where(observed, slope, 0.0)
        stretch = 1 + (t**2).sum(1, keepdim=True)
        centre = (a * t).sum(1, keepdim=True) / stretch
        common = centre + normal(centre.shape, outputs, generator) / stretch.sqrt()
        drawn = mean + scale * (slope * common + normal(mean.shape, outputs, generator))
        return torch.where(observed, values, drawn)

    def moments(self, outputs: Tensor, values: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """By the weights given what is observed, and u ~ N(a't / (1 + t't), 1 / (1 + t't)) in each component."""
        log_weight = self._posed(outputs, values, observed)[:, :, -1].log_softmax(1)
        _, mean, scale, slope = self.parts(outputs)
        a = present(_residual(values[:, None], mean, scale), observed[:, None])
        t = present(slope, observed[:, None])
        stretch = 1 + (t**2).sum(2, keepdim=True)
        mean = mean + scale * slope * (a * t).sum(2, keepdim=True) / stretch
        scale = scale * (1 + slope**2 / stretch).sqrt()
        weights = log_weight[:, None].expand(-1, self.features, -1)
        mean, scale = mean.transpose(1, 2), scale.transpose(1, 2)
        middle = self.warps.average(weights, _each(self.warps.mean, mean, scale))
        return middle, self.spread_of(weights, mean, scale)

    def _joint(self, outputs: Tensor, values: Tensor, observed: Tensor | None) -> Float[Tensor, "batch feature"]:
        """log p of the observed features up to and with each."""
        return self._posed(outputs, values, observed).logsumexp(1)

    def _posed(
        self, outputs: Tensor, values: Tensor, observed: Tensor | None
    ) -> Float[Tensor, "batch component feature"]:
        """log p of each component and of the observed features up to and with each."""
        log_weight, mean, scale, slope = self.parts(outputs)
        there = None if observed is None else observed[:, None]
        a = present(_residual(values[:, None], mean, scale), there)
        t = present(slope, there)
        stretch = 1 + (t**2).cumsum(2)
        square = (a**2).cumsum(2) - (a * t).cumsum(2) ** 2 / stretch
        log_scale = present(scale.log() + HALF_LOG_2PI, there).cumsum(2)
        each = -0.5 * square - log_scale - 0.5 * stretch.log()
        return log_weight[:, :, None] + each
