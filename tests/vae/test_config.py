"""Settings: bounds are enforced, forms carry them, and importing them costs nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

import vae
from vae.config import (
    CATEGORIES,
    COUNTS,
    FORBID_EXTRA,
    LEVELS,
    REALS,
    Bounds,
    Column,
    LikelihoodName,
    ModelConfig,
    Network,
    Objective,
)

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
    assert (vae.Column, vae.Network, vae.ModelConfig, vae.Objective) == (Column, Network, ModelConfig, Objective)


def test_every_advertised_name_exists() -> None:
    """All that `__all__` lists can be had, under its own name."""
    assert all(getattr(vae, name).__name__ == name for name in vae.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that `vae` does not have is refused as any module would refuse it."""
    with pytest.raises(AttributeError, match=r"^module 'vae' has no attribute 'nonsense'$"):
        _ = vae.nonsense


def refused(kind: type, settings: dict[str, Any], message: str) -> None:
    """Assert that these settings raise exactly this."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kind(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent": 0}, "latent = 0: must be >= 1 and <= 4096"),
        ({"latent": 4097}, "latent = 4097: must be >= 1 and <= 4096"),
        ({"hidden": (8, 0)}, "hidden = 0: must be >= 1"),
        ({"channels": (0,)}, "channels = 0: must be >= 1"),
        ({"prior_components": 0}, "prior_components = 0: must be >= 1"),
        ({"body": "convolution", "channels": ()}, "body = 'convolution' needs channels"),
        (
            {"encoder": "deterministic", "prior": "vamp"},
            "prior = 'vamp' needs a stochastic encoder; fit a 'mixture' instead",
        ),
    ],
)
def test_network_refuses(settings: dict[str, Any], message: str) -> None:
    """A network setting out of its range, or at odds with another, is refused with its name, its value and the rule."""
    refused(Network, settings, message)


CATEGORICAL = {"likelihood": "categorical", "codes": 3}
NUMBERS = ("center", "low", "high")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width = 0: must be >= 1"),
        ({"codes": -1}, "codes = -1: must be >= 0"),
        ({"scale": 0.0}, "scale = 0.0: must be > 0"),
        ({"scale": -2.0}, "scale = -2.0: must be > 0"),
        ({"scale": float("nan")}, "scale = nan: must be finite"),
        ({"floor": 0.0}, "floor = 0.0: must be > 0"),
        ({"sigma": -1.0}, "sigma = -1.0: must be >= 0"),
        ({"components": 0}, "components = 0: must be >= 1"),
        ({"shape": (0, 1, 1)}, "shape = 0: must be >= 1"),
        ({"rates": (0.5, 1.5)}, "rates = 1.5: must be >= 0 and <= 1"),
        ({"rates": (-0.5,)}, "rates = -0.5: must be >= 0 and <= 1"),
        ({"codes": 3}, "column 'x': codes = 3 with likelihood 'gaussian'"),
        *(
            ({"likelihood": kind, "codes": codes}, f"column 'x': codes = {codes} with likelihood '{kind}'")
            for kind in ("categorical", "ordinal", *LEVELS)
            for codes in (0, 1)
        ),
        *(
            ({"likelihood": kind, "codes": 2}, f"column 'x': codes = 2 with likelihood '{kind}'")
            for kind in ("bernoulli", *COUNTS)
        ),
        ({"rates": (0.5,)}, "column 'x': 1 rates for 0 codes"),
        ({**CATEGORICAL, "rates": (0.5, 0.5)}, "column 'x': 2 rates for 3 codes"),
        ({"width": 3, "means": (0.0, 1.0)}, "column 'x': 2 means for 3 features"),
        ({"width": 4, "shape": (2, 2)}, "column 'x': shape (2, 2) is not (height, width, channels) of 4"),
        ({"width": 4, "shape": (2, 2, 3)}, "column 'x': shape (2, 2, 3) is not (height, width, channels) of 4"),
        ({"group": "g"}, "column 'x': group = 'g' with likelihood 'gaussian'"),
        ({"likelihood": "joint_mixture"}, "column 'x': group = '' with likelihood 'joint_mixture'"),
        *(
            ({"likelihood": kind, "sigma": 0.5}, f"column 'x': sigma = 0.5 with likelihood '{kind}'")
            for kind in ("log_normal", "student_t", "mixture", "bernoulli")
        ),
        ({"dynamic": True}, "column 'x': dynamic with likelihood 'gaussian'"),
        *(({name: float(bad)}, "column 'x': a setting is not finite") for name in NUMBERS for bad in ("nan", "inf")),
        *(({name: float("inf")}, f"{name} = inf: must be finite") for name in ("scale", "floor", "sigma")),
        ({"means": (float("-inf"),)}, "column 'x': a setting is not finite"),
    ],
)
def test_column_refuses(settings: dict[str, Any], message: str) -> None:
    """A column setting out of its range, or at odds with the likelihood, is refused with name, value and rule."""
    refused(Column, {"name": "x", "likelihood": "gaussian", **settings}, message)


@pytest.mark.parametrize("kind", get_args(LikelihoodName))
def test_every_likelihood_has_a_column(kind: str) -> None:
    """A column of each likelihood needs no more than its codes or its group; each kind is over one sort of values."""
    codes = 2 if kind in ("categorical", "ordinal", *LEVELS) else 0
    assert Column(name="x", likelihood=kind, codes=codes, group="g" if kind == "joint_mixture" else "").width == 1
    assert sum(kind in sort for sort in (REALS, COUNTS, LEVELS, CATEGORIES)) == 1


def test_means_are_one_for_all_or_one_for_each() -> None:
    """The mean of every feature, or a single one of the column."""
    for means in ((), (0.5,), (0.5, 1.0, 2.0)):
        assert Column(name="x", likelihood="gaussian", width=3, means=means).means == means


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "draws = 0: must be >= 1"),
        ({"beta": -0.1}, "beta = -0.1: must be >= 0"),
        ({"beta": float("nan")}, "beta = nan: must be finite"),
        ({"annealing_epochs": -1.0}, "annealing_epochs = -1.0: must be >= 0"),
        ({"free_bits": -1.0}, "free_bits = -1.0: must be >= 0"),
        ({"noise_level": -1.0}, "noise_level = -1.0: must be >= 0"),
        ({"sparsity_weight": -1.0}, "sparsity_weight = -1.0: must be >= 0"),
        ({"sparsity_target": 0.0}, "sparsity_target = 0.0: must be > 0 and < 1"),
        ({"sparsity_target": 1.0}, "sparsity_target = 1.0: must be > 0 and < 1"),
        ({"contraction": -1.0}, "contraction = -1.0: must be >= 0"),
        *(
            (
                {"bound": "iwae", **settings},
                "bound = 'iwae' takes neither beta, annealing nor free_bits: its weights need the whole KL",
            )
            for settings in ({"beta": 2.0}, {"annealing": "linear", "annealing_epochs": 5.0}, {"free_bits": 0.1})
        ),
        ({"noise": "gaussian"}, "noise = 'gaussian' with noise_level = 0"),
        ({"noise_level": 0.5}, "noise = 'none' with noise_level = 0.5"),
        ({"sparsity": "l1"}, "sparsity = 'l1' with sparsity_weight = 0"),
        ({"sparsity_weight": 0.5}, "sparsity = 'none' with sparsity_weight = 0.5"),
        ({"annealing": "cyclical"}, "annealing = 'cyclical' with annealing_epochs = 0"),
        ({"annealing_epochs": 5.0}, "annealing = 'none' with annealing_epochs = 5"),
        *(
            ({"noise": noise, "noise_level": 1.5}, "noise_level = 1.5: a probability is at most 1")
            for noise in ("masking", "salt_and_pepper")
        ),
    ],
)
def test_objective_refuses(settings: dict[str, Any], message: str) -> None:
    """An objective's setting out of its range, without effect, or at odds with another is refused by name."""
    refused(Objective, settings, message)


