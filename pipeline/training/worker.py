"""One training process: what every rank runs, and what rank 0 leaves. Knows torch.distributed, not who started it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Final

import torch
from torch import nn

from pipeline import reference, watch
from pipeline.errors import DataError
from pipeline.features import Features
from pipeline.training import feed, filed, shards
from pipeline.training.checkpoints import Metrics, Progress
from pipeline.training.job import ALONE, Job, Place
from pipeline.training.rows import Table, affordable, binarised, blocks
from pipeline.training.trainer import Trainer
from vae import checkpoint, evaluate, fit, rival
from vae.evaluate import INFORMED, Evaluation

STORY: Final = "training.json"
"""Beside the model: rows of each split, the metrics of each epoch, the evaluation on the test rows."""


def run(
    job: Job,
    *,
    place: Place = ALONE,
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    report: Callable[[Metrics], None] = lambda metrics: None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Progress, Evaluation]:
    """Train until the bound stops rising; leave the best model, sealed, in `<directory>/model`.

    `prepare` wraps the loss for data-parallel work. On rank 0, `report` hears of each epoch, and `tell` of what else a
    user should know.
    """
    torch.set_num_threads(job.train.cpus_per_worker)
    splits = feed.load(job, place)
    trainer = Trainer(job, place, splits, prepare, tell)
    while not trainer.progress.exhausted(job.train):
        metrics = trainer.epoch()
        if place.rank == 0:
            report(metrics)
    return trainer.progress, _finish(trainer, splits)


def _finish(trainer: Trainer, splits: dict[int, Table]) -> Evaluation:
    """The best weights, with their prior, judged on the test rows; rank 0 writes them down."""
    job, model, seed = trainer.job, trainer.model, trainer.job.train.seed
    model.load_state_dict(trainer.state.best)
    train = binarised(model.config.columns, splits[shards.TRAIN], seed=seed)
    if job.network.prior == "mixture":
        fit.fit_prior_to(model, train.take, len(train), seed=seed)
    evaluation = trainer.judge(shards.TEST, samples=job.train.importance_samples)
    if not math.isfinite(evaluation.score):
        raise DataError(
            f"the bound on the test rows is {evaluation.score}", cure="look for extreme values among the features"
        )
    if trainer.place.rank == 0:
        test = trainer.held_out[shards.TEST]
        evaluation = _rivalled(trainer, evaluation, train, test)
        evaluation = evaluate.examined(model, evaluation, *test.take(slice(INFORMED)), objective=job.objective)
        _write(trainer, evaluation, splits)
        filed.discard(job)
    return evaluation


def _rivalled(trainer: Trainer, evaluation: Evaluation, train: Table, test: Table) -> Evaluation:
    """With -log p(x) of the test rows under the rival, nats per row."""
    latent = trainer.job.network.latent
    some = affordable(train, trainer.job.train.memory_mb)
    fitted = rival.fit(trainer.model.config.columns, some.values, some.observed, latent=latent)
    nll = -float(torch.cat([fitted.log_prob(*block) for block in blocks(test)]).mean())
    name = fitted.name if len(some) == len(train) else f"{fitted.name} by {len(some):,} training rows"
    return replace(evaluation, rival_nll=nll, rival=name)


def _write(trainer: Trainer, evaluation: Evaluation, splits: dict[int, Table]) -> None:
    """The model, its features, its reference and its story, sealed."""
    directory = trainer.job.path
    partial = directory / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    checkpoint.save(trainer.model, partial)
    features, train = Features.load(directory), splits[shards.TRAIN]
    features.save(partial)
    measured = reference.measure(trainer.model, features, train.take, rows=len(train))
    measured.save(partial)
    watch.save_expected(features, measured, train.take, rows=len(train), model=partial)
    rows = {name: len(splits[split]) for name, split in shards.SPLITS.items()}
    story = {"rows": rows, **trainer.progress.told(), "evaluation": asdict(evaluation)}
    (partial / STORY).write_text(json.dumps(story, indent=1))
    checkpoint.seal(partial)
    shutil.rmtree(directory / "model", ignore_errors=True)
    partial.rename(directory / "model")
