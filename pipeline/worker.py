"""One training process: the loop that every rank runs. Knows torch.distributed, not who started it.

Everything random is a function of (seed, epoch), every decision one of all-reduced sums, so all ranks agree without
talking, one worker or many give the same gradients, and a resumed run goes on exactly where the checkpoint was.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn

from pipeline import shards
from pipeline.config import Train
from pipeline.errors import DataError, InfrastructureError
from pipeline.features import Features
from pipeline.storage import opened
from vae import checkpoint, evaluate, fit
from vae.config import ModelConfig, Network
from vae.evaluate import Evaluation
from vae.model import VAE

CHECKPOINT_EVERY_S: Final = 5.0
BEST, STATE, PROGRESS = "best.safetensors", "state.pt", "progress.json"
STORY: Final = "training.json"
"""Beside the model: rows of each split, the metrics of each epoch, the evaluation on the test rows."""
SPLITS: Final = {"train": shards.TRAIN, "validation": shards.VALIDATION, "test": shards.TEST}
CPU: Final = torch.device("cpu")
_INT64: Final = (1 << 63) - 1
TIMES: Final = ("rows_per_s", "epoch_s")
Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train on what; plain enough to travel."""

    directory: str
    """Of this training: `features.json` lies there; checkpoints and the model are written there."""
    parts: tuple[str, ...]
    id_column: str
    validation: float
    test: float
    network: Network
    train: Train

    @property
    def path(self) -> Path:
        """The directory."""
        return Path(self.directory)


