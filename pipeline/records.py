"""What one step tells the next: small frozen facts, JSON-able, never rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """A prepared dataset, published."""

    snapshot: str
    """Directory of the snapshot."""
    key: str
    """Its run key: the same input read the same way, wherever and whenever."""
    content: str
    """sha256 over its rows, in order, as files."""
    digest: str
    """sha256 of its manifest."""
    rows_in: int
    rows: int
    quarantined: int
    notices: tuple[str, ...] = ()
    """What was noticed and did not stop it."""
    new: bool
    """False if the same input had been ingested before and nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training."""

    key: str
    """sha256 over data, model and training settings: the same key is the same training."""
    model: str
    """Directory of the best model, pickle-free and sealed."""
    digest: str
    """sha256 over the model's files."""
    mlflow_run: str
    dataset: str
    """Snapshot it was trained on."""
    epochs: int
    best_epoch: int
    train_rows: int
    test_rows: int
    elbo: float | None
    """Mean over the held-out test rows, nats per row in original units; none if the encoder is deterministic."""
    nll: float | None
    """-log p(x) of the test rows by importance sampling."""
    importance_samples: int
    """Samples per row of `nll`."""
    gain: float | None
    """Nats per row over the rival."""
    rival: str
    """pPCA of the real columns and independence of the others, as far as there are any."""
    log_likelihood: float
    kl: float
    active_units: int
    latent: int
    verdict: str
    rows_per_s: float
    """Steady training speed, rows per second over all workers."""
    startup_s: dict[str, float]
    """Seconds until the first epoch began: fitting the preprocessing (`data`), `mlflow`, `ray`, `workers`, `rows`."""
    new: bool


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The family, measured on one table."""

    table: str
    figure: str
    mlflow_run: str
    """The parent of the members' runs."""
    standings: tuple[dict[str, float | int | str | None], ...]
    """The table's rows; None where a figure is not defined."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A finished search for better settings."""

    key: str
    table: str
    """Path of trials.json."""
    winner: str
    """Path of the TOML with the best trial's settings, for `latentpipe run`."""
    mlflow_run: str
    """The parent of the trials' runs."""
    judged_by: str
    """What the scores are: the ELBO on the validation rows, or what stands for it; of its best epoch, nats per row."""
    best: int
    """Number of the best trial."""
    score: float
    gain: float | None
    """Its score less that of trial 0, the run's own settings; none if those failed."""
    trials: tuple[dict[str, Any], ...]
    """The table's rows."""
    new: bool


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A version in the model registry."""

    name: str
    version: int
    model: str
    """Directory of the version's model files, on this machine."""
    digest: str
    mlflow_run: str
    training_key: str
    champion: bool
    """Whether the alias `champion` points to this version."""
    new: bool


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Latent codes, published."""

    snapshot: str
    key: str
    digest: str
    rows: int
    quarantined: int
    files: int
    bytes: int
    latent: int
    model: str
    """Name/version of the model that made them."""
    drift: str = ""
    """What moved against the training rows: `nothing`, `data`, `model`, `data and model`; empty: not watched."""
    new: bool


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """Low-dimensional coordinates of latent codes, published."""

    snapshot: str
    digest: str
    rows: int
    dims: int
    explained: tuple[float, ...]
    """Share of the latent variance along each principal component."""
    method: str
    fitted_on: str
    """The latents that the reducer was fitted on."""
    applied: bool
    """Whether it was fitted on older latents of the same model than these; plots of both compare."""
    new: bool


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """New rows from the prior, published."""

    snapshot: str
    rows: int
    seed: int
    model: str


@dataclass(frozen=True, kw_only=True)
class Reported:
    """The report of a run."""

    page: str
    """Path of the self-contained HTML page."""
    plots: tuple[str, ...]
    """Paths of its plots, PNG."""
    figures: dict[str, str]
    """What the page's table says."""
