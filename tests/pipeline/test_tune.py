"""tune, on real Ray Tune: what is tried, who is stopped, what an interrupted tuning still knows."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import small_csv, small_settings
from ray.tune.schedulers import TrialScheduler

from pipeline import ingest, keys, runfile, space, train, tune
from pipeline.config import RunConfig, Tune
from pipeline.errors import DataError, InfrastructureError
from pipeline.tracking import server
from pipeline.training import checkpoints, worker
from pipeline.trials import Halving, News, room

EPOCHS = 6
ENDLESS = 1e39
"""A beta beyond float32: the loss is infinite at once."""


def prepared(folder: Path, **changes: Any) -> RunConfig:
    """A small run whose table is ingested: its own settings, and two others of which one cannot be trained."""
    search = {"width": [8], "beta": [0.5, ENDLESS], "epochs": EPOCHS, "grace": EPOCHS}
    config = runfile.parse(small_settings(folder, **{"tune": search, **changes}))
    ingest.ingest(config)
    return config


def begun(config: RunConfig) -> list[tune.Trial]:
    """What a kill leaves of a tuning: trial 0 done, the other good one in its middle, the bad one not begun."""
    ingested = ingest.latest(config)
    directory = config.root / "tuning" / keys.tuning(config, ingested.content)[:16]
    directory.mkdir(parents=True)
    job = train.prepare(config, ingested, directory)
    trials = [tune._trial(number, it, directory) for number, it in enumerate(space.trials(config))]
    for trial in trials:
        if trial.config.objective.beta != ENDLESS:
            progress, _ = worker.run(tune._job(job, trial))
            trial.history = progress.history
    for later in sorted((trials[good(trials)].directory / "checkpoints").iterdir())[3:]:
        shutil.rmtree(later)
    shutil.rmtree(trials[0].directory / "checkpoints")
    trials[0].hear(News(0))
    return trials


def good(trials: list[tune.Trial]) -> int:
    """Number of the trial in its middle."""
    return next(it.number for it in trials[1:] if it.config.objective.beta != ENDLESS)


@pytest.mark.usefixtures("ray_up")
def test_a_tuning_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done is not done again, what was begun ends as if never interrupted, what fails is noted."""
    monkeypatch.setattr(checkpoints, "KEPT", EPOCHS)
    config = prepared(tmp_path, train={"checkpoint_s": 0.0})
    trials = begun(config)
    tuned = tune.tune(config, ingest.latest(config))
    rows = {row["trial"]: row for row in tuned.trials}
    assert rows[0] == trials[0].row()
    resumed, alone = rows[good(trials)], trials[good(trials)]
    assert resumed["state"] == "finished"
    assert (resumed["score"], resumed["epochs"]) == (alone.row()["score"], EPOCHS)
    (failed,) = (row for row in tuned.trials if row["beta"] == ENDLESS)
    assert failed["state"] == "failed"
    assert "the training loss was not finite" in failed["error"]
    assert tuned.score == max(rows[0]["score"], resumed["score"])
    assert tuned.gain == tuned.score - rows[0]["score"]
    again = tune.tune(config, ingest.latest(config))
    assert again == replace(tuned, new=False)

    winner = runfile.load(tuned.winner)
    assert winner == replace(space.trials(config)[tuned.best], tune=Tune())
    client = server.connect(config)
    parent = client.get_run(tuned.mlflow_run)
    assert parent.info.status == "FINISHED"
    children = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{tuned.mlflow_run}'")
    ends = {it.info.run_name: (it.info.status, it.data.tags["latentpipe.state"][:8]) for it in children}
    assert ends[f"trial-{alone.number}"] == ("FINISHED", "finished")
    assert ends[f"trial-{failed['trial']}"] == ("FAILED", "failed: ")
    (child,) = (it for it in children if it.info.run_name == f"trial-{alone.number}")
    steps = [(it.step, it.value) for it in client.get_metric_history(child.info.run_id, "score")]
    assert sorted(steps) == [(epoch["epoch"], epoch["score"]) for epoch in alone.history]


def test_trials_behind_are_stopped_and_the_first_is_not() -> None:
    """At the grace epoch the lower scores stop; trial 0 goes on to its end; trials of an earlier attempt count."""
    scheduler = Halving(Tune(epochs=9, grace=3, reduction=3))
    scheduler.remember(7, [{"epoch": float(epoch), "score": -1.0} for epoch in range(1, 4)])

    def verdict(number: int, epoch: int, score: float) -> str:
        trial = SimpleNamespace(trial_id=f"trial-{number}", config={"number": number})
        if epoch == 3:
            scheduler.on_trial_add(None, trial)
        return scheduler.on_trial_result(None, trial, {"epoch": epoch, "score": score})

    assert verdict(1, 3, -2.0) == TrialScheduler.STOP
    assert verdict(2, 3, -0.5) == TrialScheduler.CONTINUE
    assert verdict(0, 3, -9.0) == TrialScheduler.CONTINUE
    assert verdict(0, 9, -9.0) == TrialScheduler.STOP


def test_a_score_does_not_depend_on_the_beta_trained_with(tmp_path: Path) -> None:
    """Trials are judged by log p(x|z) - KL whatever weight the KL had in training."""
    config = prepared(tmp_path, tune={"beta": [4.0], "trials": 2})
    job = train.prepare(config, ingest.latest(config), tmp_path)
    trial = tune._trial(1, space.trials(config)[1], tmp_path)
    trial.history = worker.run(tune._job(job, trial))[0].history
    assert trial.config.objective.beta == 4.0
    for epoch in trial.history:
        assert math.isclose(epoch["score"], epoch["log_likelihood"] - epoch["kl"], rel_tol=1e-9)


@pytest.mark.usefixtures("ray_up")
def test_no_room_for_one_trial_is_a_clear_error(tmp_path: Path) -> None:
    """What a trial takes, and what there is."""
    config = runfile.parse(small_settings(tmp_path, train={"cpus_per_worker": 64}))
    with pytest.raises(InfrastructureError, match=r"a trial takes 64 CPU, the cluster has \d+ CPU\n  cure: fewer"):
        room(config)


def test_too_few_rows_and_trials_that_all_fail_are_clear_errors(tmp_path: Path) -> None:
    """Without validation rows nothing can be chosen; nor where nothing could be trained."""
    config = runfile.parse(small_settings(tmp_path))
    small_csv(tmp_path / "small.csv", rows=4)
    with pytest.raises(DataError, match=r"4 rows give \d+ to train on, \d+ to validate"):
        tune.tune(config, ingest.ingest(config))
    failed = tune.Trial(0, config, tmp_path)
    failed.hear(News(0, error="it was too much"))
    with pytest.raises(DataError, match="all 1 trials failed, the first because it was too much"):
        tune._facts(config, [failed])


def test_a_tuning_is_named_by_what_is_tried_not_by_how_much_at_once(tmp_path: Path) -> None:
    """Another space is another tuning; other resources are the same."""
    config = prepared(tmp_path)
    key = keys.tuning(config, "content")
    assert keys.tuning(replace(config, tune=replace(config.tune, at_once=1)), "content") == key
    assert keys.tuning(replace(config, tune=replace(config.tune, width=(9,))), "content") != key
    assert keys.tuning(config, "other") != key
