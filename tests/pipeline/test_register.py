"""What is registered beside a model; the registry itself is in e2e/test_registry.py."""

from __future__ import annotations

import subprocess
import sys

import pytest
import rows

from pipeline import register
from pipeline.codec import Codec
from pipeline.features import fitting
from vae.config import ModelConfig, Network
from vae.model import VAE


@pytest.mark.parametrize("encoder", ["stochastic", "deterministic"])
def test_every_model_has_an_example(encoder: str) -> None:
    """Two rows with the table's columns, from noise alone: also of an encoder that has no prior to sample."""
    batch, columns = rows.family()
    features = fitting.fit([batch], columns)
    model = VAE(ModelConfig(columns=features.model_columns(), network=Network(latent=2, encoder=encoder)))
    example = register.example(Codec(model, features))
    assert list(example.columns) == list(columns)
    assert len(example) == register.EXAMPLE_ROWS


LOOK = """
import os, sys

class Looker:
    def find_spec(self, name, path=None, target=None):
        if name == "mlflow":
            print(os.environ.get("MLFLOW_DISABLE_TELEMETRY"))

sys.meta_path.insert(0, Looker())
import {module}
"""


@pytest.mark.parametrize("module", ["pipeline.register", "pipeline.tracking.server", "pipeline.report"])
def test_mlflow_is_silenced_before_it_is_imported(module: str) -> None:
    """It asks whether it may report home while it is imported, whichever of our modules comes first."""
    command = [sys.executable, "-c", LOOK.format(module=module)]
    found = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin"}, check=True)
    assert found.stdout == "true\n"
