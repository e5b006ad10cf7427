"""How far a training is, kept on disk: the newest whole checkpoint is where an interrupted training goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config import Train
from vae import checkpoint
from vae.model import VAE

BEST, STATE, PROGRESS = "best.safetensors", "state.pt", "progress.json"
KEPT: Final = 2
TIMES: Final = ("rows_per_s", "epoch_s")
Metrics = dict[str, float]
Weights = dict[str, Tensor]


@dataclass(kw_only=True)
class Progress:
    """How far a training is."""

    epoch: int = 0
    """Epochs done."""
    best_epoch: int = 0
    best_score: float = -float("inf")
    """Of the best epoch on the validation rows: the bound, or the fit of a deterministic encoder."""
    history: list[Metrics] = field(default_factory=list)

    def without_times(self) -> Progress:
        """The same, but for what no two runs have in common: so the same training leaves the same files."""
        timeless = [{name: it[name] for name in it if name not in TIMES} for it in self.history]
        return replace(self, history=timeless)

    def exhausted(self, train: Train) -> bool:
        """Whether to stop: the last epoch is done, or patience is at an end."""
        return self.epoch >= train.epochs or self.epoch - self.best_epoch >= train.patience


def save(directory: Path, model: VAE, adam: torch.optim.Optimizer, best: Weights, progress: Progress) -> None:
    """Write a checkpoint of this epoch, whole or not at all; keep the newest few."""
    final = directory / "checkpoints" / f"epoch-{progress.epoch:05d}"
    partial = final.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    checkpoint.save(model, partial)
    save_file(best, partial / BEST)
    torch.save(adam.state_dict(), partial / STATE)
    (partial / PROGRESS).write_text(json.dumps(asdict(progress)))
    checkpoint.seal(partial)
    shutil.rmtree(final, ignore_errors=True)  # a torn one, passed over by `resume`
    partial.rename(final)
    for older in sorted(final.parent.glob("epoch-?????"))[:-KEPT]:
        shutil.rmtree(older)


def resume(
    directory: Path, model: VAE, adam: torch.optim.Optimizer, best: Weights, *, device: torch.device
) -> tuple[Weights, Progress]:
    """Bring model and optimizer to the newest whole checkpoint; its best weights and progress, or those of a start."""
    newest = next(whole(directory), None)
    if newest is None:
        return best, Progress()
    model.load_state_dict(checkpoint.load(newest).state_dict())
    adam.load_state_dict(torch.load(newest / STATE, weights_only=True, map_location=device))
    return load_file(newest / BEST, device=str(device)), Progress(**json.loads((newest / PROGRESS).read_text()))


def history(directory: Path) -> list[Metrics]:
    """The epochs that the newest whole checkpoint knows of."""
    newest = next(whole(directory), None)
    return [] if newest is None else Progress(**json.loads((newest / PROGRESS).read_text())).history


def whole(directory: Path) -> Iterator[Path]:
    """Checkpoints that verify, newest first; a torn one is passed over."""
    for path in sorted((directory / "checkpoints").glob("epoch-?????"), reverse=True):
        try:
            checkpoint.verify(path)
        except checkpoint.CheckpointError:
            continue
        yield path


def copied(model: torch.nn.Module) -> Weights:
    """The model's weights as they are now."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