def test_gaussian_noise_may_exceed_one() -> None:
    """Only a probability is at most 1; a standard deviation may be anything."""
    assert Objective(noise="gaussian", noise_level=1.5).noise_level == 1.5


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"bound": "iwae"}, "bound = 'iwae'"),
        ({"draws": 5}, "draws = 5"),
        ({"beta": 0.5}, "beta = 0.5"),
        ({"annealing": "linear", "annealing_epochs": 5.0}, "annealing = 'linear'"),
        ({"free_bits": 0.25}, "free_bits = 0.25"),
    ],
)
def test_objective_suits_its_network(settings: dict[str, Any], value: str) -> None:
    """What concerns the KL is refused with a deterministic encoder, which has none, and taken with a stochastic one."""
    objective = Objective(**settings)
    objective.suit(Network())
    message = f"{value} with encoder = 'deterministic', which has no KL term"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        objective.suit(Network(encoder="deterministic"))


def test_free_bits_do_not_suit_a_vamp_prior() -> None:
    """A prior whose KL is no sum over dimensions has no dimension to leave free."""
    objective = Objective(free_bits=0.1)
    with pytest.raises(ValueError, match=r"^free_bits need a KL per dimension, which prior = 'vamp' has not$"):
        objective.suit(Network(prior="vamp"))
    objective.suit(Network(prior="mixture"))


def test_other_settings_suit_every_network() -> None:
    """The default, noise, sparsity and contraction work with either encoder and any prior."""
    objectives = (
        Objective(),
        Objective(noise="masking", noise_level=0.3),
        Objective(sparsity="kl", sparsity_weight=1.0),
        Objective(contraction=0.1),
    )
    for objective in objectives:
        for network in (Network(), Network(encoder="deterministic"), Network(prior="vamp")):
            objective.suit(network)


def test_score_names_what_is_compared() -> None:
    """The best epoch is chosen by the bound that is trained, or by the fit where there is no bound."""
    assert Objective().score(Network()) == "ELBO"
    assert Objective(bound="iwae", draws=50).score(Network()) == "IWAE-50"
    assert Objective().score(Network(encoder="deterministic")) == "log p(x|z)"


