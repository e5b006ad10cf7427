"""compare: the family of autoencoders, PCA and exact rivals on one table, split and budget: one table, one figure."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch

from pipeline import keys, linear, plots, probes, shards, tracking
from pipeline.cluster import ray_session
from pipeline.codec import Codec, Codes
from pipeline.config import RunConfig
from pipeline.features import Features
from pipeline.progress import Stage
from pipeline.records import Compared, Ingested, Trained
from pipeline.storage import storage_errors
from pipeline.train import prepare, train
from pipeline.worker import CPU, STORY, Job, Rows, binarised, load, rows
from vae import latent_class, rival
from vae.config import CATEGORIES, REALS, Column
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
"""What each member changes in [model], and its [objective]."""
Encode = Callable[[pa.Table], Codes]
Sample = Callable[..., pa.StructArray]
PROBED: Final = 5_000
"""Rows of each split that the probes see, at most."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one model did on the test rows; None where a figure is not defined for it."""

    model: str
    nll: float | None = None
    """-log p(x), nats per row: exact, a bound, or importance-sampled, as `nll_is` says."""
    nll_is: str = ""
    elbo: float | None = None
    reconstruction: float | None = None
    """Mean over columns of error / error of the best constant guess."""
    active: int | None = None
    """Active latent dimensions."""
    linear_probe: float | None = None
    """Accuracy (or R^2) of a linear model of the label on the codes."""
    neighbours: float | None = None
    """The same of the nearest neighbours."""
    two_sample: float | None = None
    """Accuracy of telling samples from test rows; 0.5 is best."""
    seconds: float
    """Of training."""

    def probed(self, arena: _Arena, encode: Encode) -> Standing:
        """With the scores of the codes, where a label is named."""
        scores = arena.probes(encode)
        return self if scores is None else replace(self, linear_probe=scores[0], neighbours=scores[1])


def compare(config: RunConfig, ingested: Ingested) -> Compared:
    """Train or fit every member of `compare.family`, measure them all alike, write table and figure; done once."""
    with Stage("compare") as stage:
        key = keys.comparison(config, ingested.key)
        directory = config.root / "compare" / config.name / key[:16]
        if (directory / "compared.json").is_file():
            stage.update("unchanged")
            return _record(directory)
        with storage_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        parent = tracking.open_parent(config, key=key)
        with ray_session(config.cluster, cpus=config.cpus, log=config.ray_log):
            arena = _Arena.of(config, ingested, directory)
            standings = []
            for name in config.compare.family:
                stage.update(name)
                standings.append(_stand(name, arena, parent))
        _write(directory, config, standings)
        figures = {f"{it.model}.{name}": value for it in standings for name, value in _numbers(it).items()}
        tracking.close_parent(config, parent, figures, directory)
        (directory / "compared.json").write_text(json.dumps({"mlflow_run": parent}))
        return _record(directory)


