"""The tracking server: a connection, its errors as ours, and what is read and left there beside runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.config import RunConfig
from pipeline.errors import InfrastructureError

KEY_TAG: Final = "latentpipe.training_key"
"""On a training's run, and on the version made of it."""


def connect(config: RunConfig) -> MlflowClient:
    """A client of the run's tracking server; sqlite in the workspace by default."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = config.tracking.uri or f"sqlite:///{config.root / 'mlflow.db'}"
    config.root.mkdir(parents=True, exist_ok=True)
    with mlflow_errors(uri):
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        client = MlflowClient(uri, uri)
        client.search_experiments(max_results=1)
    return client


@contextmanager
def mlflow_errors(where: str) -> Iterator[None]:
    """MLflow's errors as InfrastructureError."""
    try:
        yield
    except MlflowException as error:
        raise InfrastructureError(
            f"MLflow: {error.message}", where, "is the tracking server up? then run again"
        ) from error


def experiment(client: MlflowClient, config: RunConfig) -> str:
    """Number of the run's experiment, which is begun if there is none."""
    name = config.tracking.experiment or config.name
    if (found := client.get_experiment_by_name(name)) is not None:
        return str(found.experiment_id)
    location = None if config.tracking.uri else (config.root / "mlartifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def history(config: RunConfig, run_id: str, name: str) -> dict[int, float]:
    """A metric of a run by epoch; of one that was done twice, the later."""
    with mlflow_errors(run_id):
        logged = connect(config).get_metric_history(run_id, name)
    return {it.step: it.value for it in sorted(logged, key=lambda it: (it.step, it.timestamp))}


def log_files(config: RunConfig, run_id: str, directory: Path, *, folder: str) -> None:
    """Copy the files of a directory to the run's artefacts."""
    with mlflow_errors(run_id):
        connect(config).log_artifacts(run_id, str(directory), folder)
