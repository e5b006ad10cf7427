"""The run's TOML: what it says, and how it refuses."""

from __future__ import annotations

import pickle
import tomllib
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, small_settings

from pipeline import keys, runfile
from pipeline.errors import CommitConflict, ConfigError, DataError, InfrastructureError

MIXED = {"type": "float64", "likelihood": "joint_mixture", "group": "g"}
NOTE = {"type": "string", "role": "passthrough"}
CLASSICAL = {"model": {"encoder": "deterministic"}}


def refusal(settings: dict[str, Any]) -> str:
    """The message these settings are refused with."""
    with pytest.raises(ConfigError) as caught:
        runfile.parse(settings, where="my.toml")
    return str(caught.value)


def test_an_unknown_key_is_answered_with_the_near_one(tmp_path: Path) -> None:
    """A misspelt key is never ignored: the answer names the file, the key and the one that was meant."""
    message = refusal(small_settings(tmp_path, train={"epohcs": 3}))
    assert message == "my.toml: unknown key train.epohcs\n  cure: did you mean train.epochs?"
    message = refusal(small_settings(tmp_path, modle={"latent": 3}))
    assert "did you mean model?" in message
    message = refusal(small_settings(tmp_path, objective={"sparcity": "l1"}))
    assert message == "my.toml: unknown key objective.sparcity\n  cure: did you mean objective.sparsity?"
    message = refusal(small_settings(tmp_path, train={"beta": 4.0}))
    assert message.startswith("my.toml: unknown key train.beta\n  cure: ")
    settings = small_settings(tmp_path)
    settings["columns"]["city"]["likelyhood"] = "categorical"
    assert "unknown key columns.city.likelyhood" in refusal(settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": {"epochs": 0}}, "train.epochs: Input should be greater than or equal to 1 (got 0)"),
        ({"train": {"epochs": "many"}}, "train.epochs: Input should be a valid integer"),
        ({"train": {"learning_rate": 2.0}}, "train.learning_rate: Input should be less than or equal to 1 (got 2.0)"),
        ({"data": {"validation": 0.9}}, "data.validation: Input should be less than or equal to 0.5 (got 0.9)"),
        ({"data": {"delimiter": "ab"}}, "delimiter = 'ab': must be one character"),
        ({"data": {"format": "xml"}}, "data.format: Input should be 'auto', 'csv'"),
        ({"model": {"activation": "cosine"}}, "model.activation: Input should be 'silu'"),
        ({"name": "../up"}, "name = '../up': use letters"),
        ({"workspace": "s3://bucket"}, "must be a local or mounted folder"),
        ({"report": {"colour_by": "nothing"}}, "report.colour_by = 'nothing': not a feature or passthrough column"),
        ({"columns": {"more": {"type": "int64", "role": "id"}}}, "columns id, more: one column at most"),
        ({"columns": {"city": {"type": "string", "likelihood": "gaussian"}}}, "use 'categorical' or 'bernoulli'"),
        (
            {"columns": {"age": {"type": "int8", "likelihood": "normal"}}},
            "columns.age.likelihood: Input should be",
        ),
        ({"columns": {"city": {"type": "string"}}}, "features, and only they, have one"),
        (
            {"columns": {"age": {**MIXED, "components": 3}, "size": MIXED}},
            "one group have different components",
        ),
        ({"model": {"body": "convolution"}}, "model.body = 'convolution': no column has a shape, such as shape = [28"),
        ({"objective": {"beta": -1.0}}, "objective.beta: Input should be greater than or equal to 0 (got -1.0)"),
        ({"objective": {"bound": "vae"}}, "objective.bound: Input should be 'elbo' or 'iwae' (got 'vae')"),
        ({"objective": {"noise": "masking"}}, "objective: noise = 'masking' with noise_level = 0"),
        ({"objective": {"noise": "masking", "noise_level": 1.5}}, "noise_level = 1.5: a probability is at most 1"),
        ({"objective": {"bound": "iwae", "beta": 2.0}}, "bound = 'iwae' takes neither beta, annealing nor free_bits"),
        ({"objective": {"beta": 2.0}, **CLASSICAL}, "beta = 2.0 with encoder = 'deterministic', which has no KL term"),
        ({"objective": {"bound": "iwae"}, **CLASSICAL}, "bound = 'iwae' with encoder = 'deterministic', which has no"),
        ({"encode": {"draws": 2}, **CLASSICAL}, "encode.draws = 2 with encoder = 'deterministic': one code a row"),
        ({"columns": {"z": NOTE}, "encode": {"draws": 2}}, "column 'z': encode.draws writes a column of that name"),
        ({"columns": {"worst": NOTE}}, "column 'worst': encode.worst writes a column of that name; turn it off"),
        ({"objective": {"draws": 3}, **CLASSICAL}, "draws = 3 with encoder = 'deterministic', which has no KL term"),
        (
            {"objective": {"free_bits": 0.5}, **CLASSICAL},
            "free_bits = 0.5 with encoder = 'deterministic'",
        ),
        ({"objective": {"free_bits": 0.5}, "model": {"prior": "vamp"}}, "free_bits need a KL per dimension"),
        ({"model": {"prior": "vamp", "encoder": "deterministic"}}, "prior = 'vamp' needs a stochastic encoder"),
    ],
)
def test_bad_settings_are_refused_by_name(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """Every bound and every choice is enforced, and the message names the key and the rule."""
    settings = small_settings(tmp_path)
    for section, value in change.items():
        settings[section] = {**settings.get(section, {}), **value} if isinstance(value, dict) else value
    assert words in refusal(settings)


def test_a_type_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """The answer lists the types there are."""
    settings = small_settings(tmp_path, columns={"height": {"type": "decimal", "likelihood": "gaussian"}})
    assert "columns.height: type = 'decimal' is not known: int8..int64" in refusal(settings)


def test_overrides_are_toml_values_or_text() -> None:
    """`--set a.b=c` reaches any key; a value that is no TOML is text."""
    found = runfile.load(
        ROOT / "deploy/runs/demo.toml",
        overrides=("train.epochs=7", "model.hidden=[5, 4]", "data.uri=other.csv", "data.header=false"),
    )
    assert (found.train.epochs, found.model.hidden, found.data.uri, found.data.header) == (
        7,
        (5, 4),
        "other.csv",
        False,
    )
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        runfile.load(ROOT / "deploy/runs/demo.toml", overrides=("train.epochs",))


def test_a_config_survives_its_plain_form() -> None:
    """`parse(to_dict())` is the identity: what a flow stores is what it ran."""
    found = runfile.load(ROOT / "deploy/runs/demo.toml")
    assert runfile.parse(found.to_dict()) == found


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    """No traceback: the path and the reason."""
    with pytest.raises(ConfigError, match="no such file\n  cure: write one with `latentpipe init"):
        runfile.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="not readable as TOML"):
        runfile.load(tmp_path / "bad.toml")


