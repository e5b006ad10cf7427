"""Drift by hand: false alarms on random splits of a real table, and what watching costs an encode.

python tests/bench/drift.py --splits 200
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from harness import SHARED  # noqa: E402

from pipeline import agree, drift, ingest, latents, reference, runfile, watch  # noqa: E402
from pipeline.features import Features, fitting  # noqa: E402
from pipeline.snapshots import Snapshot  # noqa: E402
from pipeline.watch import Watch  # noqa: E402
from vae import VAE, ModelConfig  # noqa: E402

TRAINED = 10_000
SIZES = (500, 3_000, 10_000)


def prepared(model: VAE, features: Features, values: Any, observed: Any, folder: Path) -> None:
    """The reference and the counts of these rows."""
    rows = torch.from_numpy(values), torch.from_numpy(observed)

    def take(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return rows[0][numbers], rows[1][numbers]

    measured = reference.measure(model, features, take, rows=len(values))
    measured.save(folder)
    features.save(folder)
    watch.save_expected(features, measured, take, rows=len(values), model=folder)


def false_alarms(splits: int, folder: Path) -> dict[str, Any]:
    """UCI Adult, split at random: rows to train on, others to watch; nothing has moved."""
    settings = (f"workspace={folder}", f"data.uri={SHARED / 'adult-train.csv'}")
    config = agree.agree(runfile.load(ROOT / "deploy/runs/adult.toml", overrides=settings))
    table = latents.open_file(*Snapshot(Path(ingest.ingest(config).snapshot)).files).to_table()
    features = fitting.fit(table.to_batches(), config.role("feature"))
    torch.manual_seed(0)
    model = VAE(ModelConfig(columns=features.model_columns(), network=config.model)).eval()
    values, observed = features.transform(table)
    with torch.no_grad():
        mu = model.encode(torch.from_numpy(values), torch.from_numpy(observed)).mean.numpy()
    alarms: Counter[str] = Counter()
    for split in range(splits):
        order, size = np.random.default_rng(split).permutation(len(table)), SIZES[split % len(SIZES)]
        trained, seen = order[:TRAINED], order[TRAINED : TRAINED + size]
        prepared(model, features, values[trained], observed[trained], folder)
        watched = Watch.load(folder, rows=size)
        watched.add(pa.chunked_array([pa.array(seen)]), values[seen], observed[seen], mu[seen])
        judged = drift.judge(watched, folder, least=0.0)
        alarms.update(["encodes"] if judged.verdict != "nothing" else [])
        alarms.update(f"{it.name} ({it.what})" for it in judged.signals if it.moved)
    return {"splits": splits, "signals": len(judged.signals), "alarms": dict(alarms)}


def cost(folder: Path, rows: int = 10_000_000, columns: int = 64, batch: int = 65_536) -> dict[str, Any]:
    """CPU seconds of watching so many rows, as a worker meets them: measured on a tenth of the batches."""
    config = runfile.parse(
        {
            "name": "wide",
            "data": {"uri": "-"},
            "columns": {f"x{i}": {"type": "float32", "likelihood": "gaussian"} for i in range(columns)},
            "model": {"latent": 8, "hidden": [128, 128]},
        }
    )
    values = np.random.default_rng(0).normal(size=(batch, columns)).astype(np.float32)
    table = pa.table({f"x{i}": values[:, i] for i in range(columns)})
    features = fitting.fit(table.to_batches(), config.role("feature"))
    model = VAE(ModelConfig(columns=features.model_columns(), network=config.model)).eval()
    seen = np.ones_like(values, dtype=bool)
    prepared(model, features, values, seen, folder)
    watched, batches = Watch.load(folder, rows=rows), rows // batch // 10
    mu, elbo = np.zeros((batch, 8), np.float32), np.zeros(batch, np.float32)
    began = time.process_time()
    for number in range(batches):
        watched.add(pa.chunked_array([pa.array(np.arange(batch) + number * batch)]), values, seen, mu, elbo)
    adding = time.process_time() - began
    began = time.process_time()
    drift.judge(watched, folder)
    judging = time.process_time() - began
    return {"rows": rows, "columns": columns, "watch_cpu_s": round(adding * 10, 2), "judge_cpu_s": round(judging, 2)}


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=200, help="0: the cost alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {"cost": cost(Path(folder))}
        if arguments.splits:
            found["false_alarms"] = false_alarms(arguments.splits, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
