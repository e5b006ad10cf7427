"""The runs in deploy/: each is a valid config, and the published settings are what they are said to be."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import ROOT

from pipeline.config import RunConfig
from pipeline.runfile import load
from vae import fit
from vae.config import Column, ModelConfig
from vae.model import VAE

RUNS = sorted((ROOT / "deploy" / "runs").glob("*.toml"))


@pytest.mark.parametrize("path", RUNS, ids=lambda it: it.stem)
def test_every_run_is_a_valid_config(path: Path) -> None:
    """It loads, is named after its file, and the comments' commands name the file itself."""
    config = load(str(path))
    assert config.name in (path.stem, "digits")
    assert f"deploy/runs/{path.name}" in path.read_text()


def burda() -> RunConfig:
    """The setting of Burda et al. (2016)."""
    return load(str(ROOT / "deploy/runs/burda-iwae.toml"))


def test_burdas_network_is_the_papers() -> None:
    """784-200-200-50, tanh, logits out: 200 x 784 first, 50 means, Bernoulli pixels drawn anew in every step."""
    config = burda()
    column = Column(name="pixels", likelihood="bernoulli", width=784, means=(0.13,), dynamic=True)
    model = VAE(ModelConfig(columns=(column,), network=config.model))
    shapes = [tuple(it.shape) for name, it in model.named_parameters() if name.endswith("weight")]
    encoder, decoder, heads = [(200, 784), (200, 200)], [(200, 50), (200, 200), (784, 200)], [(50, 200)] * 2
    assert sorted(shapes) == sorted(encoder + decoder + heads)
    assert config.columns["pixels"].binarise == "dynamic"


def test_burdas_schedule_is_the_papers() -> None:
    """3,280 epochs in eight stages, the rate 1e-3, 7e-4 (rounded as their code does), ..., 1e-4; batches of 20."""
    train = burda().train
    rates = [train.learning_rate * fit.decayed(epoch, train.epochs, decay=train.decay) for epoch in range(train.epochs)]
    stages = {rate: rates.count(rate) for rate in rates}
    assert list(stages.values()) == [3**stage for stage in range(8)]
    assert list(stages) == pytest.approx([1e-3, 7.2e-4, 5.2e-4, 3.7e-4, 2.7e-4, 1.9e-4, 1.4e-4, 1e-4])
    assert (train.batch_rows, train.epsilon, train.patience) == (20, 1e-4, train.epochs)