@dataclass(frozen=True)
class _Arena:
    """What all members share: the rows, and the means to measure on them."""

    config: RunConfig
    ingested: Ingested
    features: Features
    columns: tuple[Column, ...]
    train: Rows
    test: Rows
    tables: dict[int, pa.Table]
    """Some of the rows of each split, as a table, for the probes."""

    @classmethod
    def of(cls, config: RunConfig, ingested: Ingested, directory: Path) -> _Arena:
        """Read the dataset, with the preprocessing that every training will fit."""
        job = prepare(config, ingested, directory)
        features = Features.load(directory)
        columns, splits = features.model_columns(), load(job, CPU)
        train, test = (binarised(columns, splits[it], seed=config.train.seed) for it in (shards.TRAIN, shards.TEST))
        return cls(config, ingested, features, columns, train, test, _tables(job))

    def error(self, guess: torch.Tensor) -> float:
        """Reconstruction error of the test rows from model values, over columns, relative to a constant guess."""
        found, start = [], 0
        for feature, column in zip(self.features.layout, self.columns, strict=True):
            span = slice(start, start + column.width)
            start += column.width
            seen = self.test.observed[:, span]
            if seen.any() and feature.spread > 0:
                found.append(_error(feature, guess[:, span], self.test.values[:, span], seen) / feature.spread)
        return float(np.mean(found))

    def probes(self, encode: Encode) -> tuple[float, float] | None:
        """Linear-probe and nearest-neighbour score of the codes, where a label is named."""
        label = self.config.compare.label
        if not label:
            return None
        pairs = []
        for split in (shards.TRAIN, shards.TEST):
            table = self.tables[split].filter(pa.compute.is_valid(self.tables[split].column(label)))
            cells = table.column(label).to_numpy(zero_copy_only=False)
            numeric = cells.dtype.kind in "iuf"
            pairs.append((encode(table).mu, cells.astype(float) if numeric else cells.astype(str)))
        return probes.probe(*pairs, neighbours=self.config.compare.neighbours)

    def two_sample(self, sample: Sample) -> float:
        """Real test rows against as many sampled ones, their cells missing where the real ones' are."""
        values, observed = (part[:PROBED].numpy() for part in (self.test.values, self.test.observed))
        table = pa.Table.from_struct_array(sample(len(values), seed=self.config.train.seed))
        real, fake = (np.where(observed, it, np.nan) for it in (values, self.features.transform(table)[0]))
        coded = [column.likelihood in CATEGORIES for column in self.columns for _ in range(column.width)]
        return probes.two_sample(real, fake, categorical=coded, seed=self.config.train.seed)


def _stand(name: str, arena: _Arena, parent: str) -> Standing:
    if name in FAMILY:
        return _autoencoder(name, arena, parent)
    return _pca(arena) if name == "pca" else _rung(name, arena)


def _autoencoder(name: str, arena: _Arena, parent: str) -> Standing:
    """Train a member as `latentpipe train` would, and measure it."""
    config = member(arena.config, name)
    trained = train(config, arena.ingested)
    tracking.adopt(config, trained.mlflow_run, parent=parent, name=name)
    codec = Codec.load(trained.model)
    judged = Evaluation.from_plain(json.loads((Path(trained.model) / STORY).read_text())["evaluation"])
    with torch.inference_mode():
        guess = torch.cat(
            [
                codec.model.reconstruct(codec.model.encode(*part).mean)
                for part in zip(arena.test.values.split(4096), arena.test.observed.split(4096), strict=True)
            ]
        )
    return Standing(
        model=name,
        nll=judged.nll,
        nll_is=f"{judged.importance_samples} importance samples" if judged.nll is not None else "",
        elbo=judged.elbo,
        reconstruction=arena.error(guess),
        active=judged.active_units,
        two_sample=arena.two_sample(codec.sample),
        seconds=_seconds(trained),
    ).probed(arena, codec.encode)


def member(config: RunConfig, name: str) -> RunConfig:
    """The run's config with the network and the objective of a member of the family."""
    network, objective = FAMILY[name]
    plain = type(config.objective)
    return replace(config, model=replace(config.model, **network), objective=plain(**objective))


def _pca(arena: _Arena) -> Standing:
    started = time.monotonic()
    fitted = linear.fit(arena.features, arena.train.values, arena.train.observed, latent=arena.config.model.latent)
    seconds = time.monotonic() - started
    inputs = linear.embedded(arena.columns, arena.test.values, arena.test.observed)
    guess = fitted.values(fitted.model.reconstruct(fitted.model.encode(inputs)))
    return Standing(
        model="pca",
        reconstruction=arena.error(guess),
        active=fitted.model.weight.shape[1],
        two_sample=arena.two_sample(fitted.sample),
        seconds=seconds,
    ).probed(arena, fitted.encode)


