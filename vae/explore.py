"""Looking around in latent space: traversals, interpolations, and what missing cells may have been."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from vae.model import VAE
from vae.objectives import log_weights


@torch.no_grad()
def traversal(
    model: VAE, z: Float[Tensor, "1 latent"], *, dimension: int, extent: float = 3.0, steps: int = 9
) -> Float[Tensor, "step feature"]:
    """Reconstructions along one latent dimension, from -extent to extent, the others held at `z`."""
    codes = z.repeat(steps, 1)
    codes[:, dimension] = torch.linspace(-extent, extent, steps)
    return model.reconstruct(codes)


@torch.no_grad()
def interpolation(
    model: VAE, start: Float[Tensor, "1 latent"], end: Float[Tensor, "1 latent"], *, steps: int = 9
) -> Float[Tensor, "step feature"]:
    """Reconstructions on the great circle from one code to another (slerp; White 2016), both ends included.

    A straight line passes nearer to the origin than draws of the prior ever are; where both ends and the origin are on
    one line, the straight line it is.
    """
    share = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]
    norms = start.norm() * end.norm()
    angle = torch.arccos(((start @ end.T) / norms.clamp_min(1e-12)).clamp(-1, 1))
    if norms == 0 or angle.sin() < 1e-4:
        return model.reconstruct((1 - share) * start + share * end)
    weights = (((1 - share) * angle).sin() / angle.sin(), (share * angle).sin() / angle.sin())
    return model.reconstruct(weights[0] * start + weights[1] * end)


@dataclass(frozen=True)
class Imputed:
    """Draws of whole rows given their observed cells, which are the same in every draw."""

    draws: Float[Tensor, "draw batch feature"]

    def mean(self) -> Float[Tensor, "batch feature"]:
        """The mean draw; of a category, of no use."""
        return self.draws.mean(0)

    def quantile(self, level: float) -> Float[Tensor, "batch feature"]:
        """The value below which a share `level` of the draws lies; 0.05 and 0.95 bound a 90 % interval."""
        return self.draws.quantile(level, dim=0)

    def mode(self) -> Float[Tensor, "batch feature"]:
        """The most frequent draw, for categories."""
        return self.draws.mode(0).values


@torch.no_grad()
def impute(
    model: VAE,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    *,
    draws: int,
    candidates: int = 50,
    generator: Generator | None = None,
) -> Imputed:
    """Posterior-predictive draws of the missing cells: z from p(z | x_o), then x from p(x | z).

    z is resampled from `candidates` draws of q(z | x_o) by their importance weights (Rubin 1988), anew for each draw,
    so the draws are nearly from the true posterior even where the encoder is not (Mattei and Frellsen 2019, MIWAE).
    """
    posterior = model.encode(values, observed)
    rows, latent = posterior.mean.shape
    out = []
    for _ in range(draws):
        noise = torch.randn(rows, candidates, latent, generator=generator, device=model.device, dtype=values.dtype)
        z = model.draw(posterior, noise)
        if model.stochastic:
            weights = log_weights(model, values, observed, z, posterior).softmax(1)
            chosen = torch.multinomial(weights, 1, generator=generator)
            z = z.gather(1, chosen[:, :, None].expand(-1, -1, latent))
        out.append(model.columns.complete(model.decode(z[:, 0]), values, observed, generator))
    return Imputed(torch.stack(out))
