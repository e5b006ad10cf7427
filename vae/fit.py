"""One optimisation step, on tensors. Knows no cluster: who reads which rows is the caller's affair."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from vae import penalties
from vae import prior as priors
from vae.config import Objective
from vae.likelihoods.likelihood import Observed
from vae.model import VAE
from vae.noise import Noise, binarise, corrupt
from vae.objectives import elbo, iwae
from vae.penalties import Total


class Loss(nn.Module):
    """What training minimises, nats per row: minus a bound (or the fit alone), plus the penalties.

    A module, so that a distributed wrapper around it sees every use of the model's parameters.
    Raises ValueError for settings that this model cannot honour.
    """

    def __init__(self, model: VAE, objective: Objective, *, total: Total = lambda tensor: tensor) -> None:
        super().__init__()
        objective.suit(model.config.network)
        if objective.noise == "gaussian" and not model.columns.real.any():
            raise ValueError("noise = 'gaussian': no column is real; use 'masking' or 'salt_and_pepper'")
        if objective.free_bits and not model.standard:
            raise ValueError("free_bits need a KL per dimension, which a prior other than N(0, I) has not")
        self.model, self.objective, self.total = model, objective, total

    def forward(
        self,
        values: Float[Tensor, "batch feature"],
        observed: Observed,
        noise: Noise,
        beta: float | None = None,
    ) -> Float[Tensor, " batch"]:
        """The loss of every row; `beta` is the present weight of the KL (`Objective.beta_at`), by default the last."""
        model, objective = self.model, self.objective
        beta = objective.beta if beta is None else beta
        if noise.binary.shape[1]:
            values = binarise(model.columns, values, noise.binary)
        shown = corrupt(objective, model.columns, values, observed, noise.corruption)
        inputs = model.columns.embed(*shown)
        posterior = model.infer(inputs)
        row = (model, values, observed, posterior, noise.posterior)
        if objective.bound == "iwae":
            loss = -iwae(*row, gradient=objective.gradient)
        else:
            loss = -elbo(*row).per_row(beta=beta, free_bits=objective.free_bits)
        return loss + self._penalties(posterior.mean, inputs, noise.probe)

    def _penalties(self, code: Tensor, inputs: Tensor, probe: Tensor) -> Float[Tensor, " batch"]:
        objective = self.objective
        penalty = torch.zeros_like(code[:, 0])
        if objective.sparsity == "l1":
            penalty = penalty + objective.sparsity_weight * penalties.l1(code)
        if objective.sparsity == "kl":
            kl = penalties.sparsity(code, target=objective.sparsity_target, total=self.total)
            penalty = penalty + objective.sparsity_weight * kl
        if objective.contraction:
            penalty = penalty + objective.contraction * penalties.contraction(self.model, inputs, probe)
        return penalty


def optimizer(parameters: Iterable[nn.Parameter], *, learning_rate: float, epsilon: float = 1e-8) -> torch.optim.Adam:
    """Adam (Kingma and Ba 2015), fused into one kernel per step."""
    return torch.optim.Adam(parameters, lr=learning_rate, eps=epsilon, fused=True)


def decayed(epoch: int, epochs: int, *, decay: Literal["none", "cosine", "threefold"]) -> float:
    """What the learning rate is multiplied by in an epoch, counted from 0.

    threefold: stages of 1, 3, 9, ... epochs, from 1 to 1/10 in equal ratios, rounded as Burda et al. (2016) do; their
    3,280 epochs are eight stages.

    >>> [decayed(epoch, 3280, decay="threefold") for epoch in (0, 1, 4, 13, 1093)]
    [1.0, 0.72, 0.52, 0.37, 0.1]
    """
    if decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    if decay == "threefold":
        return round(10 ** (1 - _stage(epoch) / max(1, _stage(epochs - 1))), 1) / 10
    return 1.0


def _stage(epoch: int) -> int:
    """How often 3 goes into the epochs so far: 0, 1, 1, 1, 2, ..."""
    stage, begun = 0, 1
    while epoch >= begun:
        stage, begun = stage + 1, 3 * begun + 1
    return stage


def step(
    loss: nn.Module,
    adam: torch.optim.Optimizer,
    values: Float[Tensor, "batch feature"],
    observed: Observed,
    noise: Noise,
    *,
    share: float,
    beta: float | None = None,
) -> Float[Tensor, ""]:
    """Descend once; return the batch's summed loss, detached. `loss` is a Loss, or a distributed wrapper around one.

    The gradient is that of `share` times the sum over the batch's rows. With `share = 1 / rows` it is the mean's; with
    `share = workers / global rows` and gradients averaged over workers it is the global mean's, however the rows are
    spread.
    """
    adam.zero_grad(set_to_none=True)
    total: Tensor = loss(values, observed, noise, beta).sum()
    (total * share).backward()
    adam.step()
    return total.detach()


@torch.no_grad()
def fit_prior(
    model: VAE,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    *,
    seed: int,
    rows: int = 10_000,
) -> None:
    """Fit the mixture prior of a trained model to the codes of at most `rows` rows, chosen by the seed."""
    generator = Generator().manual_seed(seed)
    chosen = torch.randperm(len(values), generator=generator)[:rows].to(values.device)
    posterior = model.encode(values[chosen], observed[chosen])
    logvar = posterior.logvar if model.stochastic else torch.full_like(posterior.logvar, -torch.inf)
    components = model.config.network.prior_components
    model.set_prior(priors.fit(posterior.mean, logvar, components=components, generator=generator))