def _rung(name: str, arena: _Arena) -> Standing:
    """A rung of the ladder of exact likelihoods."""
    started = time.monotonic()
    train, test, columns = arena.train, arena.test, arena.columns
    kind = "exact"
    if name in ("marginals", "mixture"):
        classes = 1 if name == "marginals" else arena.config.compare.classes
        classed = latent_class.fit(columns, train.values, train.observed, classes=classes)
        log_prob = classed.log_prob(test.values, test.observed)
    else:
        whole = not any(column.likelihood in REALS for column in columns)
        known, new = train.values, test.values
        if whole:
            kind, generator = "bound, dequantised", torch.Generator().manual_seed(arena.config.train.seed)
            known, new = (rival.dequantise(columns, it, generator=generator) for it in (known, new))
        latent = arena.config.model.latent if name == "ppca" else known.shape[1]
        fitted = rival.fit(columns, known, train.observed, latent=latent, dequantised=whole)
        log_prob = fitted.log_prob(new, test.observed)
    return Standing(model=name, nll=-float(log_prob.mean()), nll_is=kind, seconds=time.monotonic() - started)


def _tables(job: Job) -> dict[int, pa.Table]:
    """The first PROBED rows of the training and the test split."""
    kept: dict[int, list[pa.RecordBatch]] = {shards.TRAIN: [], shards.TEST: []}
    for batch, split in rows(job):
        for kind, found in kept.items():
            room = PROBED - sum(map(len, found))
            if room > 0:
                found.append(batch.filter(pa.array(split == kind)).slice(0, room))
    return {kind: pa.Table.from_batches(found) for kind, found in kept.items()}


def _error(feature: Any, guess: torch.Tensor, true: torch.Tensor, seen: torch.Tensor) -> float:
    """RMSE in the column's units, or the share of wrong codes."""
    if feature.likelihood in CATEGORIES:
        return float((guess.round() != true)[seen].double().mean())
    apart = (feature.units(it.double().numpy()) for it in (guess[seen], true[seen]))
    return float(np.sqrt(np.mean(np.subtract(*apart) ** 2)))


def _seconds(trained: Trained) -> float:
    """Of the epochs themselves, without the start of the workers."""
    return trained.epochs * trained.train_rows / trained.rows_per_s


def _numbers(standing: Standing) -> dict[str, float]:
    return {name: float(it) for name, it in asdict(standing).items() if isinstance(it, int | float)}


def _write(directory: Path, config: RunConfig, standings: Sequence[Standing]) -> None:
    """table.csv, table.md and figure.png."""
    names = [it.name for it in fields(Standing)]
    with (directory / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(map(asdict, standings))
    (directory / "table.md").write_text("\n".join(lines(list(map(asdict, standings)))) + "\n", encoding="utf-8")
    plots.comparison(list(map(asdict, standings)), config.name).savefig(directory / "figure.png")


def lines(standings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table in Markdown, aligned for the terminal too."""
    head = ["model", "NLL", "ELBO", "recon.", "active", "linear", "kNN", "two-sample", "seconds", "NLL is"]
    order = ["nll", "elbo", "reconstruction", "active", "linear_probe", "neighbours", "two_sample", "seconds"]
    digits = {"nll": 3, "elbo": 3, "active": 0, "seconds": 1}
    cells = [
        [str(it["model"]), *(_cell(it[name], digits.get(name, 3)) for name in order), str(it["nll_is"])]
        for it in standings
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    table = [head, ["-" * width for width in widths], *cells]
    return [
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |" for row in table
    ]


def _cell(value: Any, digits: int) -> str:
    return "" if value in (None, "") else f"{float(value):,.{digits}f}"


def _record(directory: Path) -> Compared:
    facts = json.loads((directory / "compared.json").read_text())
    with (directory / "table.csv").open(newline="", encoding="utf-8") as file:
        standings = tuple(csv.DictReader(file))
    return Compared(
        table=str(directory / "table.csv"),
        figure=str(directory / "figure.png"),
        mlflow_run=facts["mlflow_run"],
        standings=standings,
    )
