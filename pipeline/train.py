"""train: a prepared dataset -> the best model and its evaluation, by Ray Train over CPU or GPU workers.

The training's key is a hash of the data, the model and the settings: the same key is the same training, done once,
and resumed from its newest whole checkpoint if it was interrupted.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, LoggingConfig, ScalingConfig, TrainingFailedError
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer

from pipeline import keys, shards
from pipeline.checkpoints import Metrics, Progress
from pipeline.cluster import own_error, ray_session
from pipeline.config import RunConfig
from pipeline.disk import storage_errors
from pipeline.errors import ConfigError, DataError, InfrastructureError, LatentpipeError
from pipeline.features import fitting
from pipeline.feed import check_memory
from pipeline.job import Job
from pipeline.progress import Stage
from pipeline.ranks import Board, loop
from pipeline.records import Ingested, Trained
from pipeline.rows import read
from pipeline.snapshots import Snapshot
from pipeline.tracking import TrainingRun
from pipeline.worker import STORY
from vae import checkpoint
from vae.evaluate import Evaluation

POLL_S = 0.3
COLLECTIVE_TIMEOUT_S = 120


def train(config: RunConfig, ingested: Ingested) -> Trained:
    """Train on the snapshot, or return at once if this very training is done.

    Raises DataError if there is nothing to learn from, InfrastructureError if workers cannot be had or keep dying.
    """
    with Stage("train") as stage:
        key = keys.training(config, ingested.content)
        directory = keys.training_folder(config, key)
        if (done := finished(directory)) is not None:
            stage.update(f"unchanged, the training {key[:16]} stands")
            return done
        with storage_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        job = prepare(config, ingested, directory)
        run = TrainingRun.open(config, key=key, dataset=ingested)
        with run, ray_session(config.cluster, cpus=config.cpus, log=config.ray_log):
            progress, evaluation = _fit(config, job, stage, run)
        run.finish(evaluation, directory / "model" / STORY, step=progress.epoch)
        return _record(key, ingested, directory, progress, evaluation, mlflow_run=run.id)


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


def _fit(config: RunConfig, job: Job, stage: Stage, run: TrainingRun) -> tuple[Progress, Evaluation]:
    """Run the workers; say and log what they report while they do."""
    board = ray.remote(num_cpus=0)(Board).remote()
    settings = config.train
    resources = {"CPU": settings.cpus_per_worker, **({"GPU": 1} if settings.use_gpu else {})}
    _check_resources(resources, settings.num_workers)
    trainer = TorchTrainer(
        loop,
        train_loop_config={"job": job, "board": board},
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=settings.num_workers, use_gpu=settings.use_gpu, resources_per_worker=resources
        ),
        run_config=RayRunConfig(
            name=job.path.name,
            storage_path=str(job.path / "ray"),
            failure_config=FailureConfig(max_failures=settings.max_restarts, controller_failure_limit=3),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    with ThreadPoolExecutor(max_workers=1) as threads:  # not the main thread, where Ray would take over Ctrl-C
        future = threads.submit(trainer.fit)
        try:
            for metrics in _pinned(board, future):
                run.log(metrics)
                stage.update(_line(metrics[-1], settings.epochs, config.objective.score(config.model)))
            outcome = future.result().return_value
        except (TrainingFailedError, RayError) as error:
            raise own_error(error, cure="run again: it resumes from the last checkpoint") from error
        except BaseException:
            ray.shutdown()  # ends the workers, and so the thread that waits for them
            raise
    if isinstance(outcome, LatentpipeError):
        raise outcome
    progress, evaluation = outcome
    return progress, evaluation


def _pinned(board: Any, future: Future[Any]) -> Iterator[list[Metrics]]:
    """What the workers report, until they are done."""
    while not future.done():
        with suppress(TimeoutError):
            future.exception(timeout=POLL_S)
        if metrics := ray.get(board.take.remote()):
            yield metrics


def _check_resources(resources: dict[str, int], workers: int) -> None:
    there = ray.cluster_resources()
    for kind, amount in resources.items():
        if there.get(kind, 0) < amount * workers:
            raise InfrastructureError(
                f"{workers} workers with {amount} {kind} each asked for, the cluster has {there.get(kind, 0):g} {kind}",
                cure="fewer train.num_workers, other resources, or a larger cluster",
            )


def _line(metrics: Metrics, epochs: int, score: str) -> str:
    left = (epochs - metrics["epoch"]) * metrics["epoch_s"]
    return (
        f"epoch {metrics['epoch']:.0f}/{epochs}, validation {score} {metrics['score']:.3f} nats/row "
        f"(log p(x|z) {metrics['log_likelihood']:.3f}, KL {metrics['kl']:.3f}), "
        f"{metrics['rows_per_s']:,.0f} rows/s, at most {left:.0f} s left"
    )


def _record(
    key: str, ingested: Ingested, directory: Path, progress: Progress, evaluation: Evaluation, *, mlflow_run: str
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
        new=True,
    )
    partial = directory / "trained.partial"
    partial.write_text(json.dumps(asdict(trained), indent=1))
    partial.rename(directory / "trained.json")
    return trained