@pytest.mark.parametrize("kind", [ConfigError, DataError, InfrastructureError, CommitConflict])
def test_errors_survive_the_way_between_processes(kind: type[ConfigError]) -> None:
    """An error unpickles as itself, facts and sentence."""
    error = kind("what", "where", "cure")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "where: what\n  cure: cure"


def test_workers_are_a_number_or_the_fewest_and_the_most(tmp_path: Path) -> None:
    """`num_workers = [1, 4]` is elastic; the key keeps the range as it is written, and bounds hold for both ends."""
    fixed, elastic = (runfile.parse(small_settings(tmp_path, train={"num_workers": it})) for it in (2, [1, 4]))
    assert (fixed.train.workers, elastic.train.workers) == ((2, 2), (1, 4))
    assert runfile.parse(elastic.to_dict()) == elastic
    assert elastic.cpus == 4
    assert len({keys.training(it, "content") for it in (fixed, elastic)}) == 2
    for wrong in ([4, 1], [0, 2], 0):
        told = refusal(small_settings(tmp_path, train={"num_workers": wrong}))
        assert "a number from 1, or the fewest and the most: [1, 4]" in told
    assert "num_workers" in refusal(small_settings(tmp_path, train={"num_workers": [1, 2, 3]}))


def test_half_the_precision_is_for_gpus(tmp_path: Path) -> None:
    """On a CPU bf16 would cost digits and save no time."""
    assert "is for GPUs: set use_gpu = true" in refusal(small_settings(tmp_path, train={"precision": "bf16"}))
    runfile.parse(small_settings(tmp_path, train={"precision": "bf16", "use_gpu": True}))


@pytest.mark.parametrize("name", ["adult", "burda-iwae", "demo", "digits-binary", "digits-levels"])
def test_a_config_survives_its_toml(name: str) -> None:
    """`parse(text(config))` is the identity, with a space to search and names that need quotes besides."""
    found = runfile.load(ROOT / f"deploy/runs/{name}.toml")
    column = {"type": "string", "role": "passthrough", "categories": ['"', "\\", "ü"]}
    search = {"latent": [2, 4], "beta": [0.5, 2.0], "learning_rate": {"low": 1e-5, "high": 0.1}}
    settings = {**found.to_dict(), "tune": search}
    settings["columns"]["a. b = [c]"] = column
    more = runfile.parse(settings)
    for config in (found, more):
        assert runfile.parse(tomllib.loads(runfile.text(config))) == config
