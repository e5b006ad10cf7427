"""Models of the whole family, made small: a column of every kind, rows in its support, noise drawn beforehand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from vae.config import CATEGORIES, COUNTS, LEVELS, Column, ModelConfig, Network, Objective
from vae.model import VAE
from vae.noise import Noise, draw

Batch = tuple[Tensor, Tensor, Tensor]

EVERY = (
    Column(name="price", likelihood="gaussian", scale=250.0, means=(0.3,), nullable=True),
    Column(name="city", likelihood="categorical", codes=4, rates=(0.1, 0.2, 0.3, 0.4), nullable=True),
    Column(name="income", likelihood="log_normal", center=2.0, scale=0.5, means=(-0.2,)),
    Column(name="return", likelihood="student_t", width=2, scale=0.1),
    Column(name="age", likelihood="mixture", components=3, nullable=True),
    Column(name="north", likelihood="joint_mixture", group="place", components=2, nullable=True),
    Column(name="east", likelihood="joint_mixture", group="place", components=2),
    Column(name="visits", likelihood="poisson", means=(3.0,), low=0.0, high=20.0, nullable=True),
    Column(name="clicks", likelihood="negative_binomial", means=(1.5,), low=0.0, high=9.0),
    Column(name="stars", likelihood="binomial", codes=6, means=(2.0,), nullable=True),
    Column(name="pixels", likelihood="discretised_logistic", width=12, shape=(3, 2, 2), codes=16, nullable=True),
    Column(name="sold", likelihood="bernoulli", width=2, means=(0.2,), nullable=True),
    Column(name="size", likelihood="ordinal", codes=4, rates=(0.1, 0.2, 0.3, 0.4), nullable=True),
)
"""Thirteen columns of the twelve kinds, 26 features."""

NETWORKS: dict[str, dict[str, Any]] = {
    f"{body}-{encoder}-{prior}": {"body": body, "encoder": encoder, "prior": prior}
    for body in ("mlp", "residual", "convolution")
    for encoder in ("stochastic", "deterministic")
    for prior in ("normal", "mixture", "vamp")
    if (encoder, prior) != ("deterministic", "vamp")
}
"""Every body with every encoder with every prior that it may have: settings of a Network."""

CLASSICAL = {"encoder": "deterministic"}
MEMBERS: dict[str, tuple[dict[str, Any], Objective]] = {
    "undercomplete": (CLASSICAL, Objective()),
    "sparse-l1": (CLASSICAL, Objective(sparsity="l1", sparsity_weight=0.3)),
    "sparse-kl": (CLASSICAL, Objective(sparsity="kl", sparsity_weight=2.0, sparsity_target=0.2)),
    "contractive-exact": ({**CLASSICAL, "hidden": (4,)}, Objective(contraction=0.2)),
    "contractive-probed": ({**CLASSICAL, "body": "residual"}, Objective(contraction=0.2)),
    "denoising-masking": (CLASSICAL, Objective(noise="masking", noise_level=0.3)),
    "denoising-gaussian": (CLASSICAL, Objective(noise="gaussian", noise_level=0.5)),
    "denoising-salt": (CLASSICAL, Objective(noise="salt_and_pepper", noise_level=0.3)),
    "vae": ({}, Objective(draws=2)),
    "beta-vae": ({}, Objective(beta=4.0)),
    "free-bits": ({}, Objective(free_bits=0.25)),
    "denoising-vae": ({}, Objective(noise="masking", noise_level=0.3)),
    "vamp": ({"prior": "vamp"}, Objective(draws=2)),
    "iwae": ({}, Objective(bound="iwae", draws=3)),
    "iwae-reparameterised": ({}, Objective(bound="iwae", draws=3, gradient="reparameterised")),
    "iwae-vamp-sparse": ({"prior": "vamp"}, Objective(bound="iwae", draws=3, sparsity="l1", sparsity_weight=0.1)),
}
"""Every member of the family: settings of its Network, and its Objective."""


def network(**settings: Any) -> Network:
    """A network of few weights."""
    small: dict[str, Any] = {"latent": 3, "hidden": (5, 4), "channels": (3, 2), "prior_components": 3}
    return Network(**{**small, "activation": "tanh", **settings})


def build(config: ModelConfig, *, seed: int = 0, shake: float = 0.0, dtype: torch.dtype = torch.float64) -> VAE:
    """A model of that seed, every parameter moved off its first value by `shake` times a standard normal number.

    The global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = VAE(config).to(dtype)
        for parameter in model.parameters():
            parameter.add_(shake * torch.randn_like(parameter))
    return model


def cells(column: Column, count: int, *, generator: Generator) -> Tensor:
    """Values of `count` rows of a column, in its support, float64."""
    shape = (count, column.width)
    if column.likelihood in COUNTS:
        return torch.randint(0, 7, shape, generator=generator).double()
    if column.likelihood in (*LEVELS, *CATEGORIES):
        return torch.randint(0, column.codes or 2, shape, generator=generator).double()
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def table(config: ModelConfig, count: int, *, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Values and observed of `count` rows, float64; about a third of the nullable cells are missing."""
    generator = Generator().manual_seed(seed)
    values = torch.cat([cells(column, count, generator=generator) for column in config.columns], 1)
    there = [
        (torch.rand(count, 1, generator=generator) > 0.35 * column.nullable).expand(-1, column.width)
        for column in config.columns
    ]
    return values, torch.cat(there, 1)


def frozen(model: VAE, objective: Objective, count: int, *, seed: int = 5) -> Noise:
    """The noise of `count` rows under an objective, in the model's own precision."""
    generator, latent = Generator().manual_seed(seed), model.config.network.latent
    noise = draw(objective, model.columns, rows=count, latent=latent, generator=generator)
    return Noise(*(part.to(model.mean.weight.dtype) for part in noise))
