"""Our side of the comparison: `vae` in a bare loop over tensors, and the estimator that judges both sides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from vae import fit, noise
from vae.config import Column, ModelConfig, Network, Objective
from vae.evaluate import BLOCK_ROWS
from vae.importance import log_evidence
from vae.model import VAE

OBJECTIVE: Final = Objective()


class Trained(NamedTuple):
    """A model after its last epoch, and how long each epoch took."""

    model: VAE
    seconds_per_epoch: tuple[float, ...]


def train(
    train_rows: Tensor,
    *,
    hidden: Sequence[int],
    latent: int,
    epochs: int,
    batch_rows: int,
    learning_rate: float,
    seed: int,
    activation: str = "relu",
) -> Trained:
    """The same as `pythae_side.train`; the output bias starts at the pixels' means, as the pipeline has it."""
    torch.manual_seed(seed)
    means = tuple(train_rows.mean(0).tolist())
    model = build(train_rows.shape[1], means=means, hidden=hidden, latent=latent, activation=activation)
    loss = fit.Loss(model, OBJECTIVE)
    adam = fit.optimizer(model.parameters(), learning_rate=learning_rate)
    generator, seconds = torch.Generator().manual_seed(seed), []
    for _ in range(epochs):
        started = time.perf_counter()
        _epoch(loss, adam, train_rows, batch_rows, generator)
        seconds.append(time.perf_counter() - started)
    return Trained(model.eval(), tuple(seconds))


def _epoch(
    loss: fit.Loss, adam: torch.optim.Optimizer, rows: Tensor, batch_rows: int, generator: torch.Generator
) -> None:
    latent = loss.model.config.network.latent
    seen = torch.ones_like(rows, dtype=torch.bool)
    for index in torch.randperm(len(rows), generator=generator).split(batch_rows):
        drawn = noise.draw(OBJECTIVE, loss.model.columns, rows=len(index), latent=latent, generator=generator)
        fit.step(loss, adam, rows[index], seen[index], drawn, share=1 / len(index))


def build(features: int, *, means: tuple[float, ...], hidden: Sequence[int], latent: int, activation: str) -> VAE:
    """features -> hidden -> mean and log-variance of `latent` dimensions -> hidden mirrored -> features."""
    column = Column(name="pixels", likelihood="bernoulli", width=features, means=means)
    network = Network(latent=latent, hidden=tuple(hidden), activation=activation)
    return VAE(ModelConfig(columns=(column,), network=network))


def dressed(weights: dict[str, Tensor], *, hidden: Sequence[int], latent: int, activation: str) -> VAE:
    """Our model with the weights that `pythae_side.weights` handed over.

    Our encoder is shown -1 and 1 where pythae's is shown 0 and 1; the first layer takes that up.
    """
    features, first = weights["outputs.bias"].shape[0], weights["encoder.0.weight"]
    weights = {**weights, "encoder.0.weight": first / 2}
    weights["encoder.0.bias"] = weights["encoder.0.bias"] + first.sum(1) / 2
    model = build(features, means=(), hidden=hidden, latent=latent, activation=activation)
    model.load_state_dict({_ours(name): tensor for name, tensor in weights.items()})
    return model.eval()


def _ours(name: str) -> str:
    part, *rest = name.split(".")
    if part == "outputs":
        return f"decoder.head.{rest[-1]}"
    return f"{part}.body.{2 * int(rest[0])}.{rest[-1]}" if part in ("encoder", "decoder") else name


def nll(model: VAE, test_rows: Tensor, *, k: int, seed: int) -> float:
    """-log p(x), nats per row, by k importance samples per row, float64."""
    generator, rows = torch.Generator().manual_seed(seed), test_rows.double()
    parts = [
        log_evidence(model.double(), part, torch.ones_like(part, dtype=torch.bool), samples=k, generator=generator)
        for part in rows.split(BLOCK_ROWS)
    ]
    return -float(torch.cat(parts).mean())
