"""The training loop of one rank, in this process: what it learns, how it judges, where it resumes."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import COLUMNS, prepared, story
from torch import Generator, Tensor, nn

from pipeline import report, summary
from pipeline.records import Trained
from pipeline.training import shards, trainer, worker
from pipeline.training.checkpoints import Metrics, Progress
from pipeline.training.job import CPU, Job
from pipeline.training.rows import binarised, resident
from vae import checkpoint, evaluate, objectives, rival
from vae.config import Objective
from vae.evaluate import Evaluation
from vae.model import VAE


def held_out(job: Job, model: VAE) -> tuple[Tensor, Tensor]:
    """The test rows as they are judged."""
    rows = resident(job, CPU)[shards.TEST]
    return binarised(model.config.columns, rows, seed=job.train.seed).take(slice(None))


def recorded(progress: Progress, evaluation: Evaluation) -> Trained:
    """The record of a training, as `train` would write it."""
    figures = ("elbo", "nll", "importance_samples", "gain", "rival", "log_likelihood", "kl", "active_units", "verdict")
    names = dict.fromkeys(("key", "model", "digest", "mlflow_run", "dataset"), "-")
    counts = {"epochs": progress.epoch, "best_epoch": progress.best_epoch, "train_rows": 1, "test_rows": 1, "latent": 2}
    return Trained(
        **names,
        **counts,
        **{name: getattr(evaluation, name) for name in figures},
        rows_per_s=1.0,
        startup_s={},
        new=True,
    )


def test_a_mixed_table_is_judged_in_nats_against_its_rival(tmp_path: Path) -> None:
    """-log p(x) by importance sampling lies below minus the ELBO; the gain is over pPCA on the same rows."""
    job = prepared(tmp_path / "a", network={"prior": "mixture"}, epochs=15, importance_samples=200)
    progress, found = worker.run(job)
    model = checkpoint.load(job.path / "model")
    values, observed = held_out(job, model)
    assert found.elbo is not None
    assert found.nll is not None
    assert found.rival_nll is not None
    assert (found.rows, found.importance_samples) == (len(values), 200)
    assert found.elbo == pytest.approx(found.log_likelihood - found.kl)

    posterior = model.encode(values, observed)
    noise = torch.randn(len(values), 300, 2, generator=Generator().manual_seed(7))
    z = posterior.sample(noise)
    bound = float(objectives.log_weights(model, values, observed, z, posterior).detach().mean())
    assert found.nll <= -bound + 0.02, "the ELBO, over many draws, is the looser bound"
    again = evaluate.judge(model, [(values, observed)], samples=200, seed=job.train.seed)
    assert again.nll == pytest.approx(found.nll, rel=1e-6)

    train = binarised(model.config.columns, resident(job, CPU)[shards.TRAIN], seed=0)
    linear = rival.fit(model.config.columns, train.values, train.observed, latent=2)
    assert found.rival_nll == pytest.approx(-float(linear.log_prob(values, observed).mean()))
    assert found.gain == pytest.approx(found.rival_nll - found.nll)
    assert not model.standard, "the mixture is fitted, and saved with the weights"
    assert [it["epoch"] for it in progress.history] == list(range(1, 16))
    assert progress.history[-1]["score"] > progress.history[0]["score"] + 5
    assert Evaluation.from_plain(story(job)["evaluation"]) == found
    assert len(summary._nats(recorded(progress, found))) == 2
    assert report._nats(found)["nats per row over pPCA and independent columns"] == f"{found.gain:.4f}"


class Interrupted(Exception):
    """Somebody pulled the plug."""


@pytest.mark.parametrize(
    "objective",
    [
        Objective(bound="iwae", draws=3, noise="masking", noise_level=0.2, sparsity="kl", sparsity_weight=0.5),
        Objective(annealing="linear", annealing_epochs=2.5, contraction=0.1, free_bits=0.1),
    ],
    ids=["iwae", "annealed"],
)
def test_a_training_interrupted_is_the_training_in_one_go(tmp_path: Path, objective: Objective) -> None:
    """Noise, weights of the KL and learning rate are functions of seed and epoch: the files are equal to the byte."""

    def pull(metrics: Metrics) -> None:
        if metrics["epoch"] == 2:
            raise Interrupted

    one, two = (
        prepared(tmp_path / name, objective=objective, epochs=4, decay="cosine", checkpoint_s=0) for name in "ab"
    )
    progress, found = worker.run(one)
    with pytest.raises(Interrupted):
        worker.run(two, report=pull)
    resumed, again = worker.run(two)
    assert again == found
    assert resumed.without_times() == progress.without_times()
    assert checkpoint.digest(one.path / "model") == checkpoint.digest(two.path / "model")
    assert progress.best_score == max(it["score"] for it in progress.history)


def test_the_best_epoch_is_chosen_by_the_bound_that_is_trained(tmp_path: Path) -> None:
    """IWAE-k on the validation rows, not the ELBO, which is looser."""
    job = prepared(tmp_path / "a", objective=Objective(bound="iwae", draws=20), epochs=2)
    progress, _ = worker.run(job)
    assert all(it["score"] > it["elbo"] for it in progress.history)


@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_a_deterministic_encoder_has_a_fit_and_no_bound(tmp_path: Path, prior: str) -> None:
    """Where there is no likelihood there is no figure: None, in the files and in what is told, never NaN."""
    job = prepared(tmp_path / "a", network={"encoder": "deterministic", "prior": prior})
    progress, found = worker.run(job)
    assert (found.elbo, found.nll, found.gain, found.kl, found.importance_samples) == (None, None, None, 0, 0)
    assert found.rival_nll is not None
    assert found.score == found.log_likelihood
    assert all("elbo" not in it and it["score"] == it["log_likelihood"] for it in progress.history)
    told = story(job)
    assert (told["evaluation"]["elbo"], told["evaluation"]["nll"]) == (None, None)
    assert Evaluation.from_plain(told["evaluation"]) == found
    (line,) = summary._nats(recorded(progress, found))
    assert line.endswith("a deterministic encoder has no bound")
    assert list(report._nats(found)) == ["reconstruction, E log p(x|z)"]


class Watched(nn.Module):
    """A loss that remembers the rows and the draws that it was given."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss, self.seen = loss, list[tuple[Tensor, Tensor]]()

    def forward(self, values: Tensor, observed: Tensor, noise: Any, beta: float) -> Tensor:
        """The loss itself."""
        self.seen.append((values, noise.binary))
        loss: Tensor = self.loss(values, observed, noise, beta)
        return loss


