"""Small trainings over a mixed table, for tests of the loop in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from rows import cells, column

from pipeline.columns import ColumnConfig
from pipeline.config import Train
from pipeline.features import fitting
from pipeline.training import shards
from pipeline.training.job import Job
from pipeline.training.worker import STORY
from vae.config import Network, Objective

ROWS = 400
COLUMNS = {
    "height": column("float64", "gaussian"),
    "income": column("float64", "log_normal", nullable=False),
    "east": column("float32", "joint_mixture", group="place", components=2),
    "north": column("float32", "joint_mixture", group="place", components=2),
    "visits": column("int64", "poisson"),
    "clicks": column("int32", "negative_binomial", nullable=False),
    "stars": column("uint8", "binomial", levels=6),
    "pixels": column("uint8[4]", "discretised_logistic", levels=16, shape=(2, 2)),
    "ink": column("uint8[4]", "bernoulli", levels=17, binarise="dynamic"),
    "city": column("string", "categorical"),
    "mood": column("string", "ordinal", order=("low", "fine", "high")),
}
"""A mixed table, all of whose columns follow one hidden number."""


def table() -> pa.Table:
    """Rows whose columns know of each other, about a tenth of the nullable cells missing."""
    random = np.random.default_rng(0)
    hidden = random.standard_normal(ROWS)
    shade = np.clip(8 + 3 * hidden[:, None] + random.integers(-2, 3, (ROWS, 4)), 0, 15).astype(int)
    values: dict[str, Any] = {
        "height": 170 + 9 * hidden + random.standard_normal(ROWS),
        "income": np.exp(8 + hidden + 0.2 * random.standard_normal(ROWS)),
        "east": hidden**2 + 0.3 * random.standard_normal(ROWS),
        "north": -2 * hidden + 0.3 * random.standard_normal(ROWS),
        "visits": random.poisson(np.exp(1 + 0.6 * hidden)),
        "clicks": random.poisson(np.exp(2 + hidden)),
        "stars": random.binomial(5, 1 / (1 + np.exp(-2 * hidden))),
        "pixels": shade,
        "ink": 16 - shade,
        "city": np.array(["Rome", "Oslo", "Lima"])[np.digitize(hidden, (-0.5, 0.5))],
        "mood": np.array(["low", "fine", "high"])[np.digitize(hidden, (-0.8, 0.8))],
    }
    missing = random.random((len(COLUMNS), ROWS)) < 0.1
    columns = {
        name: cells(_with_gaps(values[name].tolist(), gaps & kind.nullable), kind.type)
        for (name, kind), gaps in zip(COLUMNS.items(), missing, strict=True)
    }
    return pa.table({"id": pa.array(range(ROWS), pa.int64()), **columns})


def _with_gaps(values: list[Any], gaps: npt.NDArray[np.bool_]) -> list[Any]:
    """Missing in places; a missing vector is one of missing cells, as `ingest` writes it."""
    nothing = [None] * len(values[0]) if isinstance(values[0], list) else None
    return [nothing if gap else value for value, gap in zip(values, gaps, strict=True)]


def prepared(
    folder: Path,
    *,
    objective: Objective | None = None,
    columns: dict[str, ColumnConfig] = COLUMNS,
    network: dict[str, Any] | None = None,
    **train: Any,
) -> Job:
    """A job in a new folder, its preprocessing fitted on the training rows, its table in two files."""
    rows = table().select(["id", *columns])
    split = shards.splits(rows.column("id").combine_chunks(), validation=0.2, test=0.2)
    folder.mkdir()
    parts = [folder / f"part-{number}.parquet" for number in range(2)]
    for number, part in enumerate(parts):
        pq.write_table(rows.slice(number * 250, 250), part)
    fitting.fit(rows.filter(pa.array(split == shards.TRAIN)).to_batches(), columns).save(folder)
    return Job(
        directory=str(folder),
        parts=tuple(map(str, parts)),
        id_column="id",
        validation=0.2,
        test=0.2,
        network=Network(**{"latent": 2, "hidden": (24,), "prior_components": 4, **(network or {})}),
        objective=objective or Objective(),
        train=Train(**{"epochs": 3, "batch_rows": 64, "learning_rate": 0.01, "num_workers": 1, **train}),
    )


def story(job: Job) -> dict[str, Any]:
    """What `training.json` says, as strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    plain: dict[str, Any] = json.loads((job.path / "model" / STORY).read_text(), parse_constant=refuse)
    return plain
