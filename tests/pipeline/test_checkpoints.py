"""Checkpoints: whole or not there, the newest few, and all that it takes to go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline import checkpoints
from pipeline.checkpoints import Progress
from pipeline.config import Train
from vae import checkpoint, fit
from vae.config import Column, ModelConfig, Network
from vae.model import VAE

CPU = torch.device("cpu")


def model(seed: int = 0) -> tuple[VAE, torch.optim.Optimizer]:
    """A small model that has made one step of Adam."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = VAE(ModelConfig(columns=(Column(name="x", likelihood="gaussian"),), network=Network(hidden=(3,))))
    adam = fit.optimizer(made.parameters(), learning_rate=0.01)
    sum(it.square().sum() for it in made.parameters()).backward()
    adam.step()
    return made, adam


def progress(epoch: int) -> Progress:
    """So many epochs done."""
    history = [
        {"epoch": float(it), "score": -1.0 / it, "rows_per_s": 9.0, "epoch_s": 1.0} for it in range(1, epoch + 1)
    ]
    return Progress(epoch=epoch, best_epoch=epoch, best_score=-1.0 / epoch, history=history)


def same(one: nn.Module, two: nn.Module) -> bool:
    """Whether all weights are equal, to the bit."""
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_what_is_resumed_is_what_was_saved(tmp_path: Path) -> None:
    """Weights, best weights, the optimizer's state and the progress, all to the bit."""
    (made, adam), (best, _), (other, other_adam) = model(0), model(1), model(2)
    checkpoints.save(tmp_path, made, adam, checkpoints.copied(best), progress(3))
    weights, found = checkpoints.resume(tmp_path, other, other_adam, {}, device=CPU)
    assert found == progress(3)
    assert same(made, other)
    assert weights.keys() == best.state_dict().keys()
    assert all(torch.equal(tensor, best.state_dict()[name]) for name, tensor in weights.items())
    for (key, state), (again, other_state) in zip(
        adam.state_dict()["state"].items(), other_adam.state_dict()["state"].items(), strict=True
    ):
        assert key == again
        assert all(torch.equal(state[name], other_state[name]) for name in state)


def test_without_a_checkpoint_it_begins(tmp_path: Path) -> None:
    """The model as it is, and no epoch done."""
    made, adam = model()
    start = checkpoints.copied(made)
    assert checkpoints.resume(tmp_path, made, adam, start, device=CPU) == (start, Progress())


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    """Two, so that one is whole whatever happens to the other."""
    made, adam = model()
    for epoch in (1, 2, 9, 10):
        checkpoints.save(tmp_path, made, adam, {}, progress(epoch))
    assert sorted(it.name for it in (tmp_path / "checkpoints").iterdir()) == ["epoch-00009", "epoch-00010"]


@pytest.mark.parametrize("name", ["state.pt", "progress.json", "best.safetensors", "model.safetensors"])
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, name: str) -> None:
    """The newest checkpoint that verifies counts, not the newest; and its place can be taken again."""
    made, adam = model()
    for epoch in (1, 2):
        checkpoints.save(tmp_path, made, adam, checkpoints.copied(made), progress(epoch))
    (tmp_path / "checkpoints/epoch-00002" / name).write_text("torn")
    assert [it.name for it in checkpoints.whole(tmp_path)] == ["epoch-00001"]
    checkpoints.save(tmp_path, made, adam, checkpoints.copied(made), progress(2))
    assert [it.name for it in checkpoints.whole(tmp_path)] == ["epoch-00002", "epoch-00001"]


def test_a_checkpoint_begun_and_not_finished_is_none(tmp_path: Path) -> None:
    """What a killed process leaves half written is not seen, and in nobody's way."""
    made, adam = model()
    checkpoints.save(tmp_path, made, adam, {}, progress(1))
    begun = tmp_path / "checkpoints/epoch-00002.partial"
    checkpoint.save(made, begun)
    assert [it.name for it in checkpoints.whole(tmp_path)] == ["epoch-00001"]
    checkpoints.save(tmp_path, made, adam, {}, progress(2))
    assert not begun.exists()


def test_a_training_ends_with_its_epochs_or_its_patience() -> None:
    """Neither one epoch sooner nor later."""
    train = Train(epochs=10, patience=3)
    assert not Progress(epoch=9, best_epoch=7).exhausted(train)
    assert Progress(epoch=10, best_epoch=10).exhausted(train)
    assert Progress(epoch=9, best_epoch=6).exhausted(train)


def test_times_are_no_part_of_the_story() -> None:
    """Two runs of the same training have everything in common but how long they took."""
    assert progress(2).without_times().history == [{"epoch": 1.0, "score": -1.0}, {"epoch": 2.0, "score": -0.5}]
