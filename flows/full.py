"""The whole way: table -> model -> latents -> report."""

from __future__ import annotations

import time

from prefect import flow

from flows import artifacts, tasks
from pipeline.cluster import ray_session
from pipeline.config import RunConfig
from pipeline.progress import timed
from pipeline.storage import preflight
from pipeline.summary import Summary


@flow(name="latentpipe-full", persist_result=False)
def full(config: RunConfig) -> Summary:
    """Ingest a table, train and register a model on it, encode it, and report. Every step is a no-op where done.

    Args:
        config: the run, as in its TOML file.
    """
    preflight(config)
    seconds: dict[str, float] = {}
    entered = time.monotonic()
    with ray_session(config.cluster, cpus=config.cpus, log=config.ray_log):
        seconds["ray"] = round(time.monotonic() - entered, 1)
        with timed(seconds, "ingest"):
            config = tasks.agree(config)
            ingested = tasks.ingest(config)
        with timed(seconds, "train"):
            trained = tasks.train(config, ingested)
        with timed(seconds, "register"):
            registered = tasks.register(config, trained)
        with timed(seconds, "encode"):
            encoded = tasks.encode(config, registered, ingested)
    with timed(seconds, "reduce"):
        reduced = tasks.reduce(config, encoded)
    with timed(seconds, "report"):
        reported = tasks.report(config, encoded, reduced)
        artifacts.publish(config, encoded, reported)
    return Summary(
        ingested=ingested,
        trained=trained,
        registered=registered,
        encoded=encoded,
        reduced=reduced,
        reported=reported,
        seconds=seconds,
    )
