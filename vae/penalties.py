"""What sets the other autoencoders apart: penalties on the code, one value per row, in addition to the fit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vjp

from vae.model import VAE

Total = Callable[[Tensor], Tensor]
"""The sum of a tensor over all workers; alone, the tensor itself."""


def l1(code: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
    """sum_j |z_j|: a Laplace prior on the code."""
    return code.abs().sum(1)


def sparsity(
    code: Float[Tensor, "batch latent"], *, target: float, total: Total = lambda tensor: tensor
) -> Float[Tensor, " batch"]:
    """sum_j KL(Bernoulli(target) || Bernoulli(a_j)), a_j the mean of sigmoid(z_j) over the batch (Ng 2011).

    The mean is over the whole batch of all workers; a row's gradient is its own share of the mean's, so the gradients
    of any number of workers add up to that of one.
    """
    activation = code.sigmoid()
    sums = total(torch.cat([activation.detach().sum(0), activation.new_tensor([len(code)])]))
    mean = (sums[:-1] / sums[-1]).clamp(1e-6, 1 - 1e-6)
    value = target * (target / mean).log() + (1 - target) * ((1 - target) / (1 - mean)).log()
    slope = (1 - target) / (1 - mean) - target / mean
    return value.sum() + ((activation - activation.detach()) * slope).sum(1)


def contraction(
    model: VAE, inputs: Float[Tensor, "batch input"], probe: Float[Tensor, "batch latent"]
) -> Float[Tensor, " batch"]:
    """||d mean / d input||^2, the squared Frobenius norm of the encoder's Jacobian (Rifai et al. 2011).

    Exact for an MLP with at most one hidden layer; otherwise Hutchinson's unbiased estimate ||J' v||^2 with the
    standard normal `probe` v.
    """
    layers = list(model.encoder.body)
    if model.config.network.body == "mlp" and len(layers) <= 2:
        return _exact(layers, model.mean.weight, inputs)
    return (_pulled(lambda x: model.infer(x).mean, inputs, probe.to(inputs.dtype)) ** 2).sum(1)


def _exact(layers: list[nn.Module], head: Tensor, inputs: Tensor) -> Float[Tensor, " batch"]:
    """For J = V diag(f'(a)) W: ||J||^2 = f'(a)' (V'V * WW') f'(a)."""
    if not layers:
        return (head**2).sum().expand(len(inputs))
    first, activation = layers
    assert isinstance(first, nn.Linear)
    before = first(inputs)
    slope = _pulled(activation, before, torch.ones_like(before))
    both = (head.T @ head) * (first.weight @ first.weight.T)
    return ((slope @ both) * slope).sum(1)


def _pulled(function: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor) -> Tensor:
    """J' v, by reverse mode: the gradient of torch's forward mode is wrong for LayerNorm (pytorch issue 196700)."""
    pulled: Tensor = vjp(function, point)[1](direction)[0]
    return pulled
