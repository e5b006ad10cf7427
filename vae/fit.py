"""One optimisation step, on tensors. Knows no cluster: who reads which rows is the caller's affair."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Final, Literal

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from vae import penalties
from vae import prior as priors
from vae.config import Objective
from vae.model import VAE
from vae.noise import Noise, binarise, corrupt
from vae.objectives import elbo, iwae
from vae.penalties import Total

CANDIDATES: Final = 1 << 20
"""Rows, evenly spaced where there are more, among which those for the prior are chosen."""


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
        observed: Bool[Tensor, "batch feature"],
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


def warmed(step: int, steps: int) -> float:
    """What the learning rate is multiplied by in a step, counted from 0, when it rises over so many.

    >>> [warmed(step, 4) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / steps) if steps else 1.0


class Average:
    """An exponential moving average of a model's parameters: w <- decay w + (1 - decay) parameter, step by step.

    In its first t steps the decay is at most (1 + t) / (10 + t), so that where it began is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: it.detach().clone() for name, it in model.state_dict().items()}
        """By name, as the model's own."""
        self._parameters = [it.detach() for it in model.parameters()]
        self._averages = [self.weights[name] for name, _ in model.named_parameters()]

    def update(self, step: int) -> None:
        """Take in the parameters as they are after so many steps."""
        torch._foreach_lerp_(self._averages, self._parameters, 1 - min(self.decay, (1 + step) / (10 + step)))

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Begin again from these."""
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])


def step(
    loss: nn.Module,
    adam: torch.optim.Optimizer,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    noise: Noise,
    *,
    share: float,
    beta: float | None = None,
    clip: float = 0.0,
    pieces: int = 1,
) -> Float[Tensor, ""]:
    """Descend once; return the batch's summed loss, detached. `loss` is a Loss, or a distributed wrapper around one.

    The gradient is that of `share` times the sum over the batch's rows. With `share = 1 / rows` it is the mean's; with
    `share = workers / global rows` and gradients averaged over workers it is the global mean's, however the rows are
    spread. A gradient longer than `clip` is shortened to it, unless that is 0. In `pieces`, a batch takes less memory;
    the gradient is the same, up to rounding, if no penalty looks at the batch as a whole.
    """
    adam.zero_grad(set_to_none=True)
    total = descent(loss, values, observed, noise, share=share, beta=beta, pieces=pieces)
    if clip:
        nn.utils.clip_grad_norm_([it for group in adam.param_groups for it in group["params"]], clip)
    adam.step()
    return total


def descent(
    loss: nn.Module,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    noise: Noise,
    *,
    share: float,
    beta: float | None = None,
    pieces: int = 1,
) -> Float[Tensor, ""]:
    """Add the gradient of `share` times the summed loss to the parameters'; return that sum, detached."""
    rows = max(1, -(-len(values) // pieces))
    parts = [slice(start, start + rows) for start in range(0, max(1, len(values)), rows)]
    totals = []
    for part in parts:
        with nullcontext() if part is parts[-1] else getattr(loss, "no_sync", nullcontext)():
            total: Tensor = loss(values[part], observed[part], noise.take(part, device=values.device), beta).sum()
            (total * share).backward()
        totals.append(total.detach())
    return torch.stack(totals).sum() if len(totals) > 1 else totals[0]


def fit_prior(
    model: VAE,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    *,
    seed: int,
    rows: int = 10_000,
) -> None:
    """Fit the mixture prior of a trained model to the codes of at most `rows` rows, chosen by the seed."""

    def take(index: Tensor) -> tuple[Tensor, Tensor]:
        chosen = index.to(values.device)
        return values[chosen], observed[chosen]

    fit_prior_to(model, take, len(values), seed=seed, rows=rows)


@torch.no_grad()
def fit_prior_to(
    model: VAE, take: Callable[[Tensor], tuple[Tensor, Tensor]], total: int, *, seed: int, rows: int = 10_000
) -> None:
    """The same where `take` fetches the values and observed-mask of some of `total` rows; few are ever in memory."""
    generator = Generator().manual_seed(seed)
    candidates = min(total, CANDIDATES)
    chosen = torch.randperm(candidates, generator=generator)[:rows] * total // candidates
    posterior = model.encode(*take(chosen))
    logvar = posterior.logvar if model.stochastic else torch.full_like(posterior.logvar, -torch.inf)
    components = model.config.network.prior_components
    model.set_prior(priors.fit(posterior.mean, logvar, components=components, generator=generator))
