"""The training loop of one rank, in this process: what it learns, how it judges, where it resumes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rows import cells, column
from torch import Generator, Tensor, nn

from pipeline import feed, report, shards, summary, trainer, worker
from pipeline.checkpoints import Metrics, Progress
from pipeline.columns import ColumnConfig
from pipeline.config import Train
from pipeline.features import fitting
from pipeline.job import Job
from pipeline.records import Trained
from pipeline.worker import STORY
from vae import checkpoint, evaluate, objectives, rival
from vae.config import Network, Objective
from vae.evaluate import Evaluation
from vae.model import VAE

ROWS = 400
COLUMNS = {
    "height": column("float64", "gaussian"),
    "income": column("float64", "log_normal", nullable=False),
    "east": column("float32", "joint_mixture", group="place", components=2),
    "north": column("float32", "joint_mixture", group="place", components=2),
    "visits": column("int64", "poisson"),
    "clicks": column("int32", "negative_binomial", nullable=False),
    "stars": column("uint8", "binomial", levels=6),
    "pixels": column("uint8[4]", "discretised_logistic", levels=16, shape=(2, 2)),
    "ink": column("uint8[4]", "bernoulli", levels=17, binarise="dynamic"),
    "city": column("string", "categorical"),
    "mood": column("string", "ordinal", order=("low", "fine", "high")),
}
"""A mixed table, all of whose columns follow one hidden number."""


def table() -> pa.Table:
    """Rows whose columns know of each other, about a tenth of the nullable cells missing."""
    random = np.random.default_rng(0)
    hidden = random.standard_normal(ROWS)
    shade = np.clip(8 + 3 * hidden[:, None] + random.integers(-2, 3, (ROWS, 4)), 0, 15).astype(int)
    values: dict[str, Any] = {
        "height": 170 + 9 * hidden + random.standard_normal(ROWS),
        "income": np.exp(8 + hidden + 0.2 * random.standard_normal(ROWS)),
        "east": hidden**2 + 0.3 * random.standard_normal(ROWS),
        "north": -2 * hidden + 0.3 * random.standard_normal(ROWS),
        "visits": random.poisson(np.exp(1 + 0.6 * hidden)),
        "clicks": random.poisson(np.exp(2 + hidden)),
        "stars": random.binomial(5, 1 / (1 + np.exp(-2 * hidden))),
        "pixels": shade,
        "ink": 16 - shade,
        "city": np.array(["Rome", "Oslo", "Lima"])[np.digitize(hidden, (-0.5, 0.5))],
        "mood": np.array(["low", "fine", "high"])[np.digitize(hidden, (-0.8, 0.8))],
    }
    missing = random.random((len(COLUMNS), ROWS)) < 0.1
    columns = {
        name: cells(_with_gaps(values[name].tolist(), gaps & kind.nullable), kind.type)
        for (name, kind), gaps in zip(COLUMNS.items(), missing, strict=True)
    }
    return pa.table({"id": pa.array(range(ROWS), pa.int64()), **columns})


def _with_gaps(values: list[Any], gaps: npt.NDArray[np.bool_]) -> list[Any]:
    """Missing in places; a missing vector is one of missing cells, as `ingest` writes it."""
    nothing = [None] * len(values[0]) if isinstance(values[0], list) else None
    return [nothing if gap else value for value, gap in zip(values, gaps, strict=True)]


def prepared(
    folder: Path,
    *,
    objective: Objective | None = None,
    columns: dict[str, ColumnConfig] = COLUMNS,
    network: dict[str, Any] | None = None,
    **train: Any,
) -> Job:
    """A job in a new folder, its preprocessing fitted on the training rows, its table in two files."""
    rows = table().select(["id", *columns])
    split = shards.splits(rows.column("id").combine_chunks(), validation=0.2, test=0.2)
    folder.mkdir()
    parts = [folder / f"part-{number}.parquet" for number in range(2)]
    for number, part in enumerate(parts):
        pq.write_table(rows.slice(number * 250, 250), part)
    fitting.fit(rows.filter(pa.array(split == shards.TRAIN)).to_batches(), columns).save(folder)
    return Job(
        directory=str(folder),
        parts=tuple(map(str, parts)),
        id_column="id",
        validation=0.2,
        test=0.2,
        network=Network(**{"latent": 2, "hidden": (24,), "prior_components": 4, **(network or {})}),
        objective=objective or Objective(),
        train=Train(**{"epochs": 3, "batch_rows": 64, "learning_rate": 0.01, "num_workers": 1, **train}),
    )


def held_out(job: Job, model: VAE) -> tuple[Tensor, Tensor]:
    """The test rows as they are judged."""
    rows = feed.load(job, torch.device("cpu"))[shards.TEST]
    return feed.binarised(model.config.columns, rows, seed=job.train.seed).take(slice(None))


def story(job: Job) -> dict[str, Any]:
    """What `training.json` says, as strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    plain: dict[str, Any] = json.loads((job.path / "model" / STORY).read_text(), parse_constant=refuse)
    return plain


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

    train = feed.binarised(model.config.columns, feed.load(job, torch.device("cpu"))[shards.TRAIN], seed=0)
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
def test_a_training_interrupted_is_the_training_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: Objective
) -> None:
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
    probabilities = feed.load(job, torch.device("cpu"))[shards.TEST].values
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
