"""Trainings, comparisons and tunings as MLflow runs, with live metrics; an interrupted one goes on in its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipeline.config import RunConfig
from pipeline.records import Ingested
from pipeline.tracking.server import KEY_TAG, connect, experiment, mlflow_errors
from vae.evaluate import Evaluation

COMPARISON_TAG: Final = "latentpipe.comparison_key"
TUNING_TAG: Final = "latentpipe.tuning_key"
TRIAL_TAG: Final = "latentpipe.trial"
DIGEST_LENGTH: Final = 36
"""Longest dataset digest that MLflow's database holds."""


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
            place = experiment(client, config)
            if (left := cls._left(client, place, KEY_TAG, key)) is not None:
                return left
            run = cls(client, client.create_run(place, run_name=f"{config.name}-{key[:8]}").info.run_id)
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
            place = experiment(client, config)
            if (left := cls._left(client, place, COMPARISON_TAG, key)) is not None:
                return left
            name, tags = f"{config.name}-compare-{key[:8]}", {COMPARISON_TAG: key}
            return cls(client, client.create_run(place, run_name=name, tags=tags).info.run_id)

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
            place = experiment(client, config)
            run = cls._left(client, place, TUNING_TAG, key)
            if run is None:
                name, tags = f"{config.name}-tune-{key[:8]}", {TUNING_TAG: key}
                run = cls(client, client.create_run(place, run_name=name, tags=tags).info.run_id)
        run.experiment = place
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
