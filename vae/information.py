"""What the codes know: mutual information with the rows, and how far the codes together are from the prior.

The mean KL falls in two (Hoffman and Johnson 2016, ELBO surgery):

    E_x KL(q(z | x) || p(z))  =  I(x; z)  +  KL(q(z) || p(z)),      q(z) = mean over rows of q(z | x)

The first is what a code is for; the second is what samples from the prior suffer from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from vae.model import VAE, Posterior

PAIRS: Final = 1_000_000


@dataclass(frozen=True)
class Information:
    """Nats per row, over `rows` rows. No more than log(rows) can be told by that many rows."""

    rows: int
    mutual_information: float
    """I(x; z) of a row drawn from these rows."""
    prior_gap: float
    """KL(q(z) || p(z)), q(z) the mean of q(z | x) over these rows."""


@torch.no_grad()
def information(
    model: VAE,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    *,
    draws: int = 4,
    seed: int = 0,
) -> Information:
    """Monte-Carlo estimates from `draws` codes per row; time and work grow with the square of the rows.

    Raises ValueError for a deterministic encoder, whose codes know everything.
    """
    if not model.stochastic:
        raise ValueError("a deterministic encoder has no finite mutual information")
    posterior = model.encode(values, observed)
    noise = torch.randn(len(values), draws, posterior.mean.shape[1], generator=Generator().manual_seed(seed))
    z = posterior.sample(noise.to(posterior.mean))
    own = posterior.log_prob(z).sum(2)
    together = aggregate(posterior, z.flatten(0, 1)).view_as(own)
    prior = model.prior().log_prob(z)
    return Information(len(values), float((own - together).mean()), float((together - prior).mean()))


def aggregate(posterior: Posterior, z: Float[Tensor, "code latent"]) -> Float[Tensor, " code"]:
    """log q(z) = log mean_n q(z | x_n), nats."""
    rows = posterior.mean.shape
    parts = [
        posterior.log_prob(part[None].expand(rows[0], -1, -1)).sum(2).logsumexp(0)
        for part in z.split(max(1, PAIRS // rows.numel()))
    ]
    return torch.cat(parts) - math.log(rows[0])
