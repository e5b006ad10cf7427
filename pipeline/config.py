"""The run's configuration: every key with a default, bounds and a meaning.

The same dataclasses validate a TOML file (`runfile`) and a Prefect flow's parameters, and document the flow's form.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from vae.config import (
    COUNTS,
    FORBID_EXTRA,
    LEVELS,
    REALS,
    Bounds,
    Count,
    LikelihoodName,
    Network,
    Objective,
    Positive,
    check,
)

Share = Annotated[float, Bounds(gt=0, le=0.5)]
Settings = dict[str, Any]
ROW_ID = "row_id"
"""Id of a table without one: the running number of the row."""
RESERVED = ("mu", "logvar", "recon", "model_version")
"""Columns of every latents file; see pipeline.latents."""
TYPE = re.compile(r"(u?int(8|16|32|64)|float(16|32|64)|bool)(\[[1-9]\d*\])?|string")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the rows come from and how to read them."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    uri: str
    """A file, a folder or a glob of CSV, TSV, Parquet or Arrow IPC; or `sklearn:digits`."""
    format: Literal["auto", "csv", "tsv", "parquet", "ipc"] = "auto"
    """How to read it; `auto` goes by the file name's suffix."""
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
    quarantine_limit: Annotated[float, Bounds(ge=0, le=1)] = 0.01
    """Largest share of rows that may be set aside before the run stops all the same."""
    validation: Share = 0.1
    """Share of rows held out to choose the best epoch; a row's split depends on its id alone."""
    test: Share = 0.1
    """Share of rows held out for the figures in the report."""
    part_rows: Positive = 262_144
    """Rows per Parquet file of the snapshot, the unit of work of `encode`."""

    def __post_init__(self) -> None:
        check(self)
        if len(self.delimiter) != 1:
            raise ValueError(f"delimiter = {self.delimiter!r}: must be one character")


