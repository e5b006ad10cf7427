"""What training maximises: one value per row, terms kept apart; averaging is the caller's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from vae.model import Pass, Posterior


@dataclass(frozen=True)
class Elbo:
    """The evidence lower bound, ELBO = E_q[log p(x | z)] - KL(q(z | x) || p(z)) (Kingma and Welling 2014, eq. 3)."""

    log_likelihood: Float[Tensor, "batch feature"]
    """One-draw estimate of E_q[log p(x_f | z)], nats, original units."""
    kl: Float[Tensor, "batch latent"]
    """KL per latent dimension, nats, in closed form."""

    def per_row(self, *, beta: float = 1.0) -> Float[Tensor, " batch"]:
        """E_q[log p(x | z)] - beta * KL for each row; a bound on log p(x) for beta = 1 (Higgins et al. 2017)."""
        return self.log_likelihood.sum(1) - beta * self.kl.sum(1)


def elbo(
    model: Callable[[Tensor, Tensor, Tensor], Pass],
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    noise: Float[Tensor, "batch latent"],
) -> Elbo:
    """The bound's terms at one posterior draw per row. `model` is a VAE, or a distributed wrapper around one."""
    result = model(values, observed, noise)
    return Elbo(result.log_likelihood, Posterior(result.mean, result.logvar).kl())
