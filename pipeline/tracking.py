"""MLflow: the one file that owns it. Training runs with live metrics; versions in the registry; the alias.

Everything is logged by the driver alone, over absolute URIs: workers may change directories, and sqlite has one writer.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

SAFE: Final = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOG_UV_FILES": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
os.environ.update({name: os.environ.get(name, value) for name, value in SAFE.items()})

import mlflow  # noqa: E402  (reads the environment above when imported)
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag  # noqa: E402
from mlflow.entities.model_registry import ModelVersion  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID  # noqa: E402

from pipeline.config import RunConfig  # noqa: E402
from pipeline.errors import ConfigError, InfrastructureError  # noqa: E402
from pipeline.records import Ingested  # noqa: E402
from vae import checkpoint  # noqa: E402
from vae.evaluate import Evaluation  # noqa: E402

KEY_TAG: Final = "latentpipe.training_key"
DIGEST_TAG: Final = "latentpipe.model_digest"
CHECKED_TAG: Final = "latentpipe.checked"
COMPARISON_TAG: Final = "latentpipe.comparison_key"
TUNING_TAG: Final = "latentpipe.tuning_key"
TRIAL_TAG: Final = "latentpipe.trial"
CHAMPION: Final = "champion"
PLACE_TRIES: Final = 3
DIGEST_LENGTH: Final = 36
"""Longest dataset digest that MLflow's database holds."""


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


@dataclass
class _Run:
    """An MLflow run that ends with the block it is opened for."""

    client: MlflowClient
    id: str

    @classmethod
    def _left(cls, client: MlflowClient, experiment: str, tag: str, key: str) -> Self | None:
        """The run that an interrupted attempt has left, running again."""
        left = client.search_runs([experiment], f"tags.`{tag}` = '{key}'", max_results=1)
        if not left:
            return None
        client.update_run(left[0].info.run_id, status="RUNNING")
        return cls(client, left[0].info.run_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with suppress(MlflowException):  # the block's own error is the one to tell
                self.client.set_terminated(self.id, "FAILED" if issubclass(kind, Exception) else "KILLED")

    def log(self, epochs: Sequence[dict[str, float]]) -> None:
        """The metrics of some epochs, while the training runs."""
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, int(epoch["epoch"]))
            for epoch in epochs
            for name, value in epoch.items()
            if name != "epoch"
        ]
        with mlflow_errors(self.id):
            self.client.log_batch(self.id, metrics=metrics)

    def _measure(self, figures: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in figures.items()])


class TrainingRun(_Run):
    """One training as one MLflow run, whichever process works on it."""

    @classmethod
    def open(cls, config: RunConfig, *, key: str, dataset: Ingested) -> Self:
        """The run of this training key; a new one unless an interrupted training has left its own."""
        client = connect(config)
        with mlflow_errors(config.name):
            experiment = _experiment(client, config)
            if (left := cls._left(client, experiment, KEY_TAG, key)) is not None:
                return left
            run = cls(client, client.create_run(experiment, run_name=f"{config.name}-{key[:8]}").info.run_id)
            run._describe(config, key, dataset)
            return run

    def _describe(self, config: RunConfig, key: str, dataset: Ingested) -> None:
        tags = [RunTag(KEY_TAG, key), RunTag("latentpipe.dataset_digest", dataset.digest)]
        self.client.log_batch(self.id, params=_params(config), tags=tags)
        self.client.log_dict(self.id, config.to_dict(), "config.json")
        self.client.log_inputs(self.id, [DatasetInput(_dataset(config, dataset), tags=[])])

    def started(self, seconds: dict[str, float]) -> None:
        """How long the start took, by item."""
        now = int(time.time() * 1000)
        metrics = [Metric(f"startup_{name}_s", value, now, 0) for name, value in seconds.items()]
        with mlflow_errors(self.id):
            self.client.log_batch(self.id, metrics=metrics)

    def finish(self, evaluation: Evaluation, story: Path, *, step: int) -> None:
        """The figures on the test rows, the training's story, and the end of the run."""
        figures = {name: value for name, value in asdict(evaluation).items() if isinstance(value, int | float)}
        with mlflow_errors(self.id):
            self._measure({f"test_{name}": float(value) for name, value in figures.items()}, step)
            self.client.log_artifact(self.id, str(story))
            self.client.set_terminated(self.id, "FINISHED")


class ComparisonRun(_Run):
    """A comparison as one MLflow run, the parent of its members' runs."""

    @classmethod
    def open(cls, config: RunConfig, *, key: str) -> Self:
        """The run of this comparison's key; a new one unless an interrupted comparison has left its own."""
        client = connect(config)
        with mlflow_errors(config.name):
            experiment = _experiment(client, config)
            if (left := cls._left(client, experiment, COMPARISON_TAG, key)) is not None:
                return left
            name, tags = f"{config.name}-compare-{key[:8]}", {COMPARISON_TAG: key}
            return cls(client, client.create_run(experiment, run_name=name, tags=tags).info.run_id)

    def adopt(self, run_id: str, *, name: str) -> None:
        """Note a member's run; it becomes a child unless it is that of an earlier comparison."""
        with mlflow_errors(run_id):
            self.client.set_tag(self.id, f"latentpipe.member.{name}", run_id)
            if MLFLOW_PARENT_RUN_ID not in self.client.get_run(run_id).data.tags:
                self.client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, self.id)

    def finish(self, figures: dict[str, float], directory: Path) -> None:
        """The figures, the table and the plot, and the end of the run."""
        with mlflow_errors(self.id):
            self._measure(figures, 0)
            for name in ("table.csv", "table.md", "figure.png"):
                self.client.log_artifact(self.id, str(directory / name))
            self.client.set_terminated(self.id, "FINISHED")


