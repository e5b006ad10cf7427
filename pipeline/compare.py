"""compare: the family of autoencoders, PCA and a ladder of likelihoods on one table: one table, one figure."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import torch

from pipeline import keys, linear, plots, tables
from pipeline.arena import Arena
from pipeline.cluster import ray_session
from pipeline.codec import Codec
from pipeline.config import RunConfig
from pipeline.disk import storage_errors
from pipeline.progress import Stage
from pipeline.records import Compared, Ingested, Trained
from pipeline.tracking.runs import ComparisonRun
from pipeline.train import prepare, train
from pipeline.training.worker import STORY
from vae import latent_class, rival
from vae.config import COUNTS, REALS, Objective
from vae.evaluate import Evaluation

AUTOENCODER: Final = {"encoder": "deterministic", "prior": "mixture"}
"""A deterministic encoder can be sampled through a mixture fitted to its codes (Ghosh et al. 2020)."""
FAMILY: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "undercomplete": (AUTOENCODER, {}),
    "sparse": (AUTOENCODER, {"sparsity": "l1", "sparsity_weight": 0.1}),
    "contractive": (AUTOENCODER, {"contraction": 0.1}),
    "denoising": (AUTOENCODER, {"noise": "masking", "noise_level": 0.25}),
    "vae": ({"encoder": "stochastic"}, {}),
    "beta_vae": ({"encoder": "stochastic"}, {"beta": 4.0}),
    "iwae": ({"encoder": "stochastic"}, {"bound": "iwae", "draws": 5}),
}
"""What each member changes in [model], and its [objective]; the run's own is not used."""
DONE: Final = "compared.json"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one model did on the test rows; None where a figure is not defined for it."""

    model: str
    nll: float | None = None
    """-log p(x), nats per row: exact, a bound, or importance-sampled, as `nll_is` says."""
    elbo: float | None = None
    reconstruction: float | None = None
    """Mean over columns of error / error of the best constant guess."""
    active: int | None = None
    """Latent dimensions with Var(E[z_i | x]) > 0.01, of models whose codes have a scale."""
    linear: float | None = None
    """Accuracy (or R^2) of a linear model of the label on the codes."""
    knn: float | None = None
    """The same of the nearest neighbours."""
    two_sample: float | None = None
    """Accuracy of telling samples from test rows; 0.5 is best."""
    seconds: float
    """Of the gradient steps, or of fitting."""
    nll_is: str = ""


def compare(config: RunConfig, ingested: Ingested) -> Compared:
    """Train or fit every member of `compare.family`, measure them all alike, write table and figure; done once."""
    config = replace(config, objective=Objective())
    with Stage("compare") as stage:
        key = keys.comparison(config, ingested.content)
        directory = config.root / "compare" / config.name / key[:16]
        if (directory / DONE).is_file():
            stage.update("unchanged")
            return _record(directory)
        with storage_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        arena = Arena.of(config, prepare(config, ingested, directory))
        with ComparisonRun.open(config, key=key) as run:
            with ray_session(config.cluster, cpus=config.cpus, log=config.ray_log):
                standings = []
                for name in config.compare.family:
                    stage.update(name)
                    standings.append(_stand(name, arena, ingested, run))
            _write(directory, config.name, arena.caption(), standings)
            figures = {f"{it.model}.{name}": value for it in standings for name, value in _numbers(it).items()}
            run.finish(figures, directory)
        _conclude(directory, {"mlflow_run": run.id, "standings": [asdict(it) for it in standings]})
        return _record(directory)


def member(config: RunConfig, name: str) -> RunConfig:
    """The run's config with the network and the objective of a member of the family."""
    network, objective = FAMILY[name]
    return replace(config, model=replace(config.model, **network), objective=Objective(**objective))


def _stand(name: str, arena: Arena, ingested: Ingested, run: ComparisonRun) -> Standing:
    if name in FAMILY:
        return _autoencoder(name, arena, ingested, run)
    return _pca(arena) if name == "pca" else _rung(name, arena)


def _autoencoder(name: str, arena: Arena, ingested: Ingested, run: ComparisonRun) -> Standing:
    """Train a member as `latentpipe train` would, and measure it."""
    trained = train(member(arena.config, name), ingested)
    run.adopt(trained.mlflow_run, name=name)
    codec = Codec.load(trained.model)
    judged = Evaluation.from_plain(json.loads((Path(trained.model) / STORY).read_text())["evaluation"])
    linear_score, knn = arena.probe(codec.encode)
    return Standing(
        model=name,
        nll=judged.nll,
        nll_is=f"{judged.importance_samples} importance samples" if judged.nll is not None else "",
        elbo=judged.elbo,
        reconstruction=arena.error(_reconstructed(codec, arena)),
        active=judged.active_units if codec.model.stochastic else None,
        linear=linear_score,
        knn=knn,
        two_sample=arena.two_sample(codec.sample),
        seconds=_seconds(trained),
    )


