"""train: a prepared dataset -> the best model and its evaluation, by Ray Train over CPU or GPU workers.

The training's key is a hash of the data, the model and the settings: the same key is the same training, done once,
and resumed from its newest whole checkpoint if it was interrupted.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final

import pyarrow as pa

from pipeline import fleet, keys, lock
from pipeline.board import Note
from pipeline.cluster import ray_session
from pipeline.config import RunConfig
from pipeline.disk import storage_errors
from pipeline.errors import ConfigError, DataError
from pipeline.features import fitting
from pipeline.progress import Stage, timed
from pipeline.records import Ingested, Trained
from pipeline.snapshots import Snapshot
from pipeline.tracking.runs import TrainingRun
from pipeline.training import shards
from pipeline.training.checkpoints import Metrics, Progress
from pipeline.training.feed import check_memory
from pipeline.training.job import Job
from pipeline.training.rows import read
from pipeline.training.worker import STORY
from vae import checkpoint
from vae.evaluate import Evaluation

EMBEDDED_WAIT_S: Final = 2.0
"""An embedded cluster does not grow."""


def train(config: RunConfig, ingested: Ingested) -> Trained:
    """Train on the snapshot, or return at once if this very training is done.

    Raises DataError if there is nothing to learn from, InfrastructureError if workers cannot be had or keep dying.
    """
    with Stage("train") as stage:
        key = keys.training(config, ingested.content)
        directory = keys.training_folder(config, key)
        if (done := _standing(directory, stage)) is not None:
            return done
        with storage_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        with lock.held(directory, waiting=stage.update) as still_held:
            return _standing(directory, stage) or _trained(config, ingested, key, stage, still_held)


def _standing(directory: Path, stage: Stage) -> Trained | None:
    if (done := finished(directory)) is not None:
        stage.update(f"unchanged, the training {directory.name} stands")
    return done


def _trained(config: RunConfig, ingested: Ingested, key: str, stage: Stage, still_held: Callable[[], None]) -> Trained:
    directory = keys.training_folder(config, key)
    startup: dict[str, float] = {}
    with ExitStack() as stack:
        with timed(startup, "data"):
            job = prepare(config, ingested, directory)
        with timed(startup, "mlflow"):
            run = stack.enter_context(TrainingRun.open(config, key=key, dataset=ingested))
        with timed(startup, "ray"):
            stack.enter_context(ray_session(config.cluster, cpus=config.cpus, log=config.ray_log))
        listener = _Listener(config, stage, run, startup)
        wait_s = config.cluster.wait_s if config.cluster.address else EMBEDDED_WAIT_S
        progress, evaluation = fleet.work(job, wait_s=wait_s, hear=listener.hear, check=still_held)
    run.started(startup)
    run.finish(evaluation, directory / "model" / STORY, step=progress.epoch)
    return _record(key, ingested, directory, progress, evaluation, mlflow_run=run.id, startup_s=startup)


def finished(directory: Path) -> Trained | None:
    """The record of a training that ran to its end and whose model still verifies."""
    try:
        facts = json.loads((directory / "trained.json").read_text())
        checkpoint.verify(directory / "model")
        return Trained(**{**facts, "new": False})
    except (OSError, ValueError, TypeError):
        return None


def latest(config: RunConfig, ingested: Ingested) -> Trained:
    """The finished training of this config on this dataset. Raises ConfigError if there is none."""
    done = finished(keys.training_folder(config, keys.training(config, ingested.content)))
    if done is None:
        raise ConfigError("this config was not trained on the newest dataset", cure="run `latentpipe train` first")
    return done


def prepare(config: RunConfig, ingested: Ingested, directory: Path) -> Job:
    """Fit the preprocessing on the training rows, check that the job is possible, and describe it."""
    if not config.role("feature"):
        raise ConfigError("no column has role = 'feature'", "columns", "`latentpipe init --data FILE` writes them")
    snapshot = Snapshot(Path(ingested.snapshot))
    job = Job(
        directory=str(directory),
        parts=tuple(map(str, snapshot.files)),
        id_column=config.id_column,
        secret_ids=any(it.secret for it in config.role("id").values()),
        validation=config.data.validation,
        test=config.data.test,
        network=config.model,
        objective=config.objective,
        train=config.train,
    )
    counts = dict.fromkeys((shards.TRAIN, shards.VALIDATION, shards.TEST), 0)
    fitted = fitting.fit(_training_rows(job, counts), config.role("feature"))
    if not all(counts.values()):
        raise DataError(
            "{:,} rows give {:,} to train on, {:,} to validate and {:,} to test".format(
                ingested.rows, *counts.values()
            ),
            ingested.snapshot,
            "more rows, or other shares in data.validation and data.test",
        )
    check_memory(ingested.rows, fitted.width, memory_mb=config.train.memory_mb)
    fitted.save(directory)
    return job


def _training_rows(job: Job, counts: dict[int, int]) -> Iterator[pa.RecordBatch]:
    """The rows to fit on; `counts` learns how many rows each split has."""
    for batch, split in read(job):
        for kind in counts:
            counts[kind] += int((split == kind).sum())
        yield batch.filter(pa.array(split == shards.TRAIN))


class _Listener:
    """Tells and logs what the workers report, and how long it took until the first epoch began."""

    def __init__(self, config: RunConfig, stage: Stage, run: TrainingRun, startup: dict[str, float]) -> None:
        self.config, self.stage, self.run, self.startup = config, stage, run, startup
        self.called = time.monotonic()

    def hear(self, notes: list[Note]) -> None:
        """Say what is text; of the epochs, log all and show the last."""
        for text in (it for it in notes if isinstance(it, str)):
            self.stage.say(text)
        if epochs := [it for it in notes if not isinstance(it, str)]:
            reached_s = [epoch.pop("loop_s") for epoch in epochs]
            if "workers" not in self.startup:
                self._started(reached_s[0], reached_s[0] - epochs[0]["epoch_s"])
            self.run.log(epochs)
            score = self.config.objective.score(self.config.model)
            self.stage.update(_line(epochs[-1], self.config.train.epochs, score))

    def _started(self, reached_s: float, rows_s: float) -> None:
        waited_s = time.monotonic() - self.called
        self.startup |= {"workers": round(waited_s - reached_s, 1), "rows": round(rows_s, 1)}
        items = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.startup.items())
        self.stage.say(f"started in {sum(self.startup.values()):.1f} s: {items}")


def _line(metrics: Metrics, epochs: int, score: str) -> str:
    left = (epochs - metrics["epoch"]) * metrics["epoch_s"]
    return (
        f"epoch {metrics['epoch']:.0f}/{epochs}, validation {score} {metrics['score']:.3f} nats/row "
        f"(log p(x|z) {metrics['log_likelihood']:.3f}, KL {metrics['kl']:.3f}), "
        f"{metrics['rows_per_s']:,.0f} rows/s, at most {left:.0f} s left"
    )


def _record(
    key: str,
    ingested: Ingested,
    directory: Path,
    progress: Progress,
    evaluation: Evaluation,
    *,
    mlflow_run: str,
    startup_s: dict[str, float],
) -> Trained:
    """The facts of a training that is done, written last: they are what makes it so."""
    rows = json.loads((directory / "model" / STORY).read_text())["rows"]
    trained = Trained(
        key=key,
        model=str(directory / "model"),
        digest=checkpoint.digest(directory / "model"),
        mlflow_run=mlflow_run,
        dataset=ingested.snapshot,
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        train_rows=rows["train"],
        test_rows=rows["test"],
        elbo=evaluation.elbo,
        nll=evaluation.nll,
        importance_samples=evaluation.importance_samples,
        gain=evaluation.gain,
        rival=evaluation.rival,
        log_likelihood=evaluation.log_likelihood,
        kl=evaluation.kl,
        active_units=evaluation.active_units,
        latent=len(evaluation.kl_per_latent),
        verdict=evaluation.verdict,
        rows_per_s=statistics.median(metrics["rows_per_s"] for metrics in progress.history),
        startup_s=startup_s,
        new=True,
    )
    partial = directory / "trained.partial"
    partial.write_text(json.dumps(asdict(trained), indent=1))
    partial.rename(directory / "trained.json")
    return trained
