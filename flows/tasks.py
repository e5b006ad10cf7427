"""The steps as Prefect tasks. Each takes the config and records, and returns a record; nothing is cached or pickled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from pipeline import agree as agreement
from pipeline import encode as encoding
from pipeline import ingest as ingestion
from pipeline import reduce as reduction
from pipeline import register as registration
from pipeline import report as reporting
from pipeline import train as training
from pipeline.config import RunConfig
from pipeline.errors import InfrastructureError
from pipeline.records import Encoded, Ingested, Reduced, Registered, Reported, Trained

P = ParamSpec("P")
R = TypeVar("R")


async def _may_help(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Try again only what trying again may help: infrastructure."""
    return isinstance(await state.aresult(raise_on_failure=False), InfrastructureError)


def step(function: Callable[P, R]) -> Task[P, R]:
    """A step as a task: its record is not persisted, its idempotence is its own."""
    as_task = task(
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=1,
        retry_delay_seconds=10,
        retry_condition_fn=_may_help,
    )
    return as_task(function)


@step
def agree(config: RunConfig) -> RunConfig:
    """The run with its columns: as declared, or by the dataset's contract, inferred the first time."""
    return agreement.agree(config)


@step
def ingest(config: RunConfig) -> Ingested:
    """Table -> typed, immutable Parquet snapshot."""
    return ingestion.ingest(config)


@step
def train(config: RunConfig, ingested: Ingested) -> Trained:
    """Snapshot -> the best model, by Ray Train."""
    return training.train(config, ingested)


@step
def register(config: RunConfig, trained: Trained) -> Registered:
    """Model -> a version in the MLflow registry, maybe the champion."""
    return registration.register(config, trained)


@step
def champion(config: RunConfig) -> Registered:
    """The version the alias points to, resolved once."""
    return registration.champion(config)


@step
def encode(config: RunConfig, registered: Registered, ingested: Ingested) -> Encoded:
    """Version and snapshot -> latent codes in Parquet, by Ray Data."""
    return encoding.encode(config, registered, ingested)


@step
def reduce(config: RunConfig, encoded: Encoded) -> Reduced:
    """Latent codes -> 2-D coordinates in Parquet."""
    return reduction.reduce(config, encoded)


@step
def report(config: RunConfig, encoded: Encoded, reduced: Reduced) -> Reported:
    """All of it -> one HTML page."""
    return reporting.report(config, encoded, reduced)