@torch.inference_mode()
def _reconstructed(codec: Codec, arena: Arena) -> torch.Tensor:
    """The test rows as model values, from E[z | x]."""
    model, parts = codec.model, zip(arena.test.values.split(4096), arena.test.observed.split(4096), strict=True)
    return torch.cat([model.reconstruct(model.encode(*part).mean) for part in parts])


def _pca(arena: Arena) -> Standing:
    started = time.monotonic()
    fitted = linear.fit(arena.features, arena.train.values, arena.train.observed, latent=arena.config.model.latent)
    seconds = time.monotonic() - started
    codes = fitted.model.encode(linear.embedded(arena.columns, arena.test.values, arena.test.observed))
    linear_score, knn = arena.probe(fitted.encode)
    return Standing(
        model="pca",
        reconstruction=arena.error(fitted.values(fitted.model.reconstruct(codes))),
        active=int((codes.var(0, correction=0) > 0.01).sum()),
        linear=linear_score,
        knn=knn,
        two_sample=arena.two_sample(fitted.sample),
        seconds=seconds,
    )


def _rung(name: str, arena: Arena) -> Standing:
    """A rung of the ladder of likelihoods that need no neural network."""
    if name in ("marginals", "mixture"):
        return _classes(name, arena)
    train, test, columns = arena.train, arena.test, arena.columns
    whole = not any(column.likelihood in REALS for column in columns)
    known, new = train.values, test.values
    if whole:
        generator = torch.Generator().manual_seed(arena.config.train.seed)
        known, new = (rival.dequantise(columns, it, generator=generator) for it in (known, new))
    started = time.monotonic()
    latent = arena.config.model.latent if name == "ppca" else known.shape[1]
    fitted = rival.fit(columns, known, train.observed, latent=latent, dequantised=whole)
    seconds = time.monotonic() - started
    bound = whole and any(column.likelihood != "categorical" for column in columns)
    nll = -float(fitted.log_prob(new, test.observed).mean())
    return Standing(model=name, nll=nll, nll_is="bound, dequantised" if bound else "exact", seconds=seconds)


def _classes(name: str, arena: Arena) -> Standing:
    """Independent columns, or a mixture of such."""
    started = time.monotonic()
    classes = 1 if name == "marginals" else arena.config.compare.classes
    fitted = latent_class.fit(arena.columns, arena.train.values, arena.train.observed, classes=classes)
    seconds = time.monotonic() - started
    counted = any(column.likelihood in COUNTS for column in arena.columns)
    nll = -float(fitted.log_prob(arena.test.values, arena.test.observed).mean())
    return Standing(model=name, nll=nll, nll_is="exact, counts Poisson" if counted else "exact", seconds=seconds)


def _seconds(trained: Trained) -> float:
    return trained.epochs * trained.train_rows / trained.rows_per_s


def _numbers(standing: Standing) -> dict[str, float]:
    return {name: float(it) for name, it in asdict(standing).items() if isinstance(it, int | float)}


def _write(directory: Path, name: str, caption: str, standings: Sequence[Standing]) -> None:
    """table.csv, table.md and figure.png."""
    rows = [asdict(it) for it in standings]
    with (directory / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [it.name for it in fields(Standing)])
        writer.writeheader()
        writer.writerows(rows)
    (directory / "table.md").write_text("\n".join([*tables.lines(rows), "", caption]) + "\n", encoding="utf-8")
    plots.comparison(rows, f"{name}: {caption}").savefig(directory / "figure.png")


def _conclude(directory: Path, facts: dict[str, Any]) -> None:
    """Written last: it makes the comparison done."""
    partial = directory / f"{DONE}.partial"
    partial.write_text(json.dumps(facts, indent=1))
    partial.rename(directory / DONE)


def _record(directory: Path) -> Compared:
    facts = json.loads((directory / DONE).read_text())
    return Compared(
        table=str(directory / "table.md"),
        figure=str(directory / "figure.png"),
        mlflow_run=facts["mlflow_run"],
        standings=tuple(facts["standings"]),
    )
