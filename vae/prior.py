"""p(z): a mixture of Gaussians with diagonal covariances, of which N(0, I) is the mixture of one.

Fitted to the codes of a trained model it gives better samples (Ghosh et al. 2020, ex-post density estimation) and a
tighter bound (Hoffman and Johnson 2016); with components q(z | u) at learned inputs u it is the VampPrior (Tomczak and
Welling 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

LOG_2PI = math.log(2 * math.pi)
VARIANCE_FLOOR = 1e-3
"""A fitted component's variance is at least this share of the codes' own variance."""


@dataclass(frozen=True)
class Prior:
    """p(z) = sum_k w_k N(z; m_k, diag(v_k)).

    >>> Prior.normal(3).log_prob(torch.zeros(1, 3))
    tensor([-2.7568])
    """

    log_weight: Float[Tensor, " component"]
    mean: Float[Tensor, "component latent"]
    logvar: Float[Tensor, "component latent"]

    @classmethod
    def normal(cls, latent: int, *, components: int = 1) -> Prior:
        """N(0, I), as a mixture of components that are all the same."""
        zeros = torch.zeros(components, latent)
        return cls(torch.full((components,), -math.log(components)), zeros, zeros.clone())

    def log_prob(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch"]:
        """log p(z), nats."""
        return (self.log_weight + self._each(z).sum(-1)).logsumexp(-1)

    def marginals(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent"]:
        """log p(z_i) of each dimension by itself, nats."""
        return (self.log_weight[:, None] + self._each(z)).logsumexp(-2)

    def sample(self, rows: int, *, generator: Generator | None = None) -> Float[Tensor, "batch latent"]:
        """Independent draws."""
        edges = self.log_weight.exp().cumsum(0)[:-1]
        uniform = torch.rand(rows, generator=generator, dtype=edges.dtype, device=edges.device)
        chosen = torch.searchsorted(edges, uniform, right=True)
        mean = self.mean[chosen]
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + (0.5 * self.logvar[chosen]).exp() * noise

    def _each(self, z: Tensor) -> Float[Tensor, "*batch component latent"]:
        """log N(z_i; m_ki, v_ki)."""
        apart = (z.unsqueeze(-2) - self.mean) ** 2 * (-self.logvar).exp()
        return -0.5 * (apart + self.logvar + LOG_2PI)


def fit(
    mean: Float[Tensor, "row latent"],
    logvar: Float[Tensor, "row latent"],
    *,
    components: int,
    generator: Generator,
    iterations: int = 100,
) -> Prior:
    """The mixture that the codes q(z | x) = N(mean, exp(logvar)) come from, by EM.

    Each iteration raises the mean of log sum_k w_k exp(E_q[log N(z; m_k, v_k)]), a lower bound on E_q[log p(z)], the
    prior's part of the ELBO. Deterministic given the generator. Raises ValueError without rows.
    """
    if not len(mean):
        raise ValueError("a prior is fitted to at least one row")
    variance = logvar.exp()
    whole = mean.var(0, correction=0) + variance.mean(0)
    floor = (VARIANCE_FLOOR * whole).clamp_min(1e-12)
    prior = _seeds(mean, whole.clamp_min(1e-12), components=components, generator=generator)
    for _ in range(iterations):
        prior = _improved(prior, mean, variance, floor)
    return prior


def _seeds(mean: Tensor, whole: Tensor, *, components: int, generator: Generator) -> Prior:
    """Components of the codes' own spread around codes far apart (k-means++, Arthur and Vassilvitskii 2007)."""
    chosen = [int(torch.randint(len(mean), (1,), generator=generator))]
    nearest = torch.full_like(mean[:, 0], math.inf)
    for _ in range(components - 1):
        nearest = nearest.minimum(((mean - mean[chosen[-1]]) ** 2 / whole).sum(1))
        chosen.append(int(torch.multinomial((nearest + 1e-12).cpu(), 1, generator=generator)))
    spread = whole.log().expand(components, -1) - math.log(components) / mean.shape[1]
    return Prior(mean.new_full((components,), -math.log(components)), mean[chosen], spread)


def _improved(prior: Prior, mean: Tensor, variance: Tensor, floor: Tensor) -> Prior:
    spread = 0.5 * variance @ (-prior.logvar).exp().T
    share = (prior.log_weight + prior._each(mean).sum(-1) - spread).softmax(1)
    mass = share.sum(0).clamp_min(1e-9)
    centre = share.T @ mean / mass[:, None]
    moment = torch.stack(
        [(weight[:, None] * ((mean - c) ** 2 + variance)).sum(0) for weight, c in zip(share.T, centre, strict=True)]
    )
    return Prior((mass / mass.sum()).log(), centre, (moment / mass[:, None]).maximum(floor).log())