@dataclass
class TrialRun(_Run):
    """A trial as one MLflow run, the child of its tuning's."""

    logged: float = 0
    """Newest epoch logged; earlier ones, retold after an interruption, are passed over."""

    @classmethod
    def open(cls, parent: TuningRun, config: RunConfig, *, number: int) -> Self:
        """The run of this trial; a new one unless an interrupted tuning has left its own."""
        client, tag = parent.client, f"{parent.id}/{number}"
        if (run := cls._left(client, parent.experiment, TRIAL_TAG, tag)) is not None:
            run.logged = max((it.step for it in client.get_metric_history(run.id, "score")), default=0)
            return run
        name, tags = f"trial-{number}", {TRIAL_TAG: tag, MLFLOW_PARENT_RUN_ID: parent.id}
        run = cls(client, client.create_run(parent.experiment, run_name=name, tags=tags).info.run_id)
        client.log_batch(run.id, params=_params(config))
        return run

    def log(self, epochs: Sequence[dict[str, float]]) -> None:
        """The metrics of epochs not logged yet."""
        super().log([it for it in epochs if it["epoch"] > self.logged])
        self.logged = max(self.logged, *(it["epoch"] for it in epochs))

    def finish(self, figures: Mapping[str, float], *, state: str, error: str) -> None:
        """The final figures, how it ended, and the end of the run."""
        with mlflow_errors(self.id):
            self._measure({f"final_{name}": value for name, value in figures.items()}, int(self.logged))
            self.client.set_tag(self.id, "latentpipe.state", f"{state}: {error}" if error else state)
            self.client.set_terminated(self.id, "FAILED" if state == "failed" else "FINISHED")


@dataclass
class TuningRun(_Run):
    """A tuning as one MLflow run, the parent of its trials' runs, which end when it does."""

    experiment: str = ""
    running: dict[int, TrialRun] = field(default_factory=dict)

    @classmethod
    def open(cls, config: RunConfig, *, key: str) -> Self:
        """The run of this tuning's key; a new one unless an interrupted tuning has left its own."""
        client = connect(config)
        with mlflow_errors(config.name):
            experiment = _experiment(client, config)
            run = cls._left(client, experiment, TUNING_TAG, key)
            if run is None:
                name, tags = f"{config.name}-tune-{key[:8]}", {TUNING_TAG: key}
                run = cls(client, client.create_run(experiment, run_name=name, tags=tags).info.run_id)
        run.experiment = experiment
        return run

    def trial(self, number: int, config: RunConfig) -> TrialRun:
        """The run of a trial."""
        if number not in self.running:
            with mlflow_errors(self.id):
                self.running[number] = TrialRun.open(self, config, number=number)
        return self.running[number]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for trial in self.running.values():
            trial.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)

    def conclude(self, number: int, figures: Mapping[str, float], *, state: str, error: str) -> None:
        """End the run of a trial."""
        self.running.pop(number).finish(figures, state=state, error=error)

    def finish(self, figures: Mapping[str, float], directory: Path) -> None:
        """The winner's figures, the table and the winner's TOML, and the end of the run."""
        with mlflow_errors(self.id):
            self._measure(figures, 0)
            for name in ("trials.json", "winner.toml"):
                self.client.log_artifact(self.id, str(directory / name))
            self.client.set_terminated(self.id, "FINISHED")


def history(config: RunConfig, run_id: str, name: str) -> dict[int, float]:
    """A metric of a run by epoch; of one that was done twice, the later."""
    with mlflow_errors(run_id):
        logged = connect(config).get_metric_history(run_id, name)
    return {it.step: it.value for it in sorted(logged, key=lambda it: (it.step, it.timestamp))}


def log_files(config: RunConfig, run_id: str, directory: Path, *, folder: str) -> None:
    """Copy the files of a directory to the run's artefacts."""
    with mlflow_errors(run_id):
        connect(config).log_artifacts(run_id, str(directory), folder)


def find_version(config: RunConfig, *, digest: str) -> ModelVersion | None:
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


def create_version(config: RunConfig, *, run_id: str, key: str, digest: str, **model: Any) -> ModelVersion:
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


def model_files(config: RunConfig, version: ModelVersion) -> Path:
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


def _experiment(client: MlflowClient, config: RunConfig) -> str:
    name = config.tracking.experiment or config.name
    if (experiment := client.get_experiment_by_name(name)) is not None:
        return str(experiment.experiment_id)
    location = None if config.tracking.uri else (config.root / "mlartifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def _dataset(config: RunConfig, ingested: Ingested) -> Dataset:
    source = json.dumps({"uri": Path(ingested.snapshot).as_uri()})
    profile = json.dumps({"rows": ingested.rows, "quarantined": ingested.quarantined, "manifest": ingested.digest})
    return Dataset(config.name, ingested.digest[:DIGEST_LENGTH], "local", source, profile=profile)


def _params(config: RunConfig) -> list[Param]:
    """The settings that decide what is learnt."""
    settings = config.to_dict()
    told = {section: settings[section] for section in ("model", "objective", "train")}
    return [Param(name, str(value)[:500]) for name, value in _flat(told)]


def _flat(settings: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value
