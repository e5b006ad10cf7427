"""What is made of a table by a model, and judged and drawn of it: [encode], [drift], [reduce] and [report]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from vae.config import FORBID_EXTRA, Bounds, Count, Network, Positive, check

EVIDENCE = {
    "z": "draws",
    "elbo": "elbo",
    "nll": "importance_samples",
    "elbo_percentile": "percentile",
    "error_percentile": "percentile",
    "recon_error": "errors",
    "worst": "worst",
    "imputed": "imputed",
}
"""Columns by choice, and the settings of [encode] that ask for them; see pipeline.evidence."""


@dataclass(frozen=True, kw_only=True)
class Encode:
    """How latent codes are computed and written."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    alias: str = "champion"
    """Alias of the registered model to use, resolved once per run."""
    num_workers: Positive = 2
    """Threads of this process or, for larger tables, Ray Data actors; each reads, encodes and writes unit by unit."""
    use_gpu: bool = False
    """One GPU per worker, which is then an actor."""
    unit_mb: Positive = 64
    """Uncompressed bytes of a unit of work; larger files are cut between row groups."""
    local_mb: Count = 4096
    """Up to so many uncompressed bytes this process does the work itself; beyond, with `use_gpu` or with an address of
    a cluster, Ray does. 0: always Ray."""
    reconstruct: bool = True
    """Also write the reconstruction from E[z | x], in the input's names, types and units."""
    elbo: bool = True
    """Also write each row's evidence lower bound, nats in original units; stochastic encoders only. Costs, as measured
    in tests/bench/results/evidence.md, about a quarter of the throughput and 3 bytes a row."""
    percentile: bool = True
    """Also write where the row's ELBO and its total error lie among those of training rows, 0 to 100. Costs two fifths
    of the throughput, of which it shares with `elbo` and `worst`: all three cost less than half; and 7 bytes a row."""
    worst: bool = True
    """Also name the three columns that are reconstructed worst, by error in units of the training rows' usual one.
    Costs a quarter of the throughput and 12 bytes a row."""
    errors: bool = False
    """Also write the reconstruction's error in each column, in its own units. Costs a third of the throughput and up to
    4 bytes a column and row."""
    importance_samples: Count = 0
    """Also write each row's -log p(x) by so many importance samples; 0: not. Stochastic encoders only. 16 of them leave
    a fifth to a tenth of the throughput, 100 a twentieth or less; 3 bytes a row."""
    draws: Count = 0
    """Also write so many posterior draws `z` of each row, drawn by its id; 0: not. Stochastic encoders only. 8 cost a
    third of the throughput; each 3.4 bytes a row and latent dimension."""
    imputed: Count = 0
    """Also write what cells that were missing may hold, and how sure that is, by so many posterior draws; 0: not. Costs
    nothing where no cell is missing; 16 leave a fourteenth of the throughput where nearly every row misses some."""

    def __post_init__(self) -> None:
        check(self)

    def suit(self, network: Network) -> None:
        """Raise ValueError for draws of what a deterministic encoder has not; `elbo` it just leaves out."""
        for name in ("draws", "importance_samples"):
            if getattr(self, name) and network.encoder == "deterministic":
                raise ValueError(
                    f"encode.{name} = {getattr(self, name)} with encoder = 'deterministic': one code a row"
                )


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How encoded rows are compared with those the model was trained on."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    watch: bool = True
    """Whether to; some 65,536 rows are looked at."""
    false_alarms: Annotated[float, Bounds(ge=0.001, le=0.5)] = 0.01
    """Share of encodes in which chance alone may be called drift."""
    least: Annotated[float, Bounds(ge=0)] = 0.02
    """Smallest move that counts: a share of rows, or of the training rows' mean distance from their median."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Reduce:
    """How latent codes are reduced for plots."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    dims: Annotated[int, Bounds(ge=1, le=3)] = 2
    """Coordinates of a row."""
    method: Literal["pca", "umap"] = "pca"
    """pca: principal components; umap: the neighbourhoods (McInnes et al. 2018), beside the principal components."""
    reuse: Literal["auto", "fit"] = "auto"
    """auto: codes of the same model are placed by the standing reducer, so that plots compare; fit: by a new one."""
    neighbours: Annotated[int, Bounds(ge=2, le=200)] = 15
    """Of a row in umap: few show detail, many the whole."""
    min_dist: Annotated[float, Bounds(ge=0, le=1)] = 0.1
    """How close umap may lay rows together."""
    sample: Annotated[int, Bounds(ge=100, le=100_000)] = 10_000
    """Rows that umap is fitted on, at most; the others are placed among them."""
    seed: Count = 0
    """Of umap."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the report shows."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    colour_by: str = ""
    """Feature or passthrough column that colours the scatter plot; empty: none."""
