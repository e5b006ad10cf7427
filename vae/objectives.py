"""What training maximises: one value per row, terms kept apart; averaging is the caller's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vae.likelihoods.likelihood import Observed
from vae.model import VAE, Posterior


@dataclass(frozen=True)
class Elbo:
    """The evidence lower bound, ELBO = E_q[log p(x | z)] - KL(q(z | x) || p(z)) (Kingma and Welling 2014, eq. 3)."""

    log_likelihood: Float[Tensor, "batch feature"]
    """Estimate of E_q[log p(x_f | z)] by the mean over the draws, nats, original units."""
    kl: Float[Tensor, "batch term"]
    """KL, nats: under N(0, I) the closed form, a term per latent dimension; under another prior one term, estimated."""

    def per_row(self, *, beta: float | Tensor = 1.0, free_bits: float = 0.0) -> Float[Tensor, " batch"]:
        """E_q[log p(x | z)] - beta * sum_i max(KL_i, free_bits) for each row; the bound for beta = 1, free_bits = 0.

        Without free bits no term is touched: an estimated KL may be negative, and only so is it right on average.
        """
        terms = self.kl.clamp_min(free_bits) if free_bits else self.kl
        return self.log_likelihood.sum(1) - beta * terms.sum(1)


def elbo(
    model: VAE,
    values: Float[Tensor, "batch feature"],
    observed: Observed,
    posterior: Posterior,
    noise: Float[Tensor, "batch draw latent"],
) -> Elbo:
    """The bound's terms at the draws mean + std * noise. `posterior` may come from a corrupted row: a denoising VAE."""
    z = model.draw(posterior, noise)
    each = model.log_likelihood(values, observed, z)
    fit = each.mean(1) if each.shape[1] > 1 else each.squeeze(1)
    return Elbo(fit, kl(model, posterior, z))


def kl(model: VAE, posterior: Posterior, z: Float[Tensor, "batch draw latent"]) -> Float[Tensor, "batch term"]:
    """KL(q(z | x) || p(z)); zero if the encoder is deterministic. The draws matter where it has no closed form."""
    if not model.stochastic:
        return torch.zeros_like(posterior.mean)
    if model.standard:
        return posterior.kl()
    return (posterior.log_prob(z).sum(2) - model.prior().log_prob(z)).mean(1, keepdim=True)


def log_weights(
    model: VAE,
    values: Float[Tensor, "batch feature"],
    observed: Observed,
    z: Float[Tensor, "batch draw latent"],
    posterior: Posterior,
) -> Float[Tensor, "batch draw"]:
    """log w = log p(x | z) + log p(z) - log q(z | x), whose mean weight over z ~ q is p(x)."""
    fit = model.log_likelihood(values, observed, z).sum(2)
    return fit + model.prior().log_prob(z) - posterior.log_prob(z).sum(2)


def iwae(
    model: VAE,
    values: Float[Tensor, "batch feature"],
    observed: Observed,
    posterior: Posterior,
    noise: Float[Tensor, "batch draw latent"],
    *,
    gradient: Literal["dreg", "reparameterised"] = "dreg",
) -> Float[Tensor, " batch"]:
    """L_k = log mean_k w(z_k), the importance-weighted bound of each row (Burda et al. 2016, eq. 8).

    Its value is the same for both gradients. `dreg` is doubly reparameterised (Tucker et al. 2019, eq. 8): the
    encoder's passes through z alone, weighted by the squared normalised weights, so that its signal-to-noise ratio
    grows with k instead of falling; the decoder's is the usual one.
    """
    z = model.draw(posterior, noise)
    if gradient == "reparameterised":
        return _bound(log_weights(model, values, observed, z, posterior))
    log_w = log_weights(model, values, observed, z, posterior.detach())
    share = log_w.detach().softmax(1)
    if z.requires_grad:
        z.register_hook(lambda slope: share[:, :, None] * slope)
    surrogate = (share * log_w).sum(1)
    return _bound(log_w.detach()) + surrogate - surrogate.detach()


def _bound(log_w: Float[Tensor, "batch draw"]) -> Float[Tensor, " batch"]:
    return log_w.logsumexp(1) - math.log(log_w.shape[1])
