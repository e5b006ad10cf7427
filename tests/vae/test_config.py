"""Settings: bounds are enforced, forms carry them, and importing them costs nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

import vae
from vae.config import Bounds, Column, ModelConfig, Network

ROOT = Path(__file__).parents[2]


def modules_after_importing(module: str) -> set[str]:
    """Names in `sys.modules` of a fresh interpreter that imported `module`."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["vae", "vae.config"])
def test_settings_cost_nothing(module: str) -> None:
    """Settings are importable without torch and without pydantic."""
    assert not modules_after_importing(module) & {"torch", "pydantic", "numpy"}


def test_the_cost_check_can_fail() -> None:
    """Meta: the same check does see torch where it is imported."""
    assert "torch" in modules_after_importing("vae.model")


def test_lazy_names_are_the_real_ones() -> None:
    """A name taken from `vae` is the object of the module that defines it."""
    import vae.checkpoint
    import vae.model

    assert vae.load is vae.checkpoint.load
    assert vae.CheckpointError is vae.checkpoint.CheckpointError
    assert vae.VAE is vae.model.VAE
    assert vae.Posterior is vae.model.Posterior
    assert (vae.Column, vae.Network, vae.ModelConfig) == (Column, Network, ModelConfig)


def test_every_advertised_name_exists() -> None:
    """All that `__all__` lists can be had, under its own name."""
    assert all(getattr(vae, name).__name__ == name for name in vae.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that `vae` does not have is refused as any module would refuse it."""
    with pytest.raises(AttributeError, match=r"^module 'vae' has no attribute 'nonsense'$"):
        _ = vae.nonsense


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent": 0}, "latent = 0: must be >= 1 and <= 4096"),
        ({"latent": 4097}, "latent = 4097: must be >= 1 and <= 4096"),
        ({"hidden": (8, 0)}, "hidden = 0: must be >= 1"),
    ],
)
def test_network_refuses(settings: dict[str, Any], message: str) -> None:
    """A network setting out of its range is refused with its name, its value and the range."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Network(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width = 0: must be >= 1"),
        ({"codes": -1}, "codes = -1: must be >= 0"),
        ({"scale": 0.0}, "scale = 0.0: must be > 0"),
        ({"scale": -2.0}, "scale = -2.0: must be > 0"),
        ({"scale": float("nan")}, "scale = nan: must be > 0"),
        ({"floor": 0.0}, "floor = 0.0: must be > 0"),
        ({"rates": (0.5, 1.5)}, "rates = 1.5: must be >= 0 and <= 1"),
        ({"rates": (-0.5,)}, "rates = -0.5: must be >= 0 and <= 1"),
        ({"codes": 3}, "column 'x': codes = 3 with likelihood 'gaussian'"),
        ({"likelihood": "categorical"}, "column 'x': codes = 0 with likelihood 'categorical'"),
    ],
)
def test_column_refuses(settings: dict[str, Any], message: str) -> None:
    """A column setting out of its range, or at odds with the likelihood, is refused with name, value and rule."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Column(**{"name": "x", "likelihood": "gaussian", **settings})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "Column(name='x', likelihood='poisson')",
            "likelihood = 'poisson': must be one of 'gaussian', 'bernoulli', 'categorical'",
        ),
        ("Network(activation='swish')", "activation = 'swish': must be one of 'silu', 'relu', 'gelu', 'tanh'"),
    ],
)
def test_unknown_choices_are_refused(call: str, message: str) -> None:
    """A choice that does not exist is refused with those that do; in a process whose types nobody else checks."""
    code = f"from vae.config import *; {call}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ValueError: {message}"


def test_bounds_include_their_ends() -> None:
    """`ge` and `le` admit the bound itself."""
    assert [Network(latent=latent).latent for latent in (1, 4096)] == [1, 4096]
    assert Column(name="x", likelihood="bernoulli", rates=(0.0, 1.0)).rates == (0.0, 1.0)


def test_strict_bounds_exclude_their_ends() -> None:
    """`gt` and `lt` do not admit the bound itself."""
    bounds = Bounds(gt=0, lt=1)
    assert [bounds.allow(value) for value in (0.0, 0.5, 1.0)] == [False, True, False]
    assert str(bounds) == "> 0 and < 1"


@pytest.mark.parametrize(
    ("bounds", "value", "allowed"),
    [
        (Bounds(ge=0.5), 0, False),
        (Bounds(ge=0.5), 1, True),
        (Bounds(gt=0.5), 1, True),
        (Bounds(lt=0.5), 0, True),
        (Bounds(le=0.5), 1, False),
        (Bounds(ge=1), 0.5, False),
    ],
)
def test_bounds_compare_numbers_not_types(bounds: Bounds, value: float, allowed: bool) -> None:
    """Whether a value is allowed does not depend on it being written as an int or as a float."""
    assert bounds.allow(value) is allowed
    assert bounds.allow(float(value)) is allowed


def test_a_model_needs_a_column() -> None:
    """No columns, no model."""
    with pytest.raises(ValueError, match=r"^a model needs at least one column$"):
        ModelConfig(columns=(), network=Network())


def test_features_is_the_sum_of_widths(config: ModelConfig) -> None:
    """A row has as many features as its columns are wide."""
    assert config.features == 1 + 1 + 1 + 3 + 2 + 2


def test_settings_are_frozen() -> None:
    """What was checked stays as it was checked."""
    with pytest.raises(FrozenInstanceError, match=r"^cannot assign to field 'latent'$"):
        setattr(Network(), "latent", 0)  # noqa: B010


def test_network_schema_carries_bounds() -> None:
    """The JSON schema of a form states the very bounds that the dataclass enforces, choices and help included."""
    schema = TypeAdapter(Network).json_schema()["properties"]
    assert (schema["latent"]["minimum"], schema["latent"]["maximum"]) == (1, 4096)
    assert schema["hidden"]["items"] == {"type": "integer", "minimum": 1}
    assert schema["activation"]["enum"] == ["silu", "relu", "gelu", "tanh"]
    assert schema["latent"]["description"] == "Number of latent dimensions d."
    assert schema["latent"]["default"] == Network().latent


def test_column_schema_carries_bounds() -> None:
    """Strict bounds and bounds on a tuple's elements reach the JSON schema too."""
    schema = TypeAdapter(Column).json_schema()["properties"]
    assert schema["scale"]["exclusiveMinimum"] == 0
    assert schema["codes"]["minimum"] == 0
    assert (schema["rates"]["items"]["minimum"], schema["rates"]["items"]["maximum"]) == (0, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent": 0}, "greater than or equal to 1"),
        ({"latent": 4097}, "less than or equal to 4096"),
        ({"hidden": [0]}, "greater than or equal to 1"),
        ({"latents": 3}, "Unexpected keyword argument"),
    ],
)
def test_forms_enforce_bounds(settings: dict[str, Any], message: str) -> None:
    """Pydantic refuses what the dataclass would refuse, and settings that do not exist."""
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Network).validate_python(settings)


def test_forms_accept_json() -> None:
    """What a form sends as JSON becomes the dataclass itself."""
    network = TypeAdapter(Network).validate_json('{"latent": 2, "hidden": [4, 3], "activation": "relu"}')
    assert network == Network(latent=2, hidden=(4, 3), activation="relu")