def test_dynamic_binarisation_draws_in_every_step_and_judges_one_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training is given probabilities and new uniform numbers each time; all epochs judge the same zeros and ones."""
    job = prepared(tmp_path / "a", columns={"ink": COLUMNS["ink"]}, batch_rows=400, epochs=3)
    judged: list[Tensor] = []

    def spy(model: VAE, values: Tensor, observed: Tensor, noise: Tensor) -> evaluate.Sums:
        judged.append(values)
        return tally(model, values, observed, noise)

    tally, watched = evaluate.tally, list[Watched]()
    monkeypatch.setattr(trainer.evaluate, "tally", spy)
    worker.run(job, prepare=lambda loss: watched.append(Watched(loss)) or watched[0])
    (one, first), (two, second), (three, third) = watched[0].seen
    assert first.shape == one.shape
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert torch.equal(one.sort(0).values, three.sort(0).values), "the same probabilities, in another order"
    assert ((two > 0) & (two < 1)).any()
    *validation, test = judged
    assert all(torch.equal(values, validation[0]) for values in validation)
    assert set(torch.cat([validation[0], test]).unique().tolist()) == {0.0, 1.0}
    probabilities = resident(job, CPU)[shards.TEST].values
    assert test.mean() == pytest.approx(float(probabilities.mean()), abs=4 * 0.5 / math.sqrt(test.numel()))


def test_no_samples_no_nll(tmp_path: Path) -> None:
    """train.importance_samples = 0 leaves -log p(x) out; the gain is then that of the ELBO."""
    job = prepared(tmp_path / "a", columns={"height": COLUMNS["height"]}, importance_samples=0, epochs=1)
    progress, found = worker.run(job)
    assert (found.nll, found.importance_samples) == (None, 0)
    assert found.elbo is not None
    assert found.rival_nll is not None
    assert found.gain == pytest.approx(found.rival_nll + found.elbo)
    assert "test NLL, -log p(x)" not in report._nats(found)
    assert len(summary._nats(recorded(progress, found))) == 1
    assert asdict(replace(found, nll=None)) == story(job)["evaluation"] | {
        "kl_per_latent": found.kl_per_latent,
        "variance_per_latent": found.variance_per_latent,
    }
