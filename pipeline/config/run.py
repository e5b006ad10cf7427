"""One run: its sections, and what must be true across them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pipeline.columns import ColumnConfig
from pipeline.config.codes import EVIDENCE, Drift, Encode, Reduce, Report
from pipeline.config.models import Compare, Train, Tune
from pipeline.config.places import Cluster, Storage, Tracking
from pipeline.config.rows import Data, Ingest
from vae.config import FORBID_EXTRA, Network, Objective

Settings = dict[str, Any]
ROW_ID = "row_id"
"""Id of a table without one: the running number of the row."""
RESERVED = ("mu", "logvar", "recon", "model_version")
"""Columns of every latents file; see pipeline.latents."""


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
    drift: Drift = field(default_factory=Drift)
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
            if name in EVIDENCE and getattr(self.encode, EVIDENCE[name]):
                raise ValueError(f"column {name!r}: encode.{EVIDENCE[name]} writes a column of that name; turn it off")
        if ROW_ID in self.columns and self.id_column != ROW_ID:
            raise ValueError(f"column {ROW_ID!r}: give it role = 'id', or declare the column that is the id")
        self.objective.suit(self.model)
        self.encode.suit(self.model)
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
