"""The search space of a tuning: what is drawn, and what is refused."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, small_settings

from pipeline import runfile, space
from pipeline.config import RunConfig
from pipeline.errors import ConfigError


def config(folder: Path, *, model: dict[str, Any] | None = None, **tune: Any) -> RunConfig:
    """A small run with this [tune]."""
    return runfile.parse(small_settings(folder, model=model or {}, tune=tune))


def test_the_same_config_gives_the_same_trials(tmp_path: Path) -> None:
    """The first is the run as it is; more trials begin with the same ones; another seed draws others."""
    run = config(tmp_path, trials=8)
    found = space.trials(run)
    assert found[0] == run
    assert space.trials(run) == found
    more = space.trials(replace(run, tune=replace(run.tune, trials=12)))
    assert [it.model for it in more[:8]] == [it.model for it in found]
    other = space.trials(replace(run, tune=replace(run.tune, seed=1)))
    assert [it.train.learning_rate for it in other] != [it.train.learning_rate for it in found]


def test_what_is_not_listed_stays(tmp_path: Path) -> None:
    """Only listed settings differ, each within what is listed."""
    rates = {"low": 1e-4, "high": 1e-2}
    run = config(tmp_path, trials=40, width=(8, 12), learning_rate=rates, model={"hidden": [30, 20]})
    for trial in space.trials(run)[1:]:
        assert trial.model.hidden in ((8, 8), (12, 12))
        assert 1e-4 <= trial.train.learning_rate <= 1e-2
        same = replace(trial, model=run.model, train=replace(trial.train, learning_rate=run.train.learning_rate))
        assert same == run


def test_a_small_space_is_tried_as_a_whole(tmp_path: Path) -> None:
    """No settings twice, the run's own among them: 2 x 2 settings are four trials, not sixteen."""
    run = config(tmp_path, latent=(3, 5), depth=(1, 2), trials=16)
    found = [(it.model.latent, len(it.model.hidden)) for it in space.trials(run)]
    assert found[0] == (3, 1)
    assert sorted(found) == [(3, 1), (3, 2), (5, 1), (5, 2)]


def test_without_a_list_the_runs_own_numbers_are_varied(tmp_path: Path) -> None:
    """Halves, doubles, a layer more or less, and rates nearby; never beta."""
    run = config(tmp_path, trials=60)
    found = space.trials(run)
    assert len(found) == 60
    assert {it.model.latent for it in found} == {1, 3, 6}
    assert {it.model.hidden for it in found} == {(8,), (16,), (32,), (8, 8), (16, 16), (32, 32)}
    assert {it.train.batch_rows for it in found} == {16, 32, 64}
    assert {it.objective.beta for it in found} == {1.0}
    assert all(run.train.learning_rate / 4 <= it.train.learning_rate <= run.train.learning_rate * 4 for it in found)


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        ({"latnet": [2]}, "unknown key tune.latnet\n  cure: did you mean tune.latent?"),
        ({"latent": [0]}, "tune.latent.0: Input should be greater than or equal to 1 (got 0)"),
        ({"width": [8, 8]}, "tune: width = [8, 8]: a value is listed twice"),
        ({"grace": 9, "epochs": 3}, "tune: grace = 9: a trial has but epochs = 3"),
        ({"reduction": 1}, "tune.reduction: Input should be greater than or equal to 2 (got 1)"),
        (
            {"learning_rate": {"low": 0.1, "high": 0.01}},
            "tune.learning_rate: low = 0.1, high = 0.01: low must be below",
        ),
        ({"learning_rate": {"low": 0.1, "hihg": 0.01}}, "did you mean tune.learning_rate.high?"),
    ],
)
def test_a_space_that_is_none_is_refused_by_name(tmp_path: Path, tune: dict[str, Any], words: str) -> None:
    """Names, bounds and order are checked before anything runs."""
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, **tune)
    assert words in str(caught.value)


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    """A beta where there is no KL term; a width where there are no layers."""
    with pytest.raises(ConfigError, match=r"tune.beta: beta = 0.5 with encoder = 'deterministic', which has no KL"):
        space.trials(config(tmp_path, beta=[0.5], model={"encoder": "deterministic"}))
    with pytest.raises(ConfigError, match=r"model.hidden = \[\]: there is no layer to vary\n  cure: list both"):
        space.trials(config(tmp_path, width=[8], model={"hidden": []}))


def test_the_space_that_the_readme_shows_is_one(tmp_path: Path) -> None:
    """It is taken as it stands, and every setting that can be searched is in it."""
    (shown,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    run = config(tmp_path, **tomllib.loads(shown)["tune"])
    assert set(space.listed(run)) == set(space.SEARCHED)
    assert len(space.trials(run)) == 16
