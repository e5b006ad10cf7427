"""The run's configuration: every key with a default, bounds and a meaning.

The same dataclasses validate a TOML file (`runfile`) and a Prefect flow's parameters, and document the flow's form.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pipeline.columns import ColumnConfig
from vae.config import FORBID_EXTRA, Bounds, Count, Network, Objective, Positive, check

MemberName = Literal[
    "marginals",
    "gaussian",
    "ppca",
    "mixture",
    "pca",
    "undercomplete",
    "sparse",
    "contractive",
    "denoising",
    "vae",
    "beta_vae",
    "iwae",
]
Share = Annotated[float, Bounds(gt=0, le=0.5)]
Settings = dict[str, Any]
ROW_ID = "row_id"
"""Id of a table without one: the running number of the row."""
RESERVED = ("mu", "logvar", "recon", "model_version")
"""Columns of every latents file; see pipeline.latents."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the rows come from and how to read them."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    uri: str
    """A file, a folder or a glob, local or of a store (`s3://`, `gs://`, `file://`); a SQLAlchemy URL, with `query`;
    or `sklearn:digits`. A store's key is written as it is, not percent-encoded; its settings follow a `?`, such as
    `s3://bucket/key?region=eu-central-1`; its credentials come from the environment alone."""
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "ipc", "npy"] = "auto"
    """How to read it; `auto` goes by the file name's suffix."""
    query: str = ""
    """SQL that selects the rows; `uri` is then the database's URL, its password left to the driver's environment.
    With an ORDER BY the same rows are the same input."""
    partitioning: Literal["none", "hive"] = "none"
    """hive: folders named `key=value` are columns."""
    follow_symlinks: bool = False
    """Whether links are followed, as long as they stay inside the source's folder; if not, a link is an error."""
    encoding: str = "utf-8"
    """Of text; `utf-8`, `utf-16`, `latin-1` or any other that Python knows. A BOM is stripped."""
    decimal: str = "."
    """Decimal mark of numbers in text."""
    time_zone: str = ""
    """Of timestamps that carry none, such as `Europe/Zurich`; empty: those are refused."""
    delimiter: str = ","
    """Between the cells of a CSV."""
    header: bool = True
    """Whether a CSV's first line names its columns."""
    names: tuple[str, ...] = ()
    """Column names of a CSV without a header."""
    trim: bool = False
    """Strip blanks around each cell of a CSV."""
    null_tokens: tuple[str, ...] = ("",)
    """Cells of a CSV that mean: missing. Nothing else does."""
    nan_is_missing: bool = False
    """Whether NaN in a numeric column means missing; if not, it breaks the contract."""
    on_bad_row: Literal["strict", "quarantine"] = "strict"
    """A row that breaks the contract stops the run, or is set aside with the reason."""
    extra_columns: Literal["ignore", "refuse"] = "ignore"
    """What to do about columns that nobody declared."""
    unseen_limit: Annotated[float, Bounds(ge=0, le=1)] = 0.1
    """Largest share of a column's cells in categories that its contract does not list."""
    quarantine_limit: Annotated[float, Bounds(ge=0, le=1)] = 0.01
    """Largest share of rows that may be set aside before the run stops all the same."""
    validation: Share = 0.1
    """Share of rows held out to choose the best epoch; a row's split depends on its id alone."""
    test: Share = 0.1
    """Share of rows held out for the figures in the report."""
    part_rows: Positive = 262_144
    """Rows per Parquet file of the snapshot, at most; the unit of work of `encode`."""
    unit_mb: Positive = 64
    """Source bytes that one worker takes in at a time; larger files are cut, small ones go together."""
    max_columns: Positive = 4096
    """More are refused."""
    max_cell_bytes: Positive = 1 << 20
    """A longer text is refused."""
    max_ratio: Positive = 1000
    """Most bytes that one compressed byte may become; more is taken for a bomb."""

    def __post_init__(self) -> None:
        check(self)
        for name, mark in (("delimiter", self.delimiter), ("decimal", self.decimal)):
            if len(mark) != 1:
                raise ValueError(f"{name} = {mark!r}: must be one character")


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """How the work of taking rows in is spread. None of it changes what comes out."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    num_workers: Positive = 2
    """Threads of this process or, for larger tables, Ray Data actors."""
    local_mb: Count = 4096
    """Up to so many source bytes this process does the work itself; beyond, a Ray cluster does."""
    memory_mb: Annotated[int, Bounds(ge=64)] = 1024
    """Most memory one worker may use for rows."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Train:
    """How the model is trained."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    epochs: Positive = 50
    """Passes over the training rows, at most."""
    patience: Positive = 10
    """Stop after this many epochs without a better validation bound."""
    batch_rows: Positive = 256
    """Rows per optimisation step over all workers together."""
    learning_rate: Annotated[float, Bounds(gt=0, le=1)] = 1e-3
    """Adam's step size."""
    decay: Literal["none", "cosine", "threefold"] = "none"
    """How it falls with the epochs: not; to 0 by half a cosine; to a tenth over stages, each thrice as long (Burda)."""
    warmup_epochs: Annotated[float, Bounds(ge=0)] = 0.0
    """Epochs, or parts of one, over which the step size rises from 0, in equal steps; `decay` falls with it."""
    epsilon: Annotated[float, Bounds(gt=0, le=1)] = 1e-8
    """Adam's epsilon."""
    clip_norm: Annotated[float, Bounds(ge=0)] = 0.0
    """Longest gradient; a longer one is shortened to it. 0: as long as it is."""
    ema: Annotated[float, Bounds(ge=0, lt=1)] = 0.0
    """Share that an exponential moving average of the weights keeps in each step, such as 0.999. The average is what is
    judged, and registered. 0: the weights themselves."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of the networks' matrix products; likelihoods and weights are float32 in any case."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the loss is compiled; auto: if the training is so long that it saves more time than it takes."""
    importance_samples: Count = 100
    """Samples per row for -log p(x) of the test rows, in the final evaluation; 0: leave it out."""
    seed: Count = 0
    """Of the initial weights, the order of rows and the posterior noise."""
    num_workers: int | tuple[int, int] = 2
    """Ray Train workers, or the fewest and the most of them: `[1, 4]` goes on with the nodes there are. Gradients equal
    those of one worker on the same batch."""
    cpus_per_worker: Positive = 1
    """CPUs, and so threads, of each worker."""
    use_gpu: bool = False
    """One GPU per worker."""
    checkpoint_s: Annotated[float, Bounds(ge=0)] = 30.0
    """Seconds between two checkpoints, and so what an interruption costs at most; 0: as often as possible."""
    max_restarts: Count = 3
    """How often lost workers are replaced before the run fails."""
    memory_mb: Positive = 4096
    """Most memory the training rows may take in one worker; more rows are read from files as they are needed."""

    def __post_init__(self) -> None:
        check(self)
        if not 1 <= self.workers[0] <= self.workers[1]:
            raise ValueError(f"num_workers = {self.num_workers}: a number from 1, or the fewest and the most: [1, 4]")
        if self.precision == "bf16" and not self.use_gpu:
            raise ValueError("precision = 'bf16' is for GPUs: set use_gpu = true, or leave it float32")

    @property
    def workers(self) -> tuple[int, int]:
        """The fewest workers to go on with, and the most."""
        return (self.num_workers, self.num_workers) if isinstance(self.num_workers, int) else self.num_workers


