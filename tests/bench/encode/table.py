"""The benchmark's dataset and model: 64 float32 columns of 8 hidden causes and noise, ingested; a 64-128-128-8 VAE.

The weights are not trained: the arithmetic, and so the time, is the same.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import runfile
from pipeline.config import RunConfig
from pipeline.records import Ingested, Registered
from pipeline.snapshots import Snapshot

WIDTH, LATENT, HIDDEN = 64, 8, (128, 128)
CHUNK = 262_144
NAMES = [f"x{index:02d}" for index in range(WIDTH)]


def config(folder: Path, **encode: Any) -> RunConfig:
    """The run; `encode` are its [encode] settings."""
    return runfile.parse(
        {
            "name": "bench",
            "workspace": str(folder / "workspace"),
            "data": {"uri": str(folder / "source")},
            "columns": {
                "id": {"type": "int64", "role": "id"},
                **{name: {"type": "float32", "likelihood": "gaussian"} for name in NAMES},
            },
            "model": {"latent": LATENT, "hidden": HIDDEN, "activation": "relu"},
            "encode": {"elbo": False, "percentile": False, "worst": False, **encode},
        }
    )


def make(folder: Path, rows: int) -> Path:
    """A workspace with the dataset and the model; made once."""
    place = folder / str(rows)
    if not (place / "model" / "checksums.json").exists():
        shutil.rmtree(place, ignore_errors=True)
        (place / "source").mkdir(parents=True)
        for first in range(0, rows, CHUNK):
            table = _chunk(first, min(CHUNK, rows - first))
            pq.write_table(table, place / "source" / f"{first:09d}.parquet", compression="zstd")
        _ingest(place)
        shutil.rmtree(place / "source")
        _model(place)
    return place


def ingested(place: Path) -> Ingested:
    """The dataset, as `ingest` told of it."""
    return Ingested(**{**json.loads((place / "ingested.json").read_text()), "notices": ()})


def registered(place: Path) -> Registered:
    """The model, as a registry would name it; no MLflow."""
    from hashlib import sha256

    digest = sha256((place / "model" / "checksums.json").read_bytes()).hexdigest()
    facts = {"name": "bench", "version": 1, "mlflow_run": "-", "training_key": "-", "champion": True, "new": False}
    return Registered(model=str(place / "model"), digest=digest, **facts)


def _ingest(place: Path) -> None:
    from pipeline import ingest

    (place / "ingested.json").write_text(json.dumps(asdict(ingest.ingest(config(place)))))


def _chunk(first: int, rows: int) -> pa.Table:
    random = np.random.default_rng(first)
    causes = random.standard_normal((rows, LATENT), np.float32)
    mix = np.random.default_rng(0).standard_normal((LATENT, WIDTH)).astype(np.float32)
    values = causes @ mix + random.standard_normal((rows, WIDTH), np.float32)
    columns = {name: pa.array(np.ascontiguousarray(values[:, index])) for index, name in enumerate(NAMES)}
    return pa.table({"id": pa.array(np.arange(first, first + rows)), **columns})


def _model(place: Path) -> None:
    import torch

    from pipeline import reference, watch
    from pipeline.features import fitting
    from pipeline.training.worker import STORY
    from vae import VAE, ModelConfig, checkpoint

    run = config(place)
    head = pq.read_table(Snapshot(Path(ingested(place).snapshot)).files[0])
    fitted = fitting.fit(head.to_batches(), run.role("feature"))
    torch.manual_seed(0)
    model = VAE(ModelConfig(columns=fitted.model_columns(), network=run.model))
    checkpoint.save(model, place / "model")
    fitted.save(place / "model")
    values, observed = (torch.from_numpy(it) for it in fitted.transform(head))

    def take(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return values[numbers], observed[numbers]

    known = reference.measure(model, fitted, take, rows=len(head))
    known.save(place / "model")
    watch.save_expected(fitted, known, take, rows=len(head), model=place / "model")
    (place / "model" / STORY).write_text(json.dumps({"evaluation": {"elbo": None}}))
    checkpoint.seal(place / "model")