def test_beta_is_constant_without_annealing() -> None:
    """Nothing moves beta but annealing."""
    assert {Objective(beta=0.3).beta_at(epochs) for epochs in (0.0, 0.5, 1e6)} == {0.3}


def test_beta_rises_once() -> None:
    """Linear annealing goes from 0 to beta in so many epochs, and stays."""
    objective = Objective(beta=2.0, annealing="linear", annealing_epochs=10.0)
    assert [objective.beta_at(epochs) for epochs in (0.0, 2.5, 5.0, 10.0, 1000.0)] == [0, 0.5, 1, 2, 2]


def test_beta_rises_again_and_again() -> None:
    """Cyclical annealing rises over the first half of each cycle, rests at beta, and begins anew."""
    objective = Objective(beta=2.0, annealing="cyclical", annealing_epochs=8.0)
    cycle = [objective.beta_at(epochs) for epochs in (0.0, 1.0, 2.0, 4.0, 6.0, 7.75)]
    assert cycle == [0, 0.5, 1, 2, 2, 2]
    assert [objective.beta_at(80 + epochs) for epochs in (0.0, 1.0, 2.0, 4.0, 6.0, 7.75)] == cycle


CHOICES = (
    (
        "Column(name='x', likelihood='weibull')",
        f"likelihood = 'weibull': must be one of {', '.join(map(repr, get_args(LikelihoodName)))}",
    ),
    ("Network(encoder='both')", "encoder = 'both': must be one of 'stochastic', 'deterministic'"),
    ("Network(body='cnn')", "body = 'cnn': must be one of 'mlp', 'residual', 'convolution'"),
    ("Network(prior='flow')", "prior = 'flow': must be one of 'normal', 'mixture', 'vamp'"),
    ("Objective(bound='cubo')", "bound = 'cubo': must be one of 'elbo', 'iwae'"),
    ("Objective(gradient='stl')", "gradient = 'stl': must be one of 'dreg', 'reparameterised'"),
    ("Objective(annealing='cosine')", "annealing = 'cosine': must be one of 'none', 'linear', 'cyclical'"),
    ("Objective(sparsity='l2')", "sparsity = 'l2': must be one of 'none', 'l1', 'kl'"),
    (
        "Objective(noise='poisson')",
        "noise = 'poisson': must be one of 'none', 'gaussian', 'masking', 'salt_and_pepper'",
    ),
    ("Network(activation='swish')", "activation = 'swish': must be one of 'silu', 'relu', 'gelu', 'tanh'"),
)


def test_unknown_choices_are_refused() -> None:
    """A choice that does not exist is refused with those that do; in a process whose types nobody else checks."""
    attempts = "".join(f"try: {call}\nexcept ValueError as e: print(e)\n" for call, _ in CHOICES)
    code = f"from vae.config import *\n{attempts}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [message for _, message in CHOICES]


def test_bounds_include_their_ends() -> None:
    """`ge` and `le` admit the bound itself."""
    assert [Network(latent=latent).latent for latent in (1, 4096)] == [1, 4096]
    assert Column(name="x", likelihood="ordinal", codes=2, rates=(0.0, 1.0)).rates == (0.0, 1.0)


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


def test_convolutions_need_an_image() -> None:
    """Convolutions over columns of which none has a shape are refused; one is enough."""
    number, image = (
        Column(name="x", likelihood="gaussian"),
        Column(name="y", likelihood="bernoulli", width=6, shape=(3, 2, 1)),
    )
    with pytest.raises(ValueError, match=r"^body = 'convolution': no column has a shape \(height, width, channels\)$"):
        ModelConfig(columns=(number,), network=Network(body="convolution"))
    assert ModelConfig(columns=(number, image), network=Network(body="convolution")).features == 7


def test_features_is_the_sum_of_widths() -> None:
    """A row has as many features as its columns are wide, however many codes they have."""
    columns = (Column(name="x", likelihood="gaussian", width=3), Column(name="y", likelihood="ordinal", codes=9))
    assert ModelConfig(columns=columns, network=Network()).features == 4


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
    assert schema["latent"]["description"].startswith("Number of latent dimensions d")
    assert schema["latent"]["default"] == Network().latent


@pytest.mark.parametrize("kind", [Column, Network, Objective])
def test_every_setting_is_explained(kind: type) -> None:
    """Each field of a form has a description, and no field is left out."""
    assert kind.__pydantic_config__ is FORBID_EXTRA
    properties = TypeAdapter(kind).json_schema()["properties"]
    assert set(properties) == {field.name for field in fields(kind)}
    assert all(field["description"].endswith(".") for field in properties.values())


def test_objective_schema_carries_bounds() -> None:
    """The form of an objective knows its choices and strict bounds."""
    schema = TypeAdapter(Objective).json_schema()["properties"]
    assert schema["noise"]["enum"] == ["none", "gaussian", "masking", "salt_and_pepper"]
    assert (schema["sparsity_target"]["exclusiveMinimum"], schema["sparsity_target"]["exclusiveMaximum"]) == (0, 1)


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
