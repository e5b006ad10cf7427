"""Where a training is, and going on from there: a checkpoint is whole or not there, and the newest few are kept.

A directory per checkpoint: the weights and the rest of the state, how far it is, the settings, and a hash of each file.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from pipeline.config import Train
from pipeline.disk import storage_errors, sync
from pipeline.errors import ConfigError
from vae import checkpoint, fit
from vae.model import VAE

STATE, PROGRESS = "state.pt", "progress.json"
FORMAT: Final = 2
KEPT: Final = 2
TIMES: Final = ("rows_per_s", "epoch_s", "wait_share")
NAME: Final = "restart-{restarts}-epoch-{epoch:05d}-step-{step:08d}"
"""Of a checkpoint's directory: sorted by name, they are sorted by age."""
Metrics = dict[str, float]
Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Restart:
    """A training that left the finite numbers, and where it began again."""

    what: str
    """What was not finite."""
    epoch: int
    """In which it happened, counted from 1."""
    step: int
    """In that epoch, counted from 1; 0: after all of them."""
    columns: tuple[str, ...]
    """Whose values, or else log-likelihoods, were not finite; empty: none by itself."""
    ids: tuple[str, ...]
    """Of the first rows in question."""
    resumed: int
    """Epochs done by the weights it began again with: the best ones."""
    learning_rate: float
    """From then on."""


@dataclass(kw_only=True)
class Progress:
    """How far a training is."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Steps done in the present epoch."""
    loss: float = 0.0
    """Summed over the rows of those steps and over all ranks."""
    best_epoch: int = 0
    best_score: float = -float("inf")
    """Of the best epoch on the validation rows: the bound, or the fit of a deterministic encoder."""
    halvings: int = 0
    """How often the rows that are worked on at once were halved for want of memory."""
    restarts: list[Restart] = field(default_factory=list)
    history: list[Metrics] = field(default_factory=list)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Progress:
        """Back from `dataclasses.asdict` and JSON."""
        tuples = [{**it, "columns": tuple(it["columns"]), "ids": tuple(it["ids"])} for it in plain["restarts"]]
        return cls(**{**plain, "restarts": [Restart(**it) for it in tuples]})

    def without_times(self) -> Progress:
        """The same, but for what no two runs have in common: so the same training leaves the same files."""
        timeless = [{name: it[name] for name in it if name not in TIMES} for it in self.history]
        return replace(self, history=timeless)

    def told(self) -> dict[str, Any]:
        """What the story says of it: nothing that differs between two runs of the same training."""
        facts = asdict(self.without_times())
        return {name: it for name, it in facts.items() if name not in ("step", "loss")}

    def exhausted(self, train: Train) -> bool:
        """Whether to stop: the last epoch is done, or patience is at an end."""
        return self.epoch >= train.epochs or self.epoch - self.best_epoch >= train.patience

    def restart(self, why: Restart) -> None:
        """Go back to the best epoch."""
        self.restarts.append(why)
        self.epoch, self.step, self.loss = self.best_epoch, 0, 0.0
        del self.history[self.best_epoch :]


@dataclass(kw_only=True)
class State:
    """All that a training is between two steps."""

    model: VAE
    adam: torch.optim.Optimizer
    average: fit.Average | None
    """Of the weights, if they are averaged."""
    best: Weights
    noise: Tensor
    """State of the generator that the epoch's noise comes from."""
    progress: Progress


def save(directory: Path, state: State, settings: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all, to outlive a power cut; keep the newest few."""
    folder, progress = directory / "checkpoints", state.progress
    final = folder / NAME.format(restarts=len(progress.restarts), epoch=progress.epoch, step=progress.step)
    partial = final.with_suffix(".partial")
    with storage_errors(final):
        for left in folder.glob("*.partial"):
            shutil.rmtree(left)
        checkpoint.save(state.model, partial)
        average = state.average.state_dict() if state.average else {}
        rest = {"adam": state.adam.state_dict(), "average": average, "best": state.best, "noise": state.noise}
        torch.save(rest, partial / STATE)
        facts = {"format": FORMAT, "settings": settings, "progress": asdict(progress)}
        (partial / PROGRESS).write_text(json.dumps(facts))
        checkpoint.seal(partial)
        for path in (*partial.iterdir(), partial):
            sync(path)
        shutil.rmtree(final, ignore_errors=True)  # a torn one, passed over by `resume`
        partial.rename(final)
        sync(folder)
        for older in _all(directory)[KEPT:]:
            shutil.rmtree(older)


def resume(
    directory: Path,
    state: State,
    settings: dict[str, Any],
    *,
    device: torch.device,
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Bring a state to that of the newest whole checkpoint; if there is none, leave it. `tell` hears of torn ones.

    Raises ConfigError if the checkpoint is of another format, or of other settings.
    """
    newest = next(whole(directory, tell=tell), None)
    if newest is None:
        return
    facts = json.loads((newest / PROGRESS).read_text())
    _check(newest, facts, settings)
    state.model.load_state_dict(checkpoint.load(newest).state_dict())
    rest = torch.load(newest / STATE, weights_only=True, map_location=device)
    state.adam.load_state_dict(rest["adam"])
    if state.average:
        state.average.load_state_dict(rest["average"])
    state.best, state.noise = rest["best"], rest["noise"].cpu()
    state.progress = Progress.from_plain(facts["progress"])


def _check(path: Path, facts: dict[str, Any], settings: dict[str, Any]) -> None:
    cure = f"remove {path.parent} to train from the start"
    if facts.get("format") != FORMAT:
        written = f"a checkpoint of format {facts.get('format')}, not {FORMAT}"
        raise ConfigError(f"{written}: another version of latentpipe wrote it", str(path), cure)
    then, now = facts["settings"], json.loads(json.dumps(settings))
    others = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    if others:
        told = ", ".join(f"{name} = {then.get(name)}, not {now.get(name)}" for name in others)
        raise ConfigError(f"a checkpoint of a training with other settings: {told}", str(path), cure)


def history(directory: Path) -> list[Metrics]:
    """The epochs that the newest whole checkpoint knows of."""
    newest = next(whole(directory), None)
    if newest is None:
        return []
    return Progress.from_plain(json.loads((newest / PROGRESS).read_text())["progress"]).history


def whole(directory: Path, *, tell: Callable[[str], None] = lambda text: None) -> Iterator[Path]:
    """Checkpoints that verify, newest first; `tell` hears of the torn ones, which are passed over."""
    for path in _all(directory):
        try:
            checkpoint.verify(path)
        except checkpoint.CheckpointError as error:
            tell(f"passed over a torn checkpoint: {error}")
            continue
        yield path


def _all(directory: Path) -> list[Path]:
    """Checkpoints, newest first."""
    pattern = re.sub(r"\{.*?\}", "*", NAME)
    return sorted((it for it in (directory / "checkpoints").glob(pattern) if it.suffix != ".partial"), reverse=True)


def copied(model: torch.nn.Module) -> Weights:
    """The model's weights as they are now."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
