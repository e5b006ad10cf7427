"""A small workspace from table to coordinates, as a writer leaves it; and how to leave it wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from harness import small_settings

from pipeline import encode, ingest, reduce, reference, runfile
from pipeline.config import RunConfig
from pipeline.features import fitting
from pipeline.parts import write
from pipeline.records import Ingested, Registered
from pipeline.seal import sealed
from pipeline.snapshots import MANIFEST, Snapshot
from vae import VAE, ModelConfig, checkpoint

Change = Callable[[dict[str, Any]], Any]
BAD_ROW = "1299,abc,true,Rome,note 299"


class Workspace:
    """The snapshots of a small run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def dataset(self) -> Path:
        """300 rows, one of them set aside."""
        return self.root / "workspace/datasets/small/v000001"

    @property
    def latents(self) -> Path:
        """Of all rows that were kept, with reconstructions."""
        return self.root / "workspace/latents/small/v000001"

    @property
    def reduced(self) -> Path:
        """Their coordinates."""
        return self.root / "workspace/reduced/small/v000001"

    def copied(self, folder: Path) -> Workspace:
        """The same, elsewhere, without the original in reach."""
        shutil.copytree(self.root, folder, dirs_exist_ok=True)
        return Workspace(folder)


def restated(snapshot: Path, change: Change) -> None:
    """Change what a manifest says, and seal it again: as a writer would that is wrong."""
    facts = dict(Snapshot(snapshot).manifest)
    change(facts)
    (snapshot / MANIFEST).write_bytes(sealed(facts))


def rewritten(snapshot: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write a file anew with other rows, and state it as it is now; all but the rows is right."""
    table = change(pq.read_table(snapshot / name))
    facts = dict(Snapshot(snapshot).manifest)
    id_column = facts.get("id", table.schema.names[0])
    part = write(snapshot, name, table.to_batches(), schema=table.schema, id_column=id_column)
    (snapshot / part.staged).replace(snapshot / name)
    listed = {key: value for key, value in asdict(part).items() if key != "staged"}
    facts["files"] = [listed if it["path"] == name else it for it in facts["files"]]
    facts["rows"] = sum(it["rows"] for it in facts["files"])
    if "rows_in" in facts:
        facts["rows_in"] = facts["rows"] + facts["quarantined"]
    (snapshot / MANIFEST).write_bytes(sealed(facts))


def model_of(settings: RunConfig, ingested: Ingested) -> Registered:
    """A model with fitted preprocessing and untrained weights, in the workspace as if it had been registered."""
    folder = settings.root / "models" / "made"
    digest = untrained(settings, ingested, folder)
    facts = {"name": "small", "version": 1, "mlflow_run": "a run", "training_key": "a key", "champion": True}
    return Registered(model=str(folder.rename(folder.with_name(digest[:16]))), digest=digest, new=False, **facts)


def untrained(settings: RunConfig, ingested: Ingested, folder: Path) -> str:
    """Fitted preprocessing, a model of random weights and its reference, sealed in a folder; their digest."""
    rows = [batch for path in Snapshot.at(ingested.snapshot).files for batch in pq.read_table(path).to_batches()]
    fitted = fitting.fit(rows, settings.role("feature"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(ModelConfig(columns=fitted.model_columns(), network=settings.model))
    checkpoint.save(model, folder)
    fitted.save(folder)
    values, observed = (torch.from_numpy(it) for it in fitted.transform(pa.Table.from_batches(rows)))
    reference.measure(model, fitted, lambda at: (values[at], observed[at]), rows=len(values)).save(folder)
    return checkpoint.seal(folder)


def run(folder: Path, **changes: Any) -> Workspace:
    """A run of the small table, one row of it bad, up to reduced latents."""
    settings = runfile.parse(small_settings(folder, **{"data": {"on_bad_row": "quarantine"}, **changes}))
    table = folder / "small.csv"
    table.write_text("\n".join([*table.read_text().splitlines()[:-1], BAD_ROW, ""]))
    ingested = ingest.ingest(settings)
    encoded = encode.encode(settings, model_of(settings, ingested), ingested)
    reduce.reduce(settings, encoded)
    return Workspace(folder)
