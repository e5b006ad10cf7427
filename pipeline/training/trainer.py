"""A training on one rank: its state, and its moves from step to step.

All that is random is a function of (seed, epoch), every decision one of all-reduced sums, so all ranks agree. Losses
are looked at, totalled and forgotten in windows of steps; a checkpoint falls between two windows, so a training that
resumes from one adds up the same numbers in the same order, and ends with the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Final

import torch
from torch import Generator, nn

from pipeline import keys
from pipeline.errors import DataError, InfrastructureError
from pipeline.features import Features
from pipeline.training import checkpoints, culprits, shards
from pipeline.training.checkpoints import Metrics, Progress, Restart, State, copied
from pipeline.training.culprits import Culprits
from pipeline.training.descent import Descent
from pipeline.training.feed import Feed
from pipeline.training.filed import Filed
from pipeline.training.job import Job, Place
from pipeline.training.rows import Rows, Table, binarised
from pipeline.training.watch import Diverged
from vae import evaluate, fit
from vae.config import ModelConfig
from vae.evaluate import BLOCK_ROWS, Evaluation
from vae.model import VAE

WINDOW: Final = 16
"""Steps after which all ranks look at their losses together."""
RESTARTS: Final = 2
JUDGED_ROWS: Final = 8192
_INT64: Final = (1 << 63) - 1


class Trainer:
    """The state of a training on one rank, and its moves. `tell` hears what a user should know, on rank 0."""

    def __init__(
        self,
        job: Job,
        place: Place,
        splits: dict[int, Table],
        prepare: Callable[[nn.Module], nn.Module],
        tell: Callable[[str], None],
    ) -> None:
        self.job, self.place = job, place
        self.tell = tell if place.rank == 0 else lambda text: None
        torch.manual_seed(job.train.seed)
        columns = Features.load(job.path).model_columns()
        self.model = VAE(ModelConfig(columns=columns, network=job.network)).to(place.device)
        table = splits[shards.TRAIN]
        assert isinstance(table, Rows | Filed)
        self.feed = Feed(table, batch_rows=job.train.batch_rows, seed=job.train.seed, place=place)
        self.held_out = {
            split: binarised(columns, splits[split], seed=job.train.seed) for split in (shards.VALIDATION, shards.TEST)
        }
        self.state = self._resumed()
        self.descent = Descent(job, place, self.state, self.feed, prepare, self.tell)
        self.descent.rehearse()
        self.saved_at = time.monotonic()

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self.state.progress

    def epoch(self) -> Metrics:
        """One pass over the training rows, one over the validation rows, or as many as it takes to stay finite."""
        while True:
            try:
                return self._pass()
            except Diverged as why:
                self._restart(why)

    def judge(self, split: int, *, samples: int = 0) -> Evaluation:
        """The exact evaluation over all rows of a split, the same on every rank; the same noise every time."""
        rows, seed, place = self.held_out[split], self.job.train.seed, self.place
        posterior = torch.randn(len(rows), 1, self.job.network.latent, generator=Generator().manual_seed(seed))
        sums = evaluate.zero(self.model)
        for index in torch.arange(place.rank, len(rows), place.world_size).split(JUDGED_ROWS):
            sums += evaluate.tally(self.model, *rows.take(index), posterior[index].to(place.device))
        if samples and self.model.stochastic:
            blocks = list(enumerate(torch.arange(len(rows)).split(BLOCK_ROWS)))
            for block, index in blocks[place.rank :: place.world_size]:
                sums += evaluate.weigh(self.model, *rows.take(index), samples=samples, seed=seed, block=block)
        place.total(sums.packed)
        return evaluate.conclude(self.model, sums, samples=samples, seed=seed)

    def _resumed(self) -> State:
        """The state of the newest checkpoint, or of a beginning, the same on every rank."""
        job, place, train = self.job, self.place, self.job.train
        adam = fit.optimizer(self.model.parameters(), learning_rate=train.learning_rate, epsilon=train.epsilon)
        state = State(
            model=self.model,
            adam=adam,
            average=fit.Average(self.model, decay=train.ema) if train.ema else None,
            best=copied(self.model),
            noise=Generator().get_state(),
            progress=Progress(),
        )
        checkpoints.resume(job.path, state, self._settings(), device=place.device, tell=self.tell)
        progress = state.progress
        if not place.agree(len(progress.restarts), progress.epoch, progress.step):
            raise InfrastructureError(
                "the workers see different checkpoints",
                job.directory,
                "put the workspace on storage that every node mounts",
            )
        return state

    def _settings(self) -> dict[str, Any]:
        """What a checkpoint is of."""
        train = {name: value for name, value in asdict(self.job.train).items() if name not in keys.FREE_OF_TRAINING}
        return {**asdict(self.job.network), **asdict(self.job.objective), **train}

    def _pass(self) -> Metrics:
        progress, train, objective = self.progress, self.job.train, self.job.objective
        started, waited_s, rows = time.monotonic(), self.feed.waited_s, len(self.feed)
        done = progress.step * train.batch_rows
        self._learn()
        seconds = time.monotonic() - started
        waited_s = self.feed.waited_s - waited_s
        with self.state.average.swapped(self.model) if self.state.average else nullcontext():
            judged = self.judge(shards.VALIDATION, samples=objective.draws if objective.bound == "iwae" else 0)
            score = self._finite(judged)
            better = score > progress.best_score
            if better:
                self.state.best = copied(self.model)
        metrics = {
            "epoch": progress.epoch + 1,
            "train_loss": progress.loss / rows,
            "score": score,
            **({} if judged.elbo is None else {"elbo": judged.elbo}),
            "log_likelihood": judged.log_likelihood,
            "kl": judged.kl,
            "active_units": judged.active_units,
            "learning_rate": self.state.adam.param_groups[0]["lr"],
            "rows_per_s": (rows - done) / seconds,
            "wait_share": waited_s / seconds,
            "epoch_s": time.monotonic() - started,
        }
        progress.epoch, progress.step, progress.loss = progress.epoch + 1, 0, 0.0
        progress.history.append(metrics)
        if better:
            progress.best_score, progress.best_epoch = score, progress.epoch
        self._keep(now=progress.exhausted(train))
        return metrics

    def _learn(self) -> None:
        """The steps of the epoch that are still to do. Raises Diverged."""
        progress = self.progress
        generator = Generator()
        if progress.step:
            generator.set_state(self.state.noise)
        else:
            self.state.noise = generator.manual_seed(
                self.job.train.seed * 1_000_003 + progress.epoch & _INT64
            ).get_state()
        for batch in self.feed.batches(progress.epoch, start=progress.step):
            self.descent.step(batch, self.descent.noise(batch, generator))
            if progress.step % WINDOW == 0 or progress.step == self.descent.steps:
                if not self._settle():
                    break
                self.state.noise = generator.get_state()
                if progress.step < self.descent.steps:
                    self._keep()
        else:
            return
        raise self._diverged()

    def _settle(self) -> bool:
        """Total the losses since the last time; whether all of them, and all gradients, were finite."""
        loss, struck = self.place.total(self.descent.watch.summary()).tolist()
        if struck or not math.isfinite(loss):
            return False
        self.progress.loss += loss
        self.descent.watch.clear()
        return True

    def _keep(self, *, now: bool = False) -> None:
        """Write a checkpoint if it is time; what is in it is the same on every rank, so one of them may decide."""
        if self.place.rank == 0 and (now or time.monotonic() - self.saved_at >= self.job.train.checkpoint_s):
            checkpoints.save(self.job.path, self.state, self._settings())
            self.saved_at = time.monotonic()

    def _diverged(self) -> Diverged:
        """Why the last window was not finite: its first such batch, looked at again with the weights it met."""
        progress, batch_rows = self.progress, self.job.train.batch_rows
        start = progress.step - len(self.descent.watch)
        step = start + min(map(int, self.place.hear(str(self.descent.watch.first()))))
        generator = Generator()
        generator.set_state(self.state.noise)
        for _ in range(start, step):
            self.descent.drawn(batch_rows, generator)
        batch = next(iter(self.feed.batches(progress.epoch, start=step)))
        mine = Culprits.of(self.model, batch, self.descent.noise(batch, generator))
        found = Culprits.joined([Culprits.from_plain(it) for it in self.place.hear(mine.to_plain())])
        names = [column.name for column in self.model.config.columns]
        loss = self.place.total(self.descent.watch.losses[step - start].double().clone())
        what = "gradient" if loss.isfinite() else "training loss"
        return Diverged(what, step + 1, tuple(names[it] for it in found.columns), found.numbers)

    def _finite(self, judged: Evaluation) -> float:
        """What the epoch is worth. Raises Diverged if that is no finite number."""
        score = judged.score if judged.nll is None else -judged.nll
        if not math.isfinite(score):
            nats = judged.log_likelihood_per_column
            raise Diverged("validation bound", 0, tuple(it for it in nats if not math.isfinite(nats[it])), ())
        return score

    def _restart(self, why: Diverged) -> None:
        """Go back to the best weights with half the learning rate, RESTARTS times at most. Raises DataError."""
        progress, state = self.progress, self.state
        rate = self.state.adam.param_groups[0]["lr"]
        ids = culprits.ids(self.job, why.numbers)
        told = why.told(ids, epoch=progress.epoch + 1, rate=rate)
        if len(progress.restarts) == RESTARTS:
            raise DataError(
                f"{told}, after {RESTARTS} restarts",
                cure="lower train.learning_rate, set train.clip_norm, or look for extreme values in those rows",
            )
        progress.restart(
            Restart(
                what=why.what,
                epoch=progress.epoch + 1,
                step=why.step,
                columns=why.columns,
                ids=ids,
                resumed=progress.best_epoch,
                learning_rate=self.job.train.learning_rate * 0.5 ** (len(progress.restarts) + 1),
            )
        )
        self.model.load_state_dict(state.best)
        state.adam.state.clear()
        if state.average:
            state.average = fit.Average(self.model, decay=self.job.train.ema)
        self.descent.watch.clear()
        self.tell(f"{told}; again from epoch {progress.epoch} at half the rate")
