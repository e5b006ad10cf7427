"""The model: q(z | x), p(z), p(x | z) and nothing of how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from vae.config import ModelConfig
from vae.likelihoods import Columns
from vae.likelihoods.likelihood import Observed, bounded
from vae.networks import Decoder, Encoder, linear
from vae.prior import LOG_2PI, Prior

LOGVAR_RANGE: Final = (-16.0, 8.0)
"""Bounds of the posterior's log-variance: a standard deviation between 3e-4 and 55."""
MEAN_BOUND: Final = 1e6
"""Of the posterior's mean: beyond it nothing is resolved in float32."""


@dataclass(frozen=True)
class Posterior:
    """q(z | x): a Gaussian with diagonal covariance (Kingma and Welling 2014).

    At the prior N(0, I) it costs nothing; each unit of the mean costs half its square:

    >>> Posterior(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2)).kl()
    tensor([[0., 2.]])
    """

    mean: Float[Tensor, "batch latent"]
    logvar: Float[Tensor, "batch latent"]

    def sample(self, noise: Float[Tensor, "batch draw latent"]) -> Float[Tensor, "batch draw latent"]:
        """z = mean + std * noise, the reparameterisation; `noise` is standard normal."""
        return self.mean[:, None] + (0.5 * self.logvar).exp()[:, None] * noise

    def kl(self) -> Float[Tensor, "batch latent"]:
        """KL(q(z_i | x) || N(0, 1)) per row and dimension, nats; the closed form."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar)

    def log_prob(self, z: Float[Tensor, "batch draw latent"]) -> Float[Tensor, "batch draw latent"]:
        """log q(z_i | x) per row, draw and dimension, nats."""
        apart = (z - self.mean[:, None]) ** 2 * (-self.logvar).exp()[:, None]
        return -0.5 * (apart + self.logvar[:, None] + LOG_2PI)

    def detach(self) -> Posterior:
        """The same, as constants to the gradient."""
        return Posterior(self.mean.detach(), self.logvar.detach())


class VAE(nn.Module):
    """An autoencoder over mixed columns, variational unless its encoder is deterministic.

    `values[batch, feature]` holds standardised numbers, counts, levels and codes (see `vae.config.Column`); `observed`
    says which are there, None that all are. Two heads give mean and log-variance of q(z | x); the decoder's outputs are
    the parameters of `columns`. A deterministic encoder has the first head alone: z is the mean, the log-variance
    stands at its least.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        network = config.network
        self.config = config
        self.columns = Columns(config.columns)
        self.encoder = Encoder(network, self.columns)
        self.decoder = Decoder(network, self.columns)
        self.mean = linear(self.encoder.width, network.latent)
        self.logvar = linear(self.encoder.width, network.latent) if self.stochastic else None
        self._add_prior()

    @property
    def stochastic(self) -> bool:
        """Whether q(z | x) is a distribution; a deterministic encoder has no ELBO and no likelihood."""
        return self.config.network.encoder == "stochastic"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.weight.device

    def encode(self, values: Float[Tensor, "batch feature"], observed: Observed) -> Posterior:
        """q(z | x) given the observed features."""
        return self.infer(self.columns.embed(values, observed))

    def infer(self, inputs: Float[Tensor, "batch input"]) -> Posterior:
        """q(z | x) given the embedded row."""
        hidden = self.encoder(inputs)
        mean = bounded(self.mean(hidden).to(inputs.dtype), -MEAN_BOUND, MEAN_BOUND)
        if self.logvar is None:
            return Posterior(mean, torch.full_like(mean, LOGVAR_RANGE[0]))
        return Posterior(mean, bounded(self.logvar(hidden).to(inputs.dtype), *LOGVAR_RANGE))

    def draw(
        self, posterior: Posterior, noise: Float[Tensor, "batch draw latent"]
    ) -> Float[Tensor, "batch draw latent"]:
        """z ~ q(z | x); of a deterministic encoder its one z."""
        return posterior.sample(noise) if self.stochastic else posterior.mean[:, None].expand(noise.shape)

    def decode(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch output"]:
        """Parameters of p(x | z), to be read by `columns`."""
        outputs: Tensor = self.decoder(z).to(z.dtype)
        return outputs

    def log_likelihood(
        self,
        values: Float[Tensor, "batch feature"],
        observed: Observed,
        z: Float[Tensor, "batch draw latent"],
    ) -> Float[Tensor, "batch draw feature"]:
        """log p(x_f | z) for every draw of z, nats in original units; zero where a cell is missing."""
        draws = z.shape[1]
        if draws > 1:
            values = values.repeat_interleave(draws, 0)
            observed = None if observed is None else observed.repeat_interleave(draws, 0)
        each = self.columns.log_prob(self.decode(z.flatten(0, 1)), values, observed)
        return each.view(len(z), draws, each.shape[1])

    def reconstruct(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch feature"]:
        """Best guess of every feature given z, as a value."""
        return self.columns.mean(self.decode(z))

    @torch.no_grad()
    def sample(self, rows: int, *, generator: Generator | None = None) -> Float[Tensor, "batch feature"]:
        """New rows: z from the prior, then x from p(x | z). Raises ValueError if the model has no prior."""
        if not self.stochastic and self.standard:
            raise ValueError("a deterministic encoder has no prior to sample; train with prior = 'mixture'")
        return self.columns.sample(self.decode(self.prior().sample(rows, generator=generator)), generator)

    def prior(self) -> Prior:
        """p(z) as it now is."""
        if self.config.network.prior == "vamp":
            posterior = self.infer(self.pseudo_inputs)
            return Prior(self.prior_log_weight, posterior.mean, posterior.logvar)
        return Prior(self.prior_log_weight, self.prior_mean, self.prior_logvar)

    @property
    def standard(self) -> bool:
        """Whether p(z) is N(0, I), so that the KL has a closed form."""
        return self._standard

    @torch.no_grad()
    def set_prior(self, prior: Prior) -> None:
        """Replace the prior of a model with prior = 'mixture' by a fitted one."""
        if self.config.network.prior != "mixture":
            raise ValueError(f"prior = {self.config.network.prior!r} is not fitted; only 'mixture' is")
        if prior.mean.shape != self.prior_mean.shape:
            shapes = f"{tuple(prior.mean.shape)}, not {tuple(self.prior_mean.shape)}"
            raise ValueError(f"a prior of another shape (components, latent): {shapes}")
        self.prior_log_weight.copy_(prior.log_weight)
        self.prior_mean.copy_(prior.mean)
        self.prior_logvar.copy_(prior.logvar)
        _look(self)

    def _add_prior(self) -> None:
        """N(0, I) to begin with; a VampPrior's inputs begin as rows drawn from the marginals."""
        network = self.config.network
        count = 1 if network.prior == "normal" else network.prior_components
        start = Prior.normal(network.latent, components=count)
        for name, part in vars(start).items():
            self.register_buffer(f"prior_{name}", part, persistent=network.prior == "mixture")
        self.prior_log_weight: Tensor
        self.prior_mean: Tensor
        self.prior_logvar: Tensor
        self._standard = network.prior != "vamp"
        self.register_load_state_dict_post_hook(_look)
        if network.prior == "vamp":
            with torch.no_grad():
                rows = self.columns.sample(self.columns.bias().expand(count, -1))
                inputs = self.columns.embed(rows, torch.ones_like(rows, dtype=torch.bool))
            self.pseudo_inputs = nn.Parameter(inputs)


def _look(model: nn.Module, *_: object) -> None:
    """Note once, not in every step, whether the mixture that a model now has is still N(0, I)."""
    assert isinstance(model, VAE)
    if model.config.network.prior == "mixture":
        model._standard = not bool(model.prior_mean.any() or model.prior_logvar.any())
