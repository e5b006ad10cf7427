"""Table -> latents, by the champion. What a schedule runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import flow

from flows import artifacts, events, tasks
from pipeline.config import RunConfig


@flow(name="latentpipe-encode", persist_result=False)
def encode(config: RunConfig) -> dict[str, Any]:
    """Ingest a table and encode it with the registered champion; nothing is written twice.

    Args:
        config: the run, as in its TOML file.
    """
    config = tasks.agree(config)
    ingested = tasks.ingest(config)
    registered = tasks.champion(config)
    encoded = tasks.encode(config, registered, ingested)
    reduced = tasks.reduce(config, encoded)
    reported = tasks.report(config, encoded, reduced)
    artifacts.publish(config, encoded, reported)
    events.tell(config, encoded)
    return {"ingested": asdict(ingested), "registered": asdict(registered), "encoded": asdict(encoded)}
