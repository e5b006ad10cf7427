"""One optimisation step, on tensors. Knows no cluster: who reads which rows is the caller's affair."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any, Final, Literal

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

COMPILE_S: Final = 30.0
"""What compiling a step costs, measured on two busy cores without anything in the cache; with it, three to five."""
SAVED_S: Final = 2.5e-9
"""What it saves per row and root of the number of parameters, in each step: half a millisecond at 1,024 and 50,000."""

Precision = Literal["float32", "bf16"]
"""Arithmetic of the networks; likelihoods, KL and weights are float32 (or the model's own) in any case."""
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
        observed: Observed,
        noise: Noise,
        beta: float | Float[Tensor, ""] | None = None,
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
        if objective.sparsity == "none" and not objective.contraction:
            return loss
        return loss + self._penalties(posterior.mean, inputs, noise.probe)

    @property
    def divisible(self) -> bool:
        """Whether a batch's loss is the sum of its parts', so that a step may take them one after another."""
        return self.objective.sparsity != "kl"

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


def warmed(step: int, warmup_steps: int) -> float:
    """What the learning rate is multiplied by in a step, counted from 0: it rises in a line, then stays 1.

    >>> [warmed(step, 4) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / max(1, warmup_steps))


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
    clip: float = 0.0,
    parts: int = 1,
    precision: Precision = "float32",
) -> Float[Tensor, ""]:
    """Descend once; return the batch's summed loss, detached. `loss` is a Loss, or a distributed wrapper around one.

    The gradient is that of `share` times the sum over the batch's rows. With `share = 1 / rows` it is the mean's; with
    `share = workers / global rows` and gradients averaged over workers it is the global mean's, however the rows are
    spread. A gradient whose norm over all parameters is above `clip` is shortened to it; 0: never.

    `parts` micro-batches one after another need less memory and give the same gradient, up to rounding, if the loss is
    `divisible`. `bf16` is autocast, faster on a GPU and hardly anywhere else: whether to allow it is for the caller.
    """
    adam.zero_grad(set_to_none=True)
    if parts == 1:
        total = _descend(loss, values, observed, noise, share=share, beta=beta, precision=precision)
    else:
        total = values.new_zeros(())
        slices = _slices(len(values), parts)
        for rows in slices:
            seen = None if observed is None else observed[rows]
            part = (values[rows], seen, noise.take(rows, device=noise.posterior.device))
            alone = rows is not slices[-1] and hasattr(loss, "no_sync")
            with loss.no_sync() if alone else nullcontext():  # type: ignore[operator]
                total = total + _descend(loss, *part, share=share, beta=beta, precision=precision)
    if clip:
        nn.utils.clip_grad_norm_((it for group in adam.param_groups for it in group["params"]), clip)
    adam.step()
    return total


def _descend(
    loss: nn.Module,
    values: Tensor,
    observed: Tensor | None,
    noise: Noise,
    *,
    share: float,
    beta: float | None,
    precision: Precision,
) -> Float[Tensor, ""]:
    """Add to the gradients; return the summed loss, detached."""
    with torch.autocast(values.device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
        total: Tensor = loss(values, observed, noise, beta).sum()
    (total * share).backward()
    return total.detach()


def _slices(rows: int, parts: int) -> list[slice]:
    """So many runs of rows, as equal as can be; none is empty unless there are no rows."""
    edges = [rows * index // min(parts, max(1, rows)) for index in range(min(parts, max(1, rows)) + 1)]
    return [slice(*edge) for edge in pairwise(edges)]


class Average:
    """Exponential moving average of a model's weights (Polyak and Juditsky 1992), without the bias of a start at zero.

    After t updates weight s has had the share (1 - decay) decay^(t - s) / (1 - decay^t).
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the present weights into the average."""
        self.updates += 1
        share = (1 - self.decay) / (1 - self.decay**self.updates)
        now = [weight.detach() for weight in model.parameters()]
        torch._foreach_lerp_(list(self.weights.values()), now, share)

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Within, the model has the averaged weights; after it, its own again, to the bit."""
        own = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        model.load_state_dict(self.weights, strict=False)
        try:
            yield
        finally:
            model.load_state_dict(own, strict=False)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on with the same bits."""
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.updates = state["updates"]
        for name, weight in self.weights.items():
            weight.copy_(state["weights"][name])


class Compiled(nn.Module):
    """A Loss compiled for batches of so many rows; others, such as an epoch's last, run uncompiled.

    Wrap it for data-parallel work, not the other way round. Its model's names are those of an uncompiled one.
    """

    def __init__(self, loss: Loss, *, rows: int) -> None:
        super().__init__()
        self.loss, self.rows = loss, rows
        self.fast = torch.compile(loss.forward, dynamic=False)

    def forward(
        self,
        values: Float[Tensor, "batch feature"],
        observed: Observed,
        noise: Noise,
        beta: float | None = None,
    ) -> Float[Tensor, " batch"]:
        """As Loss; equal to it up to rounding."""
        if len(values) != self.rows:
            uncompiled: Tensor = self.loss(values, observed, noise, beta)
            return uncompiled
        weight = self.loss.objective.beta if beta is None else beta
        return self.fast(values, observed, noise, torch.full((), weight, dtype=values.dtype, device=values.device))


def compiled(loss: Loss, *, rows: int) -> Loss | Compiled:
    """The loss compiled by torch.compile; where there is no C++ compiler the loss itself, with a warning.

    What is compiled is kept in TORCHINDUCTOR_CACHE_DIR, where the next process finds it.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        warnings.warn(f"no C++ compiler {compiler!r}: steps run uncompiled; install g++ or set CXX", stacklevel=2)
        return loss
    return Compiled(loss, rows=rows)


def repays(steps: int, *, rows: int, parameters: int) -> bool:
    """Whether a run of so many steps over batches of so many rows is long enough to compile for.

    No clock is asked, so a resumed run decides the same if `steps` are those of the whole run. What compiling saves is
    passes over activations, whose number grows with rows and, for layers of one width, the root of the parameters.
    """
    activations = rows * math.sqrt(parameters)
    return steps * activations * SAVED_S > COMPILE_S


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
