"""Importance sampling of log p(x): the estimate that the literature calls a model's NLL."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import torch
from jaxtyping import Bool, Float, Float64
from torch import Generator, Tensor

from vae.model import VAE, Posterior
from vae.objectives import log_weights

WEIGHED: Final = 16_384
"""Importance samples decoded at a time."""


@torch.no_grad()
def log_evidence(
    model: VAE,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    *,
    samples: int,
    generator: Generator,
) -> Float64[Tensor, " batch"]:
    """log (1/k) sum_k p(x, z_k) / q(z_k | x), z_k ~ q: in expectation below log p(x), and the closer the larger k.

    Burda et al. 2016, section 5: minus L_5000 is what the literature calls NLL. Raises ValueError for a deterministic
    encoder.
    """
    if not model.stochastic:
        raise ValueError("a deterministic encoder has no likelihood: its q(z | x) is a point")
    posterior = model.encode(values, observed)
    shape = len(values), posterior.mean.shape[1]
    noise = (
        torch.randn(shape[0], len(part), shape[1], generator=generator).to(posterior.mean)
        for part in parts(samples, rows=shape[0])
    )
    return log_mean_weight(model, values, observed, posterior, noise)


@torch.no_grad()
def log_mean_weight(
    model: VAE,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    posterior: Posterior,
    noise: Iterable[Float[Tensor, "batch _ latent"]],
) -> Float64[Tensor, " batch"]:
    """The same at given standard normal draws, some of them at a time."""
    total = torch.full((len(values),), -torch.inf, dtype=torch.float64, device=values.device)
    samples = 0
    for part in noise:
        weights = log_weights(model, values, observed, posterior.sample(part), posterior)
        total = torch.logaddexp(total, weights.double().logsumexp(1))
        samples += part.shape[1]
    return total - math.log(samples)


def parts(samples: int, *, rows: int) -> list[range]:
    """The numbers of the samples, so many at a time that WEIGHED are decoded.

    >>> parts(20, rows=1024)
    [range(0, 16), range(16, 20)]
    """
    size = max(1, WEIGHED // max(1, rows))
    return [range(start, min(start + size, samples)) for start in range(0, samples, size)]
