"""One step after another: how far down, with which noise, and in how many pieces for want of memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Generator, Tensor, nn

from pipeline.errors import ConfigError, InfrastructureError
from pipeline.training import shards
from pipeline.training.checkpoints import State
from pipeline.training.feed import Batch, Feed
from pipeline.training.job import Job, Place
from pipeline.training.watch import Watch
from vae import fit
from vae.linear import onednn_is_faster
from vae.noise import Noise, draw

HALVINGS: Final = 4
"""Of the rows that are worked on at once, at most."""


@dataclass
class Descent:
    """The steps of a training on one rank."""

    job: Job
    place: Place
    state: State
    feed: Feed
    prepare: Callable[[nn.Module], nn.Module]
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        self.watch = Watch(self.state.adam, self.place.device)
        self._whole = fit.Loss(self.state.model, self.job.objective, total=self.place.total)
        self.loss = self.prepare(self._compiled())

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return -(-len(self.feed) // self.job.train.batch_rows)

    def _compiled(self) -> nn.Module:
        """The loss, compiled if that is wanted, or worth it over the whole training."""
        train, place = self.job.train, self.place
        wanted = train.compile == "on"
        fast = place.device.type == "cpu" and onednn_is_faster()  # compiled around its products, steps are no faster
        if train.compile == "auto" and not fast:
            parameters = sum(it.numel() for it in self.state.model.parameters())
            wanted = fit.repays(train.epochs * self.steps, rows=train.batch_rows, parameters=parameters)
        rows = shards.held(train.batch_rows, world_size=place.world_size, rank=place.rank)
        return fit.compiled(self._whole, rows=rows) if wanted else self._whole

    def step(self, batch: Batch, drawn: Noise) -> None:
        """One step, in as many pieces as memory asks for."""
        progress, train, share = self.state.progress, self.job.train, self.place.world_size / batch.size
        for group in self.state.adam.param_groups:
            group["lr"] = self._rate()
        beta = self.job.objective.beta_at(progress.epoch + progress.step * train.batch_rows / len(self.feed))
        how = {"share": share, "beta": beta, "clip": train.clip_norm}
        while (loss := self._stepped(self.loss, self.state.adam, batch, drawn, **how)) is None:
            self._halve(in_step=True)
        self.watch.note(loss)
        progress.step += 1
        if self.state.average:
            self.state.average.update(self.state.model)

    def rehearse(self) -> None:
        """Try a step, this rank alone: in the midst of one it could not tell the others to try again."""
        if self.place.world_size > 1 and self._whole.divisible:
            batch = next(iter(self.feed.batches(self.state.progress.epoch)))
            drawn = self.noise(batch, Generator())
            idle = fit.optimizer(self.state.model.parameters(), learning_rate=1.0)
            idle.found_inf = torch.ones((), device=self.place.device)  # type: ignore[attr-defined]  # moves no weight
            while self._lacking(self._whole, idle, batch, drawn):
                self._halve()
            self.state.model.zero_grad(set_to_none=True)

    def _lacking(self, *what: Any) -> bool:
        """Whether the memory of any rank does not suffice for a step."""
        lacking = self._stepped(*what, share=1.0) is None
        return bool(self.place.total(torch.tensor(float(lacking), device=self.place.device)))

    def _stepped(
        self, loss: nn.Module, adam: torch.optim.Optimizer, batch: Batch, drawn: Noise, **how: float
    ) -> Tensor | None:
        """The loss of a step that is done; None, and all that it held let go, if memory did not suffice."""
        observed = None if self.feed.complete else batch.observed
        parts, precision = 2**self.state.progress.halvings, self.job.train.precision
        try:
            return fit.step(loss, adam, batch.values, observed, drawn, **how, parts=parts, precision=precision)
        except torch.OutOfMemoryError:
            return None

    def noise(self, batch: Batch, generator: Generator) -> Noise:
        """That of this rank's rows, of a whole global batch that is drawn alike on every rank."""
        return self.drawn(batch.size, generator).take(batch.places, device=self.place.device)

    def drawn(self, rows: int, generator: Generator) -> Noise:
        """That of a whole global batch."""
        latent = self.job.network.latent
        return draw(self.job.objective, self.state.model.columns, rows=rows, latent=latent, generator=generator)

    def _rate(self) -> float:
        train, progress = self.job.train, self.state.progress
        return (
            train.learning_rate
            * fit.warmed(self._done(), round(train.warmup_epochs * self.steps))
            * fit.decayed(progress.epoch, train.epochs, decay=train.decay)
            * 0.5 ** len(progress.restarts)
        )

    def _done(self) -> int:
        """Steps done since the beginning."""
        return self.state.progress.epoch * self.steps + self.state.progress.step

    def _halve(self, *, in_step: bool = False) -> None:
        """Work on half as many rows at once. Raises ConfigError, or InfrastructureError, where that is no way out."""
        progress, rows = self.state.progress, self.job.train.batch_rows
        if not self._whole.divisible:
            raise ConfigError(
                f"a batch of {rows:,} rows takes more memory than there is, and sparsity = 'kl' needs it whole",
                cure="smaller train.batch_rows, or more train.num_workers",
            )
        if progress.halvings == HALVINGS:
            raise ConfigError(
                f"even 1/{2**HALVINGS} of a batch of {rows:,} rows takes more memory than there is",
                cure="a smaller model, or smaller train.batch_rows",
            )
        if in_step and self.place.world_size > 1:
            raise InfrastructureError(
                f"out of memory in epoch {progress.epoch + 1}, though the first batch had room",
                cure="smaller train.batch_rows, or nothing else on these GPUs",
            )
        progress.halvings += 1
        self.tell(f"out of memory: from here on each batch in {2**progress.halvings} pieces")
