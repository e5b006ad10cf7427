"""Versions of the run's model in the registry: by digest, by alias; and their files in the workspace."""

from __future__ import annotations

import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.config import RunConfig
from pipeline.errors import ConfigError, InfrastructureError
from pipeline.tracking.server import KEY_TAG, connect, mlflow_errors
from vae import checkpoint

DIGEST_TAG: Final = "latentpipe.model_digest"
CHECKED_TAG: Final = "latentpipe.checked"
CHAMPION: Final = "champion"
PLACE_TRIES: Final = 3


def find(config: RunConfig, *, digest: str) -> ModelVersion | None:
    """The version of the run's model that holds exactly these model files, if there is one."""
    versions = connect(config).search_model_versions(f"name = '{config.name}'")
    return next((it for it in versions if it.tags.get(DIGEST_TAG) == digest), None)


def resolve(config: RunConfig, alias: str) -> ModelVersion:
    """The version an alias points to now. Raises ConfigError if there is none."""
    try:
        return connect(config).get_model_version_by_alias(config.name, alias)
    except MlflowException:
        raise ConfigError(
            f"no version of model {config.name!r} has the alias {alias!r}", cure="run `latentpipe register` first"
        ) from None


def is_champion(config: RunConfig, version: ModelVersion) -> bool:
    """Whether the alias `champion` points to this version."""
    aliases = connect(config).get_registered_model(config.name).aliases
    return str(aliases.get(CHAMPION)) == str(version.version)


def create(config: RunConfig, *, run_id: str, key: str, digest: str, **model: Any) -> ModelVersion:
    """Log a pyfunc model (`model`: see mlflow.pyfunc.log_model) and register it as a version. No pickle anywhere."""
    client = connect(config)
    with mlflow_errors(config.name):
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(name="model", tags={DIGEST_TAG: digest}, **model)
        if not client.search_registered_models(f"name = '{config.name}'"):
            client.create_registered_model(config.name)
        tags = {DIGEST_TAG: digest, KEY_TAG: key}
        return client.create_model_version(config.name, logged.model_uri, run_id, tags, model_id=logged.model_id)


def promote(config: RunConfig, version: ModelVersion) -> None:
    """Note that the version was checked; then, last, point the alias `champion` to it."""
    client = connect(config)
    with mlflow_errors(config.name):
        client.set_model_version_tag(config.name, version.version, CHECKED_TAG, "true")
        if config.tracking.promote:
            client.set_registered_model_alias(config.name, CHAMPION, version.version)


def files(config: RunConfig, version: ModelVersion) -> Path:
    """The version's model directory, fetched once into the workspace, where every worker can read it."""
    digest: str = version.tags[DIGEST_TAG]
    directory: Path = config.root / "models" / digest[:16]
    if _holds(directory, digest):
        return directory
    partial = directory.with_name(f"{directory.name}.{uuid.uuid4().hex}")  # another run may be fetching it, too
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        with mlflow_errors(config.name):
            uri = f"models:/{config.name}/{version.version}/artifacts/model"
            fetched = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(partial)))
        if not _holds(fetched, digest):
            raise InfrastructureError(
                f"version {version.version} of {config.name!r} is not the model that was registered: its files changed",
                uri,
                "register the training again",
            )
        _placed(fetched, directory, digest)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def _placed(fetched: Path, directory: Path, digest: str) -> None:
    """Give the model its name, which a damaged one may have, or another run's, fetched meanwhile."""
    for _ in range(PLACE_TRIES):
        try:
            fetched.rename(directory)
        except OSError:
            if _holds(directory, digest):
                return
            with suppress(FileNotFoundError):
                directory.rename(fetched.with_name("damaged"))
        else:
            return
    raise InfrastructureError("cannot put the model there", str(directory), "check the folder, then run again")


def _holds(directory: Path, digest: str) -> bool:
    """Whether the directory holds exactly the model of this digest."""
    try:
        checkpoint.verify(directory)
    except checkpoint.CheckpointError:
        return False
    return bool(checkpoint.digest(directory) == digest)
