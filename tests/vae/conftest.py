"""One small model over every kind of column, and one batch of rows with missing cells."""

from __future__ import annotations

import pytest
import torch
from family import EVERY, Batch, build, network, table

from vae.config import ModelConfig
from vae.model import VAE


@pytest.fixture
def config() -> ModelConfig:
    """A column of every kind, some wide, some nullable, an image among them."""
    return ModelConfig(columns=EVERY, network=network())


@pytest.fixture
def model(config: ModelConfig) -> VAE:
    """The model in float64, every parameter moved a little off its initial value."""
    return build(config, shake=0.2)


@pytest.fixture
def batch(config: ModelConfig) -> Batch:
    """Values, observed and noise `[rows, draws, latent]` of twelve rows, two draws each, in float64."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(12, 2, config.network.latent, generator=generator, dtype=torch.float64)
    return (*table(config, 12), noise)
