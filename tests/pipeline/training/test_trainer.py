"""A training that is killed, runs out of numbers, or out of memory: what it does, and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from harness import ROOT
from jobs import COLUMNS, prepared, story
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from pipeline.errors import ConfigError, DataError
from pipeline.features import Features
from pipeline.training import checkpoints, culprits, rows, shards, worker
from pipeline.training.culprits import Culprits
from pipeline.training.feed import Batch, Feed
from pipeline.training.job import ALONE, CPU, Job
from vae import checkpoint, noise
from vae.checkpoint import WEIGHTS
from vae.config import ModelConfig, Objective
from vae.model import VAE


class Meddled(nn.Module):
    """A loss that something is done to before every call: it is given the number of the call, and the values."""

    def __init__(self, loss: nn.Module, meddle: Callable[[int, Tensor], Tensor]) -> None:
        super().__init__()
        self.loss, self.meddle, self.calls = loss, meddle, 0

    def forward(self, values: Tensor, observed: Tensor, drawn: noise.Noise, beta: float) -> Tensor:
        """The loss itself, if it comes to that."""
        self.calls += 1
        loss: Tensor = self.loss(self.meddle(self.calls, values), observed, drawn, beta)
        return loss


def weights(job: Job) -> dict[str, Tensor]:
    """Of the model that was left."""
    return load_file(job.path / "model" / WEIGHTS)


class Interrupted(Exception):
    """Somebody pulled the plug."""


FEW = {name: COLUMNS[name] for name in ("height", "ink", "city")}
ALL = {
    "objective": Objective(noise="masking", noise_level=0.2, annealing="cyclical", annealing_epochs=1.5),
    "columns": FEW,
    "epochs": 2,
    "batch_rows": 6,
    "decay": "cosine",
    "warmup_epochs": 1.5,
    "clip_norm": 1.0,
    "ema": 0.9,
    "checkpoint_s": 0,
}
"""Settings that leave no part of a training's state unused; about 40 steps in an epoch."""


def test_a_training_interrupted_in_mid_epoch_is_the_training_in_one_go(tmp_path: Path) -> None:
    """It goes on from the last window of steps, repeats none of those before, and leaves the same files."""
    whole, through = prepared(tmp_path / "whole", **ALL), list[Meddled]()
    _, expected = worker.run(whole, prepare=lambda loss: _watched(loss, through))
    steps = through[0].calls // 2
    for call, left in ((9, 0), (37, 32), (steps + 5, steps), (steps + 20, steps + 16)):

        def pull(number: int, values: Tensor, last: int = call) -> Tensor:
            if number == last:
                raise Interrupted
            return values

        job, again = prepared(tmp_path / str(call), **ALL), list[Meddled]()
        with pytest.raises(Interrupted):
            worker.run(job, prepare=lambda loss, pull=pull: Meddled(loss, pull))
        _, found = worker.run(job, prepare=lambda loss, again=again: _watched(loss, again))
        assert through[0].calls - again[0].calls == left
        assert found == expected
        assert story(job) == story(whole)
        assert checkpoint.digest(job.path / "model") == checkpoint.digest(whole.path / "model")


def _watched(loss: nn.Module, seen: list[Meddled]) -> nn.Module:
    seen.append(Meddled(loss, lambda call, values: values))
    return seen[0]


