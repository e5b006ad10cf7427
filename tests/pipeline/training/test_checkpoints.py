"""Checkpoints: whole or not there, the newest few, and all that it takes to go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from pipeline.config import Train
from pipeline.errors import ConfigError
from pipeline.training import checkpoints
from pipeline.training.checkpoints import Progress, Restart, State
from vae import checkpoint, fit
from vae.config import Column, ModelConfig, Network
from vae.model import VAE

CPU = torch.device("cpu")
SETTINGS = {"seed": 1, "hidden": (3,)}


def state(seed: int = 0, *, epoch: int = 0, step: int = 0, restarts: int = 0) -> State:
    """A small model that has made one step of Adam, and so much progress."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = VAE(ModelConfig(columns=(Column(name="x", likelihood="gaussian"),), network=Network(hidden=(3,))))
    adam = fit.optimizer(made.parameters(), learning_rate=0.01)
    sum(it.square().sum() for it in made.parameters()).backward()
    average = fit.Average(made, decay=0.9)
    adam.step()
    return State(
        model=made,
        adam=adam,
        average=average,
        best={name: tensor + 1 for name, tensor in made.state_dict().items()},
        noise=Generator().manual_seed(seed).get_state(),
        progress=progress(epoch, step=step, restarts=restarts),
    )


def progress(epoch: int, *, step: int = 0, restarts: int = 0) -> Progress:
    """So many epochs done, and so many steps of the next."""
    history = [
        {"epoch": float(it), "score": -1.0 / it, "rows_per_s": 9.0, "epoch_s": 1.0, "wait_share": 0.1}
        for it in range(1, epoch + 1)
    ]
    again = [
        Restart(what="loss", epoch=1, step=2, columns=("x",), ids=("7",), resumed=0, learning_rate=0.5)
        for _ in range(restarts)
    ]
    return Progress(epoch=epoch, step=step, loss=step / 3, best_epoch=epoch, restarts=again, history=history)


def saved(folder: Path, *steps: int) -> list[Path]:
    """A checkpoint at each of these steps; what is left of them, oldest first."""
    for step in steps:
        checkpoints.save(folder, state(step=step), SETTINGS)
    return sorted((folder / "checkpoints").iterdir())


def same(one: Any, two: Any) -> bool:
    """Whether two nests of tensors and numbers are equal, to the bit."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else bool(one == two)


def facts(of: State) -> dict[str, Any]:
    """All that a state is."""
    average = of.average.state_dict() if of.average else {}
    return {**vars(of), "average": average, "model": of.model.state_dict(), "adam": of.adam.state_dict()}


def test_what_is_resumed_is_what_was_saved(tmp_path: Path) -> None:
    """Weights, their average, the best ones, the optimizer, the generator and the progress, all to the bit."""
    one, two = state(0, epoch=3, step=48, restarts=1), state(1)
    assert not same(facts(one), facts(two))
    checkpoints.save(tmp_path, one, SETTINGS)
    checkpoints.resume(tmp_path, two, SETTINGS, device=CPU)
    assert same(facts(one), facts(two))


def test_without_a_checkpoint_it_begins(tmp_path: Path) -> None:
    """The state as it is."""
    one, two = state(), state()
    checkpoints.resume(tmp_path, one, SETTINGS, device=CPU)
    assert same(facts(one), facts(two))


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    """Two, so that one is whole whatever happens to the other; after a restart it is not the number of the step."""
    kept = saved(tmp_path, 16, 32, 112, 1040)
    assert [it.name for it in kept] == [f"restart-0-epoch-00000-step-0000{step}" for step in ("0112", "1040")]
    checkpoints.save(tmp_path, state(step=16, restarts=1), SETTINGS)
    assert next(checkpoints.whole(tmp_path)).name == "restart-1-epoch-00000-step-00000016"


@pytest.mark.parametrize("name", ["state.pt", "progress.json", "model.safetensors", "checksums.json"])
def test_a_torn_checkpoint_is_passed_over_with_a_notice(tmp_path: Path, name: str) -> None:
    """The newest checkpoint that verifies counts, not the newest; and its place can be taken again."""
    older, newer = saved(tmp_path, 16, 32)
    (newer / name).write_text("torn")
    heard: list[str] = []
    found = state(1)
    checkpoints.resume(tmp_path, found, SETTINGS, device=CPU, tell=heard.append)
    assert found.progress == progress(0, step=16)
    assert len(heard) == 1
    assert heard[0].startswith(f"passed over a torn checkpoint: {newer}")
    assert saved(tmp_path, 32) == [older, newer]
    assert list(checkpoints.whole(tmp_path)) == [newer, older]


def test_a_checkpoint_begun_and_not_finished_is_none(tmp_path: Path) -> None:
    """What a killed process leaves half written is not seen, and in nobody's way."""
    (whole,) = saved(tmp_path, 16)
    begun = whole.with_name("restart-0-epoch-00000-step-00000099.partial")
    checkpoint.save(state().model, begun)
    assert list(checkpoints.whole(tmp_path)) == [whole]
    saved(tmp_path, 32)
    assert not begun.exists()


def test_a_checkpoint_of_other_settings_or_another_format_is_refused(tmp_path: Path) -> None:
    """By name: it would be the wrong training, or no training at all."""
    (path,) = saved(tmp_path, 16)
    with pytest.raises(ConfigError, match=r"other settings: seed = 1, not 2\n  cure: remove .*checkpoints to train"):
        checkpoints.resume(tmp_path, state(), {**SETTINGS, "seed": 2}, device=CPU)
    plain = json.loads((path / "progress.json").read_text())
    (path / "progress.json").write_text(json.dumps({**plain, "format": 1}))
    checkpoint.seal(path)
    with pytest.raises(ConfigError, match="a checkpoint of format 1, not 2: another version of latentpipe wrote it"):
        checkpoints.resume(tmp_path, state(), SETTINGS, device=CPU)


def test_a_training_ends_with_its_epochs_or_its_patience() -> None:
    """Neither one epoch sooner nor later."""
    train = Train(epochs=10, patience=3)
    assert not Progress(epoch=9, best_epoch=7).exhausted(train)
    assert Progress(epoch=10, best_epoch=10).exhausted(train)
    assert Progress(epoch=9, best_epoch=6).exhausted(train)


def test_times_are_no_part_of_the_story() -> None:
    """Two runs of the same training have everything in common but how long they took."""
    assert progress(2).without_times().history == [{"epoch": 1.0, "score": -1.0}, {"epoch": 2.0, "score": -0.5}]
