"""One optimisation step, on tensors. Knows no cluster: who reads which rows is the caller's affair."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vae.objectives import elbo


def optimizer(parameters: Iterable[nn.Parameter], *, learning_rate: float) -> torch.optim.Adam:
    """Adam (Kingma and Ba 2015), fused into one kernel per step."""
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)


def step(
    model: nn.Module,
    adam: torch.optim.Optimizer,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    noise: Float[Tensor, "batch latent"],
    *,
    share: float,
    beta: float = 1.0,
) -> Float[Tensor, ""]:
    """Ascend the bound once; return the batch's summed loss, detached.

    The gradient is that of `share` times the sum over the batch's rows. With `share = 1 / rows` it is the mean's; with
    `share = workers / global rows` and gradients averaged over workers it is the global mean's, however the rows are
    spread.
    """
    adam.zero_grad(set_to_none=True)
    loss = -elbo(model, values, observed, noise).per_row(beta=beta).sum()
    (loss * share).backward()
    adam.step()
    return loss.detach()