@dataclass(frozen=True)
class Rows:
    """Rows as tensors, on the training device."""

    values: Tensor
    observed: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def take(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The values and observed-mask of some rows."""
        return self.values[index], self.observed[index]


@dataclass(kw_only=True)
class Progress:
    """How far a training is."""

    epoch: int = 0
    """Epochs done."""
    best_epoch: int = 0
    best_elbo: float = -float("inf")
    history: list[Metrics] = field(default_factory=list)

    def without_times(self) -> Progress:
        """The same, but for what no two runs have in common: so the same training leaves the same files."""
        timeless = [{name: it[name] for name in it if name not in TIMES} for it in self.history]
        return replace(self, history=timeless)

    def exhausted(self, train: Train) -> bool:
        """Whether to stop: the last epoch is done, or patience is at an end."""
        return self.epoch >= train.epochs or self.epoch - self.best_epoch >= train.patience


@dataclass(frozen=True)
class Place:
    """This process among its peers."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = CPU

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, the same on each."""
        if self.world_size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def agree(self, number: int) -> bool:
        """Whether all ranks hold the same number."""
        if self.world_size == 1:
            return True
        extremes = torch.tensor([number, -number], device=self.device)
        distributed.all_reduce(extremes, op=distributed.ReduceOp.MAX)
        return bool(extremes[0] == -extremes[1])


def run(
    job: Job,
    *,
    place: Place = Place(),
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    report: Callable[[Metrics], None] = lambda metrics: None,
) -> tuple[Progress, Evaluation]:
    """Train until the bound stops rising; leave the best model, sealed, in `<directory>/model`.

    `prepare` wraps the model for data-parallel work; `report` hears of each epoch, on rank 0.
    """
    torch.set_num_threads(job.train.cpus_per_worker)
    splits = load(job, place.device)
    trainer = _Trainer(job, place, splits, prepare)
    while not trainer.progress.exhausted(job.train):
        metrics = trainer.epoch()
        if place.rank == 0:
            report(metrics)
    return trainer.progress, trainer.finish()


def load(job: Job, device: torch.device) -> dict[int, Rows]:
    """The rows of each split (TRAIN, VALIDATION, TEST), transformed, in the order of their files."""
    features = Features.load(job.path)
    chunks = [(*features.transform(batch), split) for batch, split in rows(job)]
    values, observed, split = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*chunks, strict=True))
    return {
        kind: Rows(values[split == kind].to(device), observed[split == kind].to(device))
        for kind in (shards.TRAIN, shards.VALIDATION, shards.TEST)
    }


def rows(job: Job) -> Iterator[tuple[pa.RecordBatch, npt.NDArray[np.uint8]]]:
    """The table's rows, batch by batch, with the split of each."""
    for part in job.parts:
        with opened(Path(part)) as file:
            for batch in file.iter_batches():
                yield batch, shards.splits(batch.column(job.id_column), validation=job.validation, test=job.test)


class _Trainer:
    """The state of a training on one rank, and its moves."""

    def __init__(
        self, job: Job, place: Place, splits: dict[int, Rows], prepare: Callable[[nn.Module], nn.Module]
    ) -> None:
        self.job, self.place, self.splits = job, place, splits
        torch.manual_seed(job.train.seed)
        columns = Features.load(job.path).model_columns()
        self.model = VAE(ModelConfig(columns=columns, network=job.network)).to(place.device)
        self.adam = fit.optimizer(self.model.parameters(), learning_rate=job.train.learning_rate)
        self.best = _copy(self.model)
        self.progress = Progress()
        self._resume()
        self.replica = prepare(self.model)
        self.saved_at = time.monotonic()

    def epoch(self) -> Metrics:
        """One pass over the training rows, one over the validation rows."""
        started = time.monotonic()
        loss = self._learn()
        seconds = time.monotonic() - started
        judged = self.judge(shards.VALIDATION)
        self._finite(judged.elbo, "validation bound")
        progress, rows = self.progress, len(self.splits[shards.TRAIN])
        progress.epoch += 1
        metrics = {
            "epoch": progress.epoch,
            "train_loss": loss / rows,
            "elbo": judged.elbo,
            "log_likelihood": judged.log_likelihood,
            "kl": judged.kl,
            "active_units": judged.active_units,
            "rows_per_s": rows / seconds,
            "epoch_s": time.monotonic() - started,
        }
        progress.history.append(metrics)
        if judged.elbo > progress.best_elbo:
            progress.best_elbo, progress.best_epoch, self.best = judged.elbo, progress.epoch, _copy(self.model)
        self._checkpoint(last=progress.exhausted(self.job.train))
        return metrics

    def finish(self) -> Evaluation:
        """The best weights, judged on the test rows; rank 0 writes them down."""
        self.model.load_state_dict(self.best)
        evaluation = self.judge(shards.TEST)
        self._finite(evaluation.elbo, "bound on the test rows")
        if self.place.rank == 0:
            partial = self.job.path / "model.partial"
            shutil.rmtree(partial, ignore_errors=True)
            checkpoint.save(self.model, partial)
            Features.load(self.job.path).save(partial)
            rows = {name: len(self.splits[split]) for name, split in SPLITS.items()}
            story = {"rows": rows, **asdict(self.progress.without_times()), "evaluation": asdict(evaluation)}
            (partial / STORY).write_text(json.dumps(story, indent=1))
            checkpoint.seal(partial)
            shutil.rmtree(self.job.path / "model", ignore_errors=True)
            partial.rename(self.job.path / "model")
        return evaluation

    def judge(self, split: int) -> Evaluation:
        """The exact evaluation over all rows of a split, the same on every rank; the same noise every time."""
        rows, train = self.splits[split], self.job.train
        noise = self._noise(len(rows), torch.Generator().manual_seed(train.seed))
        sums = evaluate.zero(self.model)
        for index in torch.arange(self.place.rank, len(rows), self.place.world_size).split(8192):
            sums += evaluate.tally(self.model, *rows.take(index), noise[index].to(self.place.device))
        self.place.total(sums.packed)
        return evaluate.conclude(self.model, sums)

    def _learn(self) -> float:
        train, place, rows = self.job.train, self.place, self.splits[shards.TRAIN]
        generator = torch.Generator().manual_seed(train.seed * 1_000_003 + self.progress.epoch & _INT64)
        order = shards.epoch(
            len(rows),
            batch_rows=train.batch_rows,
            seed=train.seed,
            epoch=self.progress.epoch,
            world_size=place.world_size,
            rank=place.rank,
        )
        loss = torch.zeros((), dtype=torch.float64, device=place.device)
        done = 0
        for index, mine in order:
            size = min(train.batch_rows, len(rows) - done)
            noise = self._noise(size, generator)[mine].to(place.device)
            share = place.world_size / size
            batch = rows.take(torch.from_numpy(index))
            loss += fit.step(self.replica, self.adam, *batch, noise, share=share, beta=train.beta)
            done += size
        return self._finite(float(place.total(loss)), "training loss")

    def _finite(self, value: float, what: str) -> float:
        """The value. Raises DataError, the same on every rank, if it is none."""
        if not np.isfinite(value):
            raise DataError(
                f"the {what} became {value} in epoch {self.progress.epoch + 1}",
                cure="lower train.learning_rate, or look for extreme values among the features",
            )
        return value

    def _noise(self, rows: int, generator: torch.Generator) -> Tensor:
        """Standard normal noise of a whole global batch, the same on every rank."""
        return torch.randn(rows, self.job.network.latent, generator=generator)

    def _checkpoint(self, *, last: bool) -> None:
        if self.place.rank > 0 or not (last or time.monotonic() - self.saved_at > CHECKPOINT_EVERY_S):
            return
        self.saved_at = time.monotonic()
        final = self.job.path / "checkpoints" / f"epoch-{self.progress.epoch:05d}"
        partial = final.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        checkpoint.save(self.model, partial)
        save_file(self.best, partial / BEST)
        torch.save(self.adam.state_dict(), partial / STATE)
        (partial / PROGRESS).write_text(json.dumps(asdict(self.progress)))
        checkpoint.seal(partial)
        shutil.rmtree(final, ignore_errors=True)  # a torn one, passed over by `_resume`
        partial.rename(final)
        for older in sorted(final.parent.glob("epoch-?????"))[:-2]:
            shutil.rmtree(older)

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        newest = next(whole_checkpoints(self.job.path), None)
        if newest is not None:
            self.model.load_state_dict(checkpoint.load(newest).state_dict())
            self.best = load_file(newest / BEST, device=str(self.place.device))
            self.adam.load_state_dict(torch.load(newest / STATE, weights_only=True, map_location=self.place.device))
            self.progress = Progress(**json.loads((newest / PROGRESS).read_text()))
        if not self.place.agree(self.progress.epoch):
            raise InfrastructureError(
                "the workers see different checkpoints",
                self.job.directory,
                "put the workspace on storage that every node mounts",
            )


def whole_checkpoints(directory: Path) -> Iterator[Path]:
    """Checkpoints that verify, newest first; a torn one is passed over."""
    for path in sorted((directory / "checkpoints").glob("epoch-?????"), reverse=True):
        try:
            checkpoint.verify(path)
        except checkpoint.CheckpointError:
            continue
        yield path


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
