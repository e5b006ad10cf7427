"""train, on real Ray workers: one or two of them, interrupted or not, must be the same training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import small_csv, small_settings
from mlflow import MlflowClient
from safetensors.torch import load_file

from pipeline import ingest, keys, runfile, train
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, DataError, InfrastructureError
from pipeline.records import Trained
from pipeline.training import checkpoints, worker
from vae import checkpoint
from vae.checkpoint import WEIGHTS

pytestmark = pytest.mark.usefixtures("ray_up")

SPARSE = {"sparsity": "kl", "sparsity_weight": 0.5, "noise": "masking", "noise_level": 0.1}
"""An objective that looks at the whole batch, and draws noise besides."""


def prepared(folder: Path, **changes: object) -> RunConfig:
    """A small run whose table is ingested."""
    settings = runfile.parse(small_settings(folder, **changes))
    ingest.ingest(settings)
    return settings


def trained(settings: RunConfig) -> Trained:
    """The run's training, done."""
    return train.train(settings, ingest.latest(settings))


def weights(record: Trained) -> dict[str, torch.Tensor]:
    """Of the best model."""
    return load_file(Path(record.model) / WEIGHTS)


def story(settings: RunConfig) -> dict[str, Any]:
    """Rows, metrics of each epoch, evaluation."""
    (path,) = settings.root.glob("training/*/model/training.json")
    told: dict[str, Any] = json.loads(path.read_text())
    return told


def test_two_workers_train_the_model_that_one_trains(tmp_path: Path) -> None:
    """Same rows, same order, same noise: gradients of two workers equal one's, so weights, metrics, nats agree."""
    runs = []
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        model = {"prior": "mixture", "prior_components": 4}
        runs.append(prepared(tmp_path / str(workers), train={"num_workers": workers}, model=model, objective=SPARSE))
    one, two = (trained(it) for it in runs)
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=2e-4, atol=2e-6, msg=name)
    for mine, yours in zip(story(runs[0])["history"], story(runs[1])["history"], strict=True):
        assert mine == pytest.approx(yours, rel=1e-5)
    for name in ("elbo", "nll", "rival_nll", "log_likelihood", "kl", "kl_per_latent", "log_likelihood_per_column"):
        mine, yours = (story(it)["evaluation"][name] for it in runs)
        assert mine == pytest.approx(yours, rel=1e-4, abs=1e-5), name
    assert (one.train_rows, one.test_rows) == (two.train_rows, two.test_rows)
    again = trained(runs[0])
    assert (again.new, again.digest) == (False, one.digest), "the same training is not done twice"


def test_a_training_resumed_is_the_training_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's worker goes on from a checkpoint of its middle, and ends with the files of one loop without Ray.

    What Ray Train itself has left is of no account: torn, it would refuse to start.
    """
    settings = prepared(tmp_path, train={"num_workers": 1, "epochs": 6, "checkpoint_s": 0})
    monkeypatch.setattr(checkpoints, "KEPT", 1000)
    whole, ingested = tmp_path / "whole", ingest.latest(settings)
    whole.mkdir()
    worker.run(train.prepare(settings, ingested, whole))
    directory = keys.training_folder(settings, keys.training(settings, ingested.content))
    middle = next((whole / "checkpoints").glob(checkpoints.NAME.format(restarts=0, epoch=3, step=0)))
    shutil.copytree(middle, directory / "checkpoints" / middle.name)
    (directory / "ray" / directory.name).mkdir(parents=True)
    (directory / "ray" / directory.name / "checkpoint_manager_snapshot.json").write_text('{"checkpoint_resu')
    resumed = trained(settings)
    assert resumed.new
    logged = MlflowClient(f"sqlite:///{settings.root}/mlflow.db").get_metric_history(resumed.mlflow_run, "score")
    assert [epoch.step for epoch in logged] == [4, 5, 6]
    assert resumed.digest == checkpoint.digest(whole / "model")
    assert json.loads((whole / "model/training.json").read_text()) == story(settings)
    assert all(torch.equal(one, weights(resumed)[name]) for name, one in load_file(whole / "model" / WEIGHTS).items())


def test_more_workers_than_cpus_is_a_clear_error(tmp_path: Path) -> None:
    """Not an endless wait: what was asked for, and what there is."""
    settings = prepared(tmp_path, train={"num_workers": 64})
    with pytest.raises(InfrastructureError, match="64 workers with 1 CPU each asked for; after 2 s the cluster has"):
        trained(settings)


def test_too_few_rows_and_too_little_memory_are_clear_errors(tmp_path: Path) -> None:
    """Before any worker starts: the numbers, and the setting that cures it."""
    settings = small_settings(tmp_path)
    small_csv(tmp_path / "small.csv", rows=4)
    few = runfile.parse(settings)
    ingest.ingest(few)
    with pytest.raises(DataError, match=r"4 rows give \d+ to train on, \d+ to validate and \d+ to test"):
        trained(few)
    small_csv(tmp_path / "small.csv", rows=90_000)
    large = runfile.parse({**settings, "train": {"memory_mb": 1}})
    ingest.ingest(large)
    with pytest.raises(
        ConfigError, match=r"the rows take 2 MB in each worker, train.memory_mb allows 1\n  cure: --set"
    ):
        trained(large)


def test_numbers_too_large_are_refused_by_column(tmp_path: Path) -> None:
    """What cannot be standardised in float64 is an error that names the column, before any worker starts."""
    settings = prepared(tmp_path)
    path = tmp_path / "small.csv"
    rows = path.read_text().splitlines()
    rows[2:4] = ["1001,1e308,true,Rome,x", "1002,-1e308,true,Rome,x"]
    path.write_text("\n".join(rows))
    ingest.ingest(settings)
    with pytest.raises(DataError, match=r"column 'height' holds numbers too large to standardise, up to 1e\+308"):
        trained(settings)


def test_a_loss_that_is_not_finite_ends_the_training_by_name(tmp_path: Path) -> None:
    """The worker's own error reaches the caller as itself, not as a stranger's traceback."""
    wild = {"num_workers": 1, "learning_rate": 1.0, "max_restarts": 0, "epochs": 50}
    settings = prepared(tmp_path, train=wild, model={"hidden": [64] * 40, "activation": "relu"})
    message = r"was not finite in epoch 1, step \d+, at .*; ids 1\d+, .* after 2 restarts\n  cure: lower"
    with pytest.raises(DataError, match=message):
        trained(settings)