@dataclass(frozen=True, kw_only=True)
class ColumnConfig:
    """What one column must be, and what it is for."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    type: str
    """int8..int64, uint8..uint64, float16..float64, bool, string, or a vector such as float32[64]."""
    role: Literal["feature", "id", "passthrough", "ignore"] = "feature"
    """feature: modelled; id: names the row; passthrough: copied beside the latents; ignore: dropped."""
    likelihood: LikelihoodName | None = None
    """Distribution p(x | z); a feature needs one."""
    nullable: bool = False
    """Whether cells may be missing. Missing cells cost nothing in the loss."""
    shape: tuple[Positive, ...] = ()
    """Height, width and, unless 1, channels of an image column: for convolutions and the report."""
    sigma: Annotated[float, Bounds(ge=0)] = 0.0
    """Fixed standard deviation of a gaussian, in the column's units (squared error); 0: learned."""
    components: Annotated[int, Bounds(ge=1, le=100)] = 5
    """Components of a mixture."""
    group: str = ""
    """Name of the group that shares a joint_mixture."""
    order: tuple[str | int | float, ...] = ()
    """Ranks of an ordinal, lowest first; empty: sorted."""
    levels: Count = 0
    """Values 0..levels-1 of a binomial, discretised_logistic or binarised column."""
    binarise: Literal["none", "static", "dynamic"] = "none"
    """bernoulli over levels: 1 above the middle, or drawn anew in every step with the level as probability."""

    def __post_init__(self) -> None:
        check(self)
        if self.role == "ignore":
            return
        if (match := TYPE.fullmatch(self.type)) is None:
            raise ValueError(
                f"type = {self.type!r} is not known: int8..int64, uint8..uint64, float16..float64, bool, "
                "string, or a vector such as float32[64]"
            )
        if self.role == "id" and not re.fullmatch(r"u?int\d+|string", self.type):
            raise ValueError(f"role = 'id' with type = {self.type!r}: ids are integers or strings")
        if self.role == "id" and self.nullable:
            raise ValueError("role = 'id' with nullable = true: an id is never missing")
        if self.role == "passthrough" and self.nullable and match[4]:
            raise ValueError("role = 'passthrough' with nullable = true: Parquet readers cannot tell a missing vector")
        if self.shape and (len(self.shape) not in (2, 3) or f"[{math.prod(self.shape)}]" != match[4]):
            raise ValueError(f"shape = {list(self.shape)} with type = {self.type!r}: the sizes differ")
        if (self.role == "feature") != (self.likelihood is not None):
            raise ValueError(
                f"role = {self.role!r} with likelihood = {self.likelihood!r}: features, and only they, have one"
            )
        if self.role == "feature":
            self._check_likelihood(number=self.type not in ("string", "bool"), whole="int" in self.type)

    @property
    def numeric(self) -> bool:
        """Whether the model is given the column's numbers, not codes of its categories."""
        return self.likelihood in (*REALS, *COUNTS, *LEVELS) or self.binarise != "none"

    def _check_likelihood(self, *, number: bool, whole: bool) -> None:
        """Raise ValueError for a setting that the likelihood cannot honour."""
        name, kind = self.likelihood, f"likelihood = {self.likelihood!r}"
        levelled = name in LEVELS or self.binarise != "none"
        if self.numeric and not number:
            raise ValueError(f"{kind} with type = {self.type!r}: use 'categorical' or 'bernoulli'")
        if name in COUNTS and not whole:
            raise ValueError(f"{kind} with type = {self.type!r}: counts have an integer type")
        if name == "categorical" and self.type.endswith("]"):
            raise ValueError("likelihood = 'categorical' on a vector: use 'gaussian' or 'bernoulli'")
        if name == "ordinal" and not number and not self.order:
            raise ValueError(f"{kind} with type = {self.type!r}: give the ranks as order, lowest first")
        for setting, wanted in (("sigma", "gaussian"), ("order", "ordinal")):
            if getattr(self, setting) and name != wanted:
                raise ValueError(f"{setting} = {getattr(self, setting)!r} with {kind}: only {wanted!r} has one")
        if self.binarise != "none" and name != "bernoulli":
            raise ValueError(f"binarise = {self.binarise!r} with {kind}: use 'bernoulli'")
        if levelled != (self.levels > 1):
            raise ValueError(f"levels = {self.levels} with {kind}: how many values, 0 included; 256 for 8-bit pixels")
        if bool(self.group) != (name == "joint_mixture"):
            raise ValueError(f"group = {self.group!r} with {kind}: columns of a joint_mixture name their group")


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
    importance_samples: Count = 100
    """Samples per row for -log p(x) of the test rows, in the final evaluation; 0: leave it out."""
    seed: Count = 0
    """Of the initial weights, the order of rows and the posterior noise."""
    num_workers: Positive = 2
    """Ray Train workers; gradients equal those of one worker on the same batch."""
    cpus_per_worker: Positive = 1
    """CPUs, and so threads, of each worker."""
    use_gpu: bool = False
    """One GPU per worker."""
    max_restarts: Count = 3
    """How often lost workers are replaced before the run fails."""
    memory_mb: Positive = 4096
    """Most memory the training rows may take in one worker."""

    def __post_init__(self) -> None:
        check(self)


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
class Cluster:
    """The Ray cluster to run on."""

    __pydantic_config__: ClassVar[Settings] = FORBID_EXTRA

    address: str = ""
    """Address of a running cluster, such as 10.0.0.1:6379; empty: embedded in this process."""
    num_cpus: Count = 0
    """CPUs of the embedded cluster; 0: enough for the workers asked for."""
    object_store_mb: Annotated[int, Bounds(ge=80)] = 256
    """Object store of the embedded cluster. Only facts pass through it, never rows."""

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
    columns: dict[str, ColumnConfig]
    """Columns by name; `latentpipe init --data FILE` writes them."""
    model: Network = field(default_factory=Network)
    objective: Objective = field(default_factory=Objective)
    train: Train = field(default_factory=Train)
    encode: Encode = field(default_factory=Encode)
    reduce: Reduce = field(default_factory=Reduce)
    report: Report = field(default_factory=Report)
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
        if not self.role("feature"):
            raise ValueError("no column has role = 'feature'; `latentpipe init --data FILE` writes them")
        for name in self.role("id", "passthrough"):
            if name in RESERVED:
                raise ValueError(f"column {name!r}: latents have a column of that name; rename it, or ignore it")
        if ROW_ID in self.columns and self.id_column != ROW_ID:
            raise ValueError(f"column {ROW_ID!r}: give it role = 'id', or declare the column that is the id")
        self.objective.suit(self.model)
        if self.model.body == "convolution" and not any(it.shape for it in self.role("feature").values()):
            raise ValueError("model.body = 'convolution': no column has a shape, such as shape = [28, 28]")
        if self.report.colour_by and self.report.colour_by not in self.role("passthrough", "feature"):
            raise ValueError(f"report.colour_by = {self.report.colour_by!r}: not a feature or passthrough column")

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
        return max(self.train.num_workers * self.train.cpus_per_worker, self.encode.num_workers)

    def to_dict(self) -> Settings:
        """Plain JSON-able values, as a flow's parameter or a run's record."""
        plain: Settings = json.loads(json.dumps(asdict(self)))
        return plain
