"""Do encoder and decoder of a denoising model fit each other? Then the walk between them keeps the data's distribution.

A step corrupts a row, encodes it and draws from the decoder. If p(x | z(x~)) is the true posterior of the corruption,
the data are this Markov chain's stationary distribution (Bengio et al. 2013, theorem 1; Alain et al. 2015): the
marginals after some steps against the data's measure how far the pair is from that.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from vae import noise
from vae.config import CATEGORIES, Objective
from vae.model import VAE


@torch.no_grad()
def walk(
    model: VAE,
    objective: Objective,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    *,
    steps: int,
    generator: Generator,
) -> Float[Tensor, "batch feature"]:
    """The rows after `steps` steps of corrupt, encode, decode, draw. Missing cells are filled by the first step.

    The generator is one of the model's device.
    """
    for _ in range(steps):
        drawn = noise.draw(
            objective, model.columns, rows=len(values), latent=model.config.network.latent, generator=generator
        )
        posterior = model.encode(*noise.corrupt(objective, model.columns, values, observed, drawn.corruption))
        z = model.draw(posterior, drawn.posterior[:, :1].to(values))[:, 0]
        values, observed = model.columns.sample(model.decode(z), generator), torch.ones_like(observed)
    return values


def compatibility_gap(
    model: VAE,
    objective: Objective,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    *,
    steps: int = 10,
    seed: int = 0,
) -> dict[str, float]:
    """Distance between each column's marginal in the data and after the walk, from 0 to 1; 0 is compatible.

    Kolmogorov-Smirnov for numbers, total variation for codes; the mean over the features of a column. Two samples of
    n rows of the same distribution are about 1 / sqrt(n) apart. Raises ValueError if the objective has no noise.
    """
    if objective.noise == "none":
        raise ValueError("noise = 'none': only a denoising model has an encoder-decoder compatibility to measure")
    generator = Generator(model.device).manual_seed(seed)
    uniform = torch.rand(values.shape, generator=generator, device=model.device)
    values = noise.binarise(model.columns, values, uniform)
    walked = walk(model, objective, values, observed, steps=steps, generator=generator)
    coded = [column.likelihood in CATEGORIES for column in model.config.columns]
    gaps: list[list[float]] = [[] for _ in coded]
    for feature, owner in enumerate(model.columns.owner.tolist()):
        seen = observed[:, feature]
        if seen.any():
            distance = total_variation if coded[owner] else kolmogorov_smirnov
            gaps[owner].append(distance(values[seen, feature], walked[:, feature]))
    names = [column.name for column in model.config.columns]
    return {name: min(1.0, sum(gap) / len(gap)) for name, gap in zip(names, gaps, strict=True) if gap}


def kolmogorov_smirnov(one: Float[Tensor, " n"], other: Float[Tensor, " m"]) -> float:
    """The largest difference between two samples' distribution functions.

    >>> kolmogorov_smirnov(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    0.5
    """
    points = torch.cat([one, other]).unique()
    below = [torch.searchsorted(it.sort()[0], points, right=True) / len(it) for it in (one, other)]
    return float((below[0] - below[1]).abs().max())


def total_variation(one: Float[Tensor, " n"], other: Float[Tensor, " m"]) -> float:
    """Half the summed differences between two samples' frequencies of codes."""
    codes = torch.cat([one, other]).unique()
    rates = [(it[:, None] == codes).float().mean(0) for it in (one, other)]
    return float((rates[0] - rates[1]).abs().sum() / 2)