@dataclass(frozen=True, kw_only=True)
class Encode:
    """How latent codes are computed and written."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    alias: str = "champion"
    """Alias of the registered model to use, resolved once per run."""
    num_workers: Positive = 2
    """Ray Data actors; each reads, encodes and writes whole files."""
    use_gpu: bool = False
    """One GPU per actor."""
    reconstruct: bool = True
    """Also write the reconstruction from E[z | x], in the input's names, types and units."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Reduce:
    """How latent codes are reduced for plots."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    dims: Annotated[int, Bounds(ge=1, le=3)] = 2
    """Principal components to keep."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the report shows."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    colour_by: str = ""
    """Feature or passthrough column that colours the scatter plot; empty: none."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """What `latentpipe compare` compares, and by which label. The members bring their own [objective]."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    family: tuple[MemberName, ...] = get_args(MemberName)
    """Exact likelihoods of the ladder, PCA, and autoencoders, in the order of the table."""
    label: str = ""
    """Passthrough column that codes are probed for; the codes must not have seen it. Empty: no probe."""
    neighbours: Positive = 5
    """Of the nearest-neighbour probe."""
    classes: Positive = 10
    """Components of the mixture."""

    def __post_init__(self) -> None:
        check(self)
        if not self.family or len(set(self.family)) < len(self.family):
            raise ValueError(f"family = {list(self.family)!r}: name at least one member, and each once")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers between two, log-uniform."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    low: Annotated[float, Bounds(gt=0, le=1)]
    """Smallest."""
    high: Annotated[float, Bounds(gt=0, le=1)]
    """Largest."""

    def __post_init__(self) -> None:
        check(self)
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g}, high = {self.high:g}: low must be below high")


