"""One small model over every kind of column, and one batch of rows with missing cells."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vae.config import Column, ModelConfig, Network
from vae.model import VAE


@pytest.fixture
def config() -> ModelConfig:
    """Six columns, their kinds interleaved, some wide and some nullable; ten features."""
    columns = (
        Column(name="price", likelihood="gaussian", scale=250.0, nullable=True),
        Column(name="city", likelihood="categorical", codes=4, rates=(0.1, 0.2, 0.3, 0.4), nullable=True),
        Column(name="sold", likelihood="bernoulli", rates=(0.2,)),
        Column(name="pixels", likelihood="gaussian", width=3, scale=0.5, floor=0.05),
        Column(name="kind", likelihood="categorical", codes=3, width=2),
        Column(name="seen", likelihood="bernoulli", width=2, nullable=True),
    )
    return ModelConfig(columns=columns, network=Network(latent=3, hidden=(5, 4), activation="tanh"))


@pytest.fixture
def model(config: ModelConfig) -> VAE:
    """The model in float64, every parameter moved a little off its initial value."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VAE(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


@pytest.fixture
def batch(config: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Values, observed and noise of twelve rows in float64; about a third of the nullable cells are missing."""
    generator = torch.Generator().manual_seed(2)
    features, observed = [], []
    for column in config.columns:
        shape = (12, column.width)
        if column.likelihood == "gaussian":
            features.append(torch.randn(shape, generator=generator, dtype=torch.float64))
        else:
            features.append(torch.randint(0, column.codes or 2, shape, generator=generator).double())
        there = torch.rand((12, 1), generator=generator) > 0.35 * column.nullable
        observed.append(there.expand(shape))
    noise = torch.randn(12, config.network.latent, generator=generator, dtype=torch.float64)
    return torch.cat(features, 1), torch.cat(observed, 1), noise
