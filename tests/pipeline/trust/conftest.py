"""One small way from a table to latents, made once; every test that harms something works on a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from harness import small_settings

from pipeline import encode, ingest, reduce, runfile
from pipeline.config import RunConfig
from pipeline.features import fitting
from pipeline.records import Registered
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


def model_of(settings: RunConfig) -> Registered:
    """A model with fitted preprocessing and untrained weights, in the workspace as if it had been registered."""
    snapshot = Snapshot(Path(ingest.latest(settings).snapshot))
    rows = [batch for path in snapshot.files for batch in pq.read_table(path).to_batches()]
    fitted = fitting.fit(rows, settings.role("feature"))
    folder = settings.root / "models" / "made"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        checkpoint.save(VAE(ModelConfig(columns=fitted.model_columns(), network=settings.model)), folder)
    fitted.save(folder)
    digest = checkpoint.seal(folder)
    facts = {"name": "small", "version": 1, "mlflow_run": "a run", "training_key": "a key", "champion": True}
    return Registered(model=str(folder.rename(folder.with_name(digest[:16]))), digest=digest, new=False, **facts)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, ray_up: None) -> Workspace:
    """A run, up to reduced latents. Its source is no more the one it read: ask for `whole`."""
    folder = tmp_path_factory.mktemp("made")
    settings = runfile.parse(small_settings(folder, data={"on_bad_row": "quarantine"}))
    table = folder / "small.csv"
    table.write_text("\n".join([*table.read_text().splitlines()[:-1], BAD_ROW, ""]))
    ingested = ingest.ingest(settings)
    encoded = encode.encode(settings, model_of(settings), ingested)
    reduce.reduce(settings, encoded)
    return Workspace(folder)
