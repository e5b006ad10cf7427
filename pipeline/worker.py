"""One training process: the loop that every rank runs. Knows torch.distributed, not who started it.

Everything random is a function of (seed, epoch), every decision one of all-reduced sums, so all ranks agree without
talking, one worker or many give the same gradients, and a resumed run goes on exactly where the checkpoint was.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Final

import numpy as np
import torch
from torch import Generator, nn

from pipeline import checkpoints, feed, filed, shards
from pipeline.checkpoints import Metrics, Progress, copied
from pipeline.errors import DataError, InfrastructureError
from pipeline.features import Features
from pipeline.feed import Feed
from pipeline.filed import Filed
from pipeline.job import ALONE, Job, Place
from pipeline.rows import Rows, Table, affordable, binarised, blocks
from vae import checkpoint, evaluate, fit, noise, rival
from vae.config import ModelConfig
from vae.evaluate import BLOCK_ROWS, INFORMED, Evaluation
from vae.model import VAE

CHECKPOINT_EVERY_S: Final = 5.0
STORY: Final = "training.json"
"""Beside the model: rows of each split, the metrics of each epoch, the evaluation on the test rows."""
_INT64: Final = (1 << 63) - 1


def run(
    job: Job,
    *,
    place: Place = ALONE,
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    report: Callable[[Metrics], None] = lambda metrics: None,
) -> tuple[Progress, Evaluation]:
    """Train until the bound stops rising; leave the best model, sealed, in `<directory>/model`.

    `prepare` wraps the loss for data-parallel work; `report` hears of each epoch, on rank 0.
    """
    torch.set_num_threads(job.train.cpus_per_worker)
    splits = feed.load(job, place)
    trainer = _Trainer(job, place, splits, prepare)
    while not trainer.progress.exhausted(job.train):
        metrics = trainer.epoch()
        if place.rank == 0:
            report(metrics)
    return trainer.progress, trainer.finish()


class _Trainer:
    """The state of a training on one rank, and its moves."""

    def __init__(
        self, job: Job, place: Place, splits: dict[int, Table], prepare: Callable[[nn.Module], nn.Module]
    ) -> None:
        self.job, self.place = job, place
        torch.manual_seed(job.train.seed)
        columns = Features.load(job.path).model_columns()
        self.model = VAE(ModelConfig(columns=columns, network=job.network)).to(place.device)
        self.splits = splits
        table = splits[shards.TRAIN]
        assert isinstance(table, Rows | Filed)
        self.feed = Feed(table, batch_rows=job.train.batch_rows, seed=job.train.seed, place=place)
        for held_out in (shards.VALIDATION, shards.TEST):
            self.splits[held_out] = binarised(columns, splits[held_out], seed=job.train.seed)
        self.adam = fit.optimizer(
            self.model.parameters(), learning_rate=job.train.learning_rate, epsilon=job.train.epsilon
        )
        start = copied(self.model)
        self.best, self.progress = checkpoints.resume(job.path, self.model, self.adam, start, device=place.device)
        if not place.agree(self.progress.epoch):
            raise InfrastructureError(
                "the workers see different checkpoints",
                job.directory,
                "put the workspace on storage that every node mounts",
            )
        self.loss = prepare(fit.Loss(self.model, job.objective, total=place.total))
        self.saved_at = time.monotonic()

    def epoch(self) -> Metrics:
        """One pass over the training rows, one over the validation rows."""
        started = time.monotonic()
        loss = self._learn()
        seconds = time.monotonic() - started
        objective = self.job.objective
        judged = self.judge(shards.VALIDATION, samples=objective.draws if objective.bound == "iwae" else 0)
        score = self._finite(judged.score if judged.nll is None else -judged.nll, "validation bound")
        progress, rows = self.progress, len(self.splits[shards.TRAIN])
        progress.epoch += 1
        metrics = {
            "epoch": progress.epoch,
            "train_loss": loss / rows,
            "score": score,
            **({} if judged.elbo is None else {"elbo": judged.elbo}),
            "log_likelihood": judged.log_likelihood,
            "kl": judged.kl,
            "active_units": judged.active_units,
            "rows_per_s": rows / seconds,
            "epoch_s": time.monotonic() - started,
        }
        progress.history.append(metrics)
        if score > progress.best_score:
            progress.best_score, progress.best_epoch, self.best = score, progress.epoch, copied(self.model)
        if self.place.rank == 0:
            self._checkpoint(last=progress.exhausted(self.job.train))
        return metrics

    def finish(self) -> Evaluation:
        """The best weights, with their prior, judged on the test rows; rank 0 writes them down."""
        self.model.load_state_dict(self.best)
        train = binarised(self.model.config.columns, self.splits[shards.TRAIN], seed=self.job.train.seed)
        if self.job.network.prior == "mixture":
            fit.fit_prior_to(self.model, train.take, len(train), seed=self.job.train.seed)
        evaluation = self.judge(shards.TEST, samples=self.job.train.importance_samples)
        self._finite(evaluation.score, "bound on the test rows")
        if self.place.rank == 0:
            evaluation = self._rivalled(evaluation, train)
            some = self.splits[shards.TEST].take(slice(INFORMED))
            evaluation = evaluate.examined(self.model, evaluation, *some, objective=self.job.objective)
            self._write(evaluation)
            filed.discard(self.job)
        return evaluation

    def judge(self, split: int, *, samples: int = 0) -> Evaluation:
        """The exact evaluation over all rows of a split, the same on every rank; the same noise every time."""
        rows, seed, place = self.splits[split], self.job.train.seed, self.place
        posterior = torch.randn(len(rows), 1, self.job.network.latent, generator=Generator().manual_seed(seed))
        sums = evaluate.zero(self.model)
        for index in torch.arange(place.rank, len(rows), place.world_size).split(8192):
            sums += evaluate.tally(self.model, *rows.take(index), posterior[index].to(place.device))
        if samples and self.model.stochastic:
            blocks = list(enumerate(torch.arange(len(rows)).split(BLOCK_ROWS)))
            for block, index in blocks[place.rank :: place.world_size]:
                sums += evaluate.weigh(self.model, *rows.take(index), samples=samples, seed=seed, block=block)
        place.total(sums.packed)
        return evaluate.conclude(self.model, sums, samples=samples, seed=seed)

    def _learn(self) -> float:
        train, place, rows = self.job.train, self.place, self.splits[shards.TRAIN]
        rate = train.learning_rate * fit.decayed(self.progress.epoch, train.epochs, decay=train.decay)
        for group in self.adam.param_groups:
            group["lr"] = rate
        generator = Generator().manual_seed(train.seed * 1_000_003 + self.progress.epoch & _INT64)
        loss = torch.zeros((), dtype=torch.float64, device=place.device)
        done = 0
        for batch in self.feed.batches(self.progress.epoch):
            drawn = self._noise(batch.size, generator).take(batch.places, device=place.device)
            beta = self.job.objective.beta_at(self.progress.epoch + done / len(rows))
            share = place.world_size / batch.size
            loss += fit.step(self.loss, self.adam, batch.values, batch.observed, drawn, share=share, beta=beta)
            done += batch.size
        return self._finite(float(place.total(loss)), "training loss")

    def _noise(self, rows: int, generator: Generator) -> noise.Noise:
        """That of a whole global batch, the same on every rank."""
        latent = self.job.network.latent
        return noise.draw(self.job.objective, self.model.columns, rows=rows, latent=latent, generator=generator)

    def _finite(self, value: float, what: str) -> float:
        """The value. Raises DataError, the same on every rank, if it is none."""
        if not np.isfinite(value):
            raise DataError(
                f"the {what} became {value} in epoch {self.progress.epoch + 1}",
                cure="lower train.learning_rate, or look for extreme values among the features",
            )
        return value

    def _rivalled(self, evaluation: Evaluation, train: Table) -> Evaluation:
        """With -log p(x) of the test rows under the rival, nats per row."""
        columns, test = self.model.config.columns, self.splits[shards.TEST]
        some = affordable(train, self.job.train.memory_mb)
        fitted = rival.fit(columns, some.values, some.observed, latent=self.job.network.latent)
        nll = -float(torch.cat([fitted.log_prob(*block) for block in blocks(test)]).mean())
        name = fitted.name if len(some) == len(train) else f"{fitted.name} by {len(some):,} training rows"
        return replace(evaluation, rival_nll=nll, rival=name)

    def _write(self, evaluation: Evaluation) -> None:
        partial = self.job.path / "model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        checkpoint.save(self.model, partial)
        Features.load(self.job.path).save(partial)
        rows = {name: len(self.splits[split]) for name, split in shards.SPLITS.items()}
        story = {"rows": rows, **asdict(self.progress.without_times()), "evaluation": asdict(evaluation)}
        (partial / STORY).write_text(json.dumps(story, indent=1))
        checkpoint.seal(partial)
        shutil.rmtree(self.job.path / "model", ignore_errors=True)
        partial.rename(self.job.path / "model")

    def _checkpoint(self, *, last: bool) -> None:
        if last or time.monotonic() - self.saved_at > CHECKPOINT_EVERY_S:
            self.saved_at = time.monotonic()
            checkpoints.save(self.job.path, self.model, self.adam, self.best, self.progress)
