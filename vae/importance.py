"""Importance sampling of log p(x): the estimate that the literature calls a model's NLL."""

from __future__ import annotations

import math
from typing import Final

import torch
from jaxtyping import Bool, Float, Float64
from torch import Generator, Tensor

from vae.model import VAE
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
    total = torch.full((len(values),), -torch.inf, dtype=torch.float64, device=values.device)
    for count in _parts(samples, max(1, WEIGHED // max(1, len(values)))):
        noise = torch.randn(len(values), count, posterior.mean.shape[1], generator=generator).to(posterior.mean)
        weights = log_weights(model, values, observed, posterior.sample(noise), posterior)
        total = torch.logaddexp(total, weights.double().logsumexp(1))
    return total - math.log(samples)


def _parts(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