@dataclass(frozen=True, kw_only=True)
class Tune:
    """What `latentpipe tune` tries. What is not listed stays as the run has it; if nothing is listed, latent, width,
    depth, learning_rate and batch_rows are tried around the run's own.
    """

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    trials: Positive = 16
    """Trainings to begin, at most; the first is the run's own settings, and runs to its end."""
    epochs: Positive = 50
    """Of a trial, at most; train.patience holds besides."""
    grace: Positive = 5
    """Epochs before a trial may be stopped for being behind; looked at again at each `reduction`-fold of them."""
    reduction: Annotated[int, Bounds(ge=2)] = 3
    """Of so many trials that come so far, one goes on (ASHA, Li et al. 2020)."""
    at_once: Count = 0
    """Trials at a time; 0: as many as the machine's cores, or the cluster's CPUs and GPUs, hold."""
    seed: Count = 0
    """Of the draws."""
    latent: tuple[Annotated[int, Bounds(ge=1, le=4096)], ...] = ()
    """Numbers of latent dimensions to try."""
    width: tuple[Positive, ...] = ()
    """Widths of the hidden layers; each trial's layers are equally wide."""
    depth: tuple[Positive, ...] = ()
    """Numbers of hidden layers."""
    learning_rate: Range | None = None
    """Such as { low = 1e-4, high = 1e-2 }."""
    beta: tuple[Annotated[float, Bounds(ge=0)], ...] = ()
    """Weights of the KL term in training; the bound that trials are judged by is that of beta = 1."""
    batch_rows: tuple[Positive, ...] = ()
    """Rows per optimisation step."""

    def __post_init__(self) -> None:
        check(self)
        if self.grace > self.epochs:
            raise ValueError(f"grace = {self.grace}: a trial has but epochs = {self.epochs}")
        for name in ("latent", "width", "depth", "beta", "batch_rows"):
            if len(set(listed := getattr(self, name))) < len(listed):
                raise ValueError(f"{name} = {list(listed)}: a value is listed twice")


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Where the product goes."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    uri: str = ""
    """Folder, or `s3://bucket/prefix`, where snapshots of latents, coordinates and samples are published; empty: the
    workspace. A store's endpoint and credentials come from the environment alone: AWS_ENDPOINT_URL, AWS_REGION,
    AWS_ACCESS_KEY_ID and so on. It must honour `If-None-Match: *`, which is tried before anything is computed."""

    def __post_init__(self) -> None:
        if "://" in self.uri and not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9.-]+(/[^/?#@]+)*/?", self.uri):
            raise ValueError("uri: a folder, or s3://bucket/prefix; endpoint and credentials are the environment's")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The Ray cluster to run on."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    address: str = ""
    """Address of a running cluster, such as 10.0.0.1:6379; empty: embedded in this process."""
    num_cpus: Count = 0
    """CPUs of the embedded cluster; 0: enough for the workers asked for."""
    object_store_mb: Annotated[int, Bounds(ge=80)] = 256
    """Object store of the embedded cluster. Only facts pass through it, never rows."""
    wait_s: Annotated[float, Bounds(ge=0)] = 60.0
    """How long to wait for a running cluster to have, or to regain, room for the workers asked for."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """The MLflow tracking server and registry."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    uri: str = ""
    """Tracking URI; empty: sqlite in the workspace."""
    experiment: str = ""
    """Experiment of the training runs; empty: the run's name."""
    promote: bool = True
    """Move the alias `champion` to a new version once it was reloaded and checked."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run: a table, a model, and where everything goes."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    name: str
    """Names the dataset, the model and the latents. Letters, digits, `-`, `_` and `.`."""
    workspace: str = "workspace"
    """Folder for everything that is written; relative to the current directory."""
    data: Data
    columns: dict[str, ColumnConfig] = field(default_factory=dict)
    """Columns by name; `latentpipe init --data FILE` writes them. Without any, the dataset's contract.toml has them."""
    model: Network = field(default_factory=Network)
    objective: Objective = field(default_factory=Objective)
    ingest: Ingest = field(default_factory=Ingest)
    train: Train = field(default_factory=Train)
    encode: Encode = field(default_factory=Encode)
    reduce: Reduce = field(default_factory=Reduce)
    report: Report = field(default_factory=Report)
    compare: Compare = field(default_factory=Compare)
    tune: Tune = field(default_factory=Tune)
    storage: Storage = field(default_factory=Storage)
    cluster: Cluster = field(default_factory=Cluster)
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise ValueError(
                f"name = {self.name!r}: use letters, digits, '-', '_' and '.', beginning with a letter or digit"
            )
        if "://" in self.workspace:
            raise ValueError(f"workspace = {self.workspace!r}: must be a local or mounted folder")
        if len(self.role("id")) > 1:
            raise ValueError(f"columns {', '.join(self.role('id'))}: one column at most may have role = 'id'")
        for name in self.role("id", "passthrough"):
            if name in RESERVED:
                raise ValueError(f"column {name!r}: latents have a column of that name; rename it, or ignore it")
        if ROW_ID in self.columns and self.id_column != ROW_ID:
            raise ValueError(f"column {ROW_ID!r}: give it role = 'id', or declare the column that is the id")
        self.objective.suit(self.model)
        mixed = {(it.group, it.components) for it in self.role("feature").values() if it.group}
        if len(mixed) > len({group for group, _ in mixed}):
            raise ValueError("columns of one group have different components: a joint_mixture has one number of them")
        if self.model.body == "convolution" and not any(it.shape for it in self.role("feature").values()):
            raise ValueError("model.body = 'convolution': no column has a shape, such as shape = [28, 28]")
        if self.report.colour_by and self.report.colour_by not in self.role("passthrough", "feature"):
            raise ValueError(f"report.colour_by = {self.report.colour_by!r}: not a feature or passthrough column")
        if self.compare.label and self.compare.label not in self.role("passthrough"):
            raise ValueError(
                f"compare.label = {self.compare.label!r}: not a passthrough column; a feature tells itself"
            )

    def role(self, *roles: str) -> dict[str, ColumnConfig]:
        """The columns of these roles, in the file's order."""
        return {name: column for name, column in self.columns.items() if column.role in roles}

    @property
    def id_column(self) -> str:
        """Name of the id column; `row_id`, the running number of the row, where the table has none."""
        return next(iter(self.role("id")), ROW_ID)

    @property
    def root(self) -> Path:
        """The workspace as an absolute path."""
        return Path(self.workspace).absolute()

    @property
    def ray_log(self) -> Path:
        """Where Ray's log lines go."""
        return self.root / "logs" / "ray.log"

    @property
    def cpus(self) -> int:
        """CPUs that the run's workers take at most."""
        return max(self.train.workers[1] * self.train.cpus_per_worker, self.encode.num_workers)

    def to_dict(self) -> Settings:
        """Plain JSON-able values, as a flow's parameter or a run's record."""
        plain: Settings = json.loads(json.dumps(asdict(self)))
        return plain
