"""The model: q(z | x), p(x | z) and nothing of how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from vae.config import ModelConfig
from vae.likelihoods import Columns
from vae.networks import linear, mlp

LOGVAR_RANGE = (-16.0, 8.0)
"""Bounds of the posterior's log-variance: a standard deviation between 3e-4 and 55."""


@dataclass(frozen=True)
class Posterior:
    """q(z | x): a Gaussian with diagonal covariance (Kingma and Welling 2014).

    At the prior it costs nothing; each unit of the mean costs half its square:

    >>> Posterior(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2)).kl()
    tensor([[0., 2.]])
    """

    mean: Float[Tensor, "batch latent"]
    logvar: Float[Tensor, "batch latent"]

    def sample(self, noise: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """z = mean + std * noise, the reparameterisation; `noise` is standard normal."""
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl(self) -> Float[Tensor, "batch latent"]:
        """KL(q(z_i | x) || N(0, 1)) per row and dimension, nats; the closed form."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar)


class Pass(NamedTuple):
    """What one pass through the model yields."""

    log_likelihood: Float[Tensor, "batch feature"]
    mean: Float[Tensor, "batch latent"]
    logvar: Float[Tensor, "batch latent"]


class VAE(nn.Module):
    """A variational autoencoder over mixed columns.

    `values[batch, feature]` holds standardised numbers, 0/1 and category codes; `observed` says which are there.
    Two heads give mean and log-variance of q(z | x); the decoder's outputs are the parameters of `columns`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        network = config.network
        self.config = config
        self.columns = Columns(config.columns)
        self.encoder = mlp((self.columns.inputs, *network.hidden), activation=network.activation)
        self.decoder = mlp((network.latent, *reversed(network.hidden)), activation=network.activation)
        inner, outer = (network.hidden or (self.columns.inputs,))[-1], (network.hidden or (network.latent,))[0]
        self.mean = linear(inner, network.latent)
        self.logvar = linear(inner, network.latent)
        self.outputs = linear(outer, sum(self.columns.outputs))
        with torch.no_grad():
            self.outputs.bias.copy_(self.columns.bias())

    def encode(self, values: Float[Tensor, "batch feature"], observed: Bool[Tensor, "batch feature"]) -> Posterior:
        """q(z | x) given the observed features."""
        hidden = self.encoder(self.columns.embed(values, observed))
        return Posterior(self.mean(hidden), self.logvar(hidden).clamp(*LOGVAR_RANGE))

    def decode(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch output"]:
        """Parameters of p(x | z), to be read by `columns`."""
        outputs: Tensor = self.outputs(self.decoder(z))
        return outputs

    def reconstruct(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch feature"]:
        """Best guess of every feature given z, as a value."""
        return self.columns.mean(self.decode(z))

    def sample(self, rows: int, *, generator: Generator | None = None) -> Float[Tensor, "batch feature"]:
        """New rows: z from the prior N(0, I), then x from p(x | z)."""
        weight = self.mean.weight
        z = torch.randn(rows, self.config.network.latent, generator=generator, dtype=weight.dtype, device=weight.device)
        return self.columns.sample(self.decode(z), generator)

    def forward(
        self,
        values: Float[Tensor, "batch feature"],
        observed: Bool[Tensor, "batch feature"],
        noise: Float[Tensor, "batch latent"],
    ) -> Pass:
        """log p(x | z) at z = mean + std * noise, with the posterior it came from."""
        posterior = self.encode(values, observed)
        outputs = self.decode(posterior.sample(noise))
        return Pass(self.columns.log_prob(outputs, values, observed), posterior.mean, posterior.logvar)
