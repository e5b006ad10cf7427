"""Trials side by side, by Ray Tune: what each process runs, who is stopped early, and what is heard of them.

A trial keeps its own checkpoints, so it goes on where it was when its process, the driver or the machine is gone. Ray's
own snapshots of an experiment are not used: they are pickles, some seconds old, and know nothing of the scheduler.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any, Final

import ray
import torch
from ray import tune
from ray.exceptions import RayError
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from pipeline.cluster import own_error
from pipeline.config import RunConfig, Tune
from pipeline.errors import InfrastructureError, LatentpipeError, from_plain
from pipeline.training import checkpoints, worker
from pipeline.training.checkpoints import Metrics
from pipeline.training.job import CPU, Job, Place

POLL_S: Final = 0.3
FAILED: Final = "failed.json"
"""In a trial's directory: the error that ended it, and would again."""


@dataclass(frozen=True)
class News:
    """What is heard of a trial: an epoch, or its end."""

    trial: int
    epoch: Metrics | None = None
    error: str = ""


class Halving(ASHAScheduler):
    """ASHA over the validation score. The first trial, which the others are compared with, is never stopped early."""

    def __init__(self, settings: Tune) -> None:
        super().__init__(
            time_attr="epoch",
            metric="score",
            mode="max",
            max_t=settings.epochs,
            grace_period=settings.grace,
            reduction_factor=settings.reduction,
        )
        self.epochs = settings.epochs

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        verdict: str = super().on_trial_result(tune_controller, trial, result)
        spared = trial.config["number"] == 0 and result.get("epoch", 0) < self.epochs
        return TrialScheduler.CONTINUE if spared else verdict

    def remember(self, number: int, history: list[Metrics]) -> None:
        """Count a trial of an earlier attempt among those that others are compared with."""
        past = SimpleNamespace(trial_id=f"past-{number}", config={"number": number})
        self.on_trial_add(None, past)
        for metrics in history:
            self.on_trial_result(None, past, {"epoch": metrics["epoch"], "score": metrics["score"]})


class Wire(tune.Callback):
    """Hands on what Ray Tune hears, to be read in another thread."""

    def __init__(self) -> None:
        self.news: SimpleQueue[News] = SimpleQueue()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray Tune writes its callbacks down; nobody reads this one back

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """An epoch."""
        self.news.put(News(trial.config["number"], epoch=result["metrics"]))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """The end, or an early stop."""
        self.news.put(News(trial.config["number"]))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """An end that was not ours."""
        words = str(trial.get_error()).strip().splitlines() or ["the process was lost"]
        self.news.put(News(trial.config["number"], error=words[-1].strip()))


def attempt(settings: dict[str, int], jobs: Mapping[int, Job]) -> None:
    """One trial, in its process: retell the epochs of an interrupted attempt, then go on from its checkpoint."""
    job = jobs[settings["number"]]
    for metrics in checkpoints.history(job.path):
        _tell(metrics)
    device = torch.device("cuda") if job.train.use_gpu else CPU
    try:
        worker.run(job, place=Place(device=device), report=_tell)
    except LatentpipeError as error:  # raised, Ray would try again, and it would happen again
        (job.path / FAILED).write_text(error.to_plain())


def _tell(metrics: Metrics) -> None:
    plain = {name: float(value) for name, value in metrics.items()}
    tune.report({"epoch": int(plain["epoch"]), "score": plain["score"], "metrics": plain})


def search(
    config: RunConfig, jobs: Mapping[int, Job], scheduler: Halving, *, scratch: Path
) -> Generator[News, None, None]:
    """Run the trials, as many at once as there is room for; what is heard of them. Close it to stop them.

    Raises InfrastructureError if there is no room for one, or if Ray fails.
    """
    resources, at_once = room(config)
    shutil.rmtree(scratch, ignore_errors=True)
    wire = Wire()
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(attempt, jobs=dict(jobs)), resources),
        param_space={"number": tune.grid_search(sorted(jobs))},
        tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=at_once, reuse_actors=True),
        run_config=tune.RunConfig(
            name=scratch.name,
            storage_path=str(scratch.parent),
            failure_config=tune.FailureConfig(max_failures=config.train.max_restarts),
            callbacks=[wire],
            verbose=0,
        ),
    )
    with ThreadPoolExecutor(max_workers=1) as threads:  # not the main thread, where Ray would take over Ctrl-C
        future = threads.submit(tuner.fit)
        try:
            while not (future.done() and wire.news.empty()):
                with suppress(Empty):
                    yield _known(jobs, wire.news.get(timeout=POLL_S))
            future.result()
        except (tune.TuneError, RayError) as error:
            raise own_error(error, cure="run again: it goes on where it was") from error
        except BaseException:
            ray.shutdown()  # ends the trials, and so the thread that waits for them
            raise


def _known(jobs: Mapping[int, Job], news: News) -> News:
    """An end, with the error that the trial itself has noted."""
    noted = jobs[news.trial].path / FAILED
    if news.epoch is None and noted.exists():
        return News(news.trial, error=from_plain(noted.read_text()).what)
    return news


def room(config: RunConfig) -> tuple[dict[str, float], int]:
    """What one trial takes, and how many there is room for at once. Raises InfrastructureError if it is none."""
    settings, there = config.train, ray.cluster_resources()
    wanted = {"CPU": float(settings.cpus_per_worker), **({"GPU": 1.0} if settings.use_gpu else {})}
    for kind, amount in wanted.items():
        if there.get(kind, 0) < amount:
            raise InfrastructureError(
                f"a trial takes {amount:g} {kind}, the cluster has {there.get(kind, 0):g} {kind}",
                cure="fewer train.cpus_per_worker, train.use_gpu = false, or a larger cluster",
            )
    if not (config.cluster.address or config.cluster.num_cpus):  # embedded, CPUs are bookkeeping; cores are not
        there = {**there, "CPU": max(wanted["CPU"], os.cpu_count() or 1)}
    fits = math.floor(min(there[kind] / amount for kind, amount in wanted.items()))
    return wanted, min(fits, config.tune.at_once or fits)
