"""Table -> a registered model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import flow

from flows import tasks
from pipeline.config import RunConfig


@flow(name="latentpipe-train", persist_result=False)
def train(config: RunConfig) -> dict[str, Any]:
    """Ingest a table, train a model on it and register it; the champion moves if the version proves itself.

    Args:
        config: the run, as in its TOML file.
    """
    config = tasks.agree(config)
    ingested = tasks.ingest(config)
    trained = tasks.train(config, ingested)
    registered = tasks.register(config, trained)
    return {"ingested": asdict(ingested), "trained": asdict(trained), "registered": asdict(registered)}