@pytest.mark.parametrize(("kills", "ranks"), [(4, 1), (0, 2)])
def test_a_training_killed_again_and_again_has_the_bits_of_one_that_was_not(kills: int, ranks: int) -> None:
    """SIGKILL at random moments and while a checkpoint is written; and every rank stops at the same epoch."""
    command = [sys.executable, "tests/faults/train_kills.py", "--kills", str(kills), "--ranks", str(ranks)]
    ended = subprocess.run(command, cwd=ROOT, env=_environment(), text=True, capture_output=True, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert (told["kills"], told["equal"], told["alike"], told["bit_seen"]) == (kills, told["trainings"], True, True)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def poisoned(job: Job, *calls: int, tell: Callable[[str], None] = lambda text: None) -> checkpoints.Progress:
    """The training, where the loss of the batch of these calls is no number."""

    def poison(call: int, values: Tensor) -> Tensor:
        height, rest = values.split([1, values.shape[1] - 1], 1)
        return torch.cat([height * (float("nan") if call in calls else 1), rest], 1)

    return worker.run(job, prepare=lambda loss: Meddled(loss, poison), tell=tell)[0]


def test_a_loss_that_is_no_number_goes_back_to_the_best_weights_with_half_the_rate(tmp_path: Path) -> None:
    """It says so, notes it in the story, and is the same training every time."""
    one, two = (prepared(tmp_path / name, columns=FEW, batch_rows=6, epochs=4) for name in "ab")
    said: list[str] = []
    progress = poisoned(one, 90, tell=said.append)
    steps = -(-story(one)["rows"]["train"] // 6)
    (why,) = progress.restarts
    assert (why.what, why.epoch, why.step) == ("training loss", 90 // steps + 1, 90 % steps)
    assert (why.resumed, why.learning_rate) == (2, 0.005)
    assert [it["learning_rate"] for it in progress.history] == [0.01, 0.01, 0.005, 0.005]
    assert [it["epoch"] for it in progress.history] == [1, 2, 3, 4]
    told = story(one)["restarts"][0]
    assert (told["columns"], len(told["ids"])) == ([], 6)
    assert said == [
        f"the training loss was not finite in epoch 3, step {why.step}, at learning rate 0.01: no column by itself; "
        f"ids {', '.join(why.ids)}; again from epoch 2 at half the rate"
    ]
    assert set(map(int, why.ids)) <= set(range(400))
    poisoned(two, 90)
    assert checkpoint.digest(one.path / "model") == checkpoint.digest(two.path / "model")


def test_a_third_time_is_an_error(tmp_path: Path) -> None:
    """With the step, the columns, the ids and the cure; secret ids are not shown."""
    job = replace(prepared(tmp_path / "a", batch_rows=6), secret_ids=True)
    message = r"epoch 1, step 1, at learning rate 0.0025: .* ids \*{3}, .* after 2 restarts\n  cure: lower train.learn"
    with pytest.raises(DataError, match=message):
        poisoned(job, 1, 17, 33)


def test_a_net_that_explodes_is_an_error_that_names_its_columns(tmp_path: Path) -> None:
    """Nothing is simulated: forty layers, and a step size for none."""
    wild = prepared(tmp_path / "a", network={"hidden": (64,) * 40, "activation": "relu"}, learning_rate=1.0, epochs=50)
    with pytest.raises(DataError, match=r"was not finite in epoch 1, step \d+, .* columns height, income.*; ids \d+, "):
        worker.run(wild)


def test_the_culprits_are_the_columns_and_rows_that_are_not_finite(tmp_path: Path) -> None:
    """By their numbers, and by the ids that the table has there; those of all ranks are joined."""
    job = prepared(tmp_path / "a")
    columns = Features.load(job.path).model_columns()
    model = VAE(ModelConfig(columns=columns, network=job.network))
    train = rows.resident(job, CPU)[shards.TRAIN]
    batch = next(iter(Feed(train, batch_rows=64, seed=0, place=ALONE).batches(0)))
    drawn = noise.draw(Objective(), model.columns, rows=64, latent=2, generator=Generator().manual_seed(0))
    assert Culprits.of(model, batch, drawn).columns == ()
    values = batch.values.clone()
    values[[3, 40], 1] = float("nan")
    sick = Batch(values, batch.observed | True, batch.places, batch.size, batch.numbers)
    found = Culprits.of(model, sick, drawn)
    assert [columns[it].name for it in found.columns] == ["income"]
    assert found.numbers == tuple(sorted(batch.numbers[[3, 40]]))
    ids = [int(it) for it in culprits.ids(job, found.numbers)]
    kept = [part.column("id").filter(pa.array(split == shards.TRAIN)) for part, split in rows.read(job)]
    told = [id_ for column in kept for id_ in column.to_pylist()]
    assert ids == [told[number] for number in found.numbers]
    with torch.no_grad():
        model.decoder.head.bias[0] = float("nan")
    broken = Culprits.of(model, batch, drawn)
    assert [columns[it].name for it in broken.columns] == ["height"]
    assert broken.numbers == tuple(sorted(batch.numbers[batch.observed[:, 0].numpy()]))
    healthy = Culprits(numbers=(1, 2))
    assert Culprits.joined([healthy, Culprits.from_plain(found.to_plain())]).numbers == found.numbers


def greedy(most: int) -> Callable[[nn.Module], nn.Module]:
    """A loss that has memory for so many rows."""

    def take(call: int, values: Tensor) -> Tensor:
        if len(values) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return values

    return lambda loss: Meddled(loss, take)


def test_a_batch_without_room_is_worked_on_in_pieces(tmp_path: Path) -> None:
    """Halved as often as needed, then for good: the same weights up to rounding, and a line in the story."""
    one, two = (prepared(tmp_path / name, epochs=1, columns={"height": COLUMNS["height"]}) for name in "ab")
    said: list[str] = []
    worker.run(one)
    progress, _ = worker.run(two, prepare=greedy(20), tell=said.append)
    assert progress.halvings == story(two)["halvings"] == 2
    assert said == [f"out of memory: from here on each batch in {pieces} pieces" for pieces in (2, 4)]
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_a_batch_with_no_room_in_any_pieces_is_a_clear_error(tmp_path: Path) -> None:
    """After four halvings; at once if a penalty must see the batch as a whole."""
    with pytest.raises(ConfigError, match=r"even 1/16 of a batch of 64 rows takes more memory than there is\n  cure"):
        worker.run(prepared(tmp_path / "a"), prepare=greedy(3))
    whole = prepared(tmp_path / "b", objective=Objective(sparsity="kl", sparsity_weight=0.5))
    with pytest.raises(ConfigError, match="sparsity = 'kl' needs it whole"):
        worker.run(whole, prepare=greedy(20))


def test_the_rate_rises_by_steps_and_falls_by_epochs(tmp_path: Path) -> None:
    """The history has the rate of each epoch's last step."""
    progress, _ = worker.run(prepared(tmp_path / "a", epochs=4, warmup_epochs=2, decay="cosine"))
    rates = [it["learning_rate"] for it in progress.history]
    assert rates == pytest.approx([0.005, 0.01 * 0.853553, 0.01 * 0.5, 0.01 * 0.146447], rel=1e-5)


def test_averaged_weights_are_what_is_judged_and_left(tmp_path: Path) -> None:
    """The steps are those of a training without; its weights are their average."""
    seen: dict[str, list[Meddled]] = {"a": [], "b": []}
    one, two = (prepared(tmp_path / name, epochs=1, ema=ema) for name, ema in (("a", 0.0), ("b", 0.5)))
    plain, _ = worker.run(one, prepare=lambda loss: _watched(loss, seen["a"]))
    averaged, _ = worker.run(two, prepare=lambda loss: _watched(loss, seen["b"]))
    assert plain.history[0]["train_loss"] == averaged.history[0]["train_loss"]
    assert plain.history[0]["score"] != averaged.history[0]["score"]
    assert any(not torch.equal(tensor, weights(two)[name]) for name, tensor in weights(one).items())


def test_the_history_says_how_long_the_loop_waited(tmp_path: Path) -> None:
    """A share of the epoch's time; it is no part of the story, which does not depend on time."""
    job = prepared(tmp_path / "a", epochs=2)
    progress, _ = worker.run(job)
    assert all(0 <= it["wait_share"] < 1 for it in progress.history)
    assert all("wait_share" not in it for it in story(job)["history"])
