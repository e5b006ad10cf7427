"""The workers of one training: had from Ray, started, listened to, and ended. What they do is in `ranks`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final

import ray
from ray.exceptions import RayError
from ray.train import BackendConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.board import Board, Note
from pipeline.checkpoints import Progress
from pipeline.cluster import own_error
from pipeline.config import Train
from pipeline.errors import InfrastructureError, from_plain
from pipeline.job import Job
from pipeline.ranks import loop
from vae.evaluate import Evaluation

POLL_S: Final = 0.3
COLLECTIVE_TIMEOUT_S: Final = 120
RESIZE_S: Final = 60.0
"""How often an elastic training looks for more room; to take it, it starts anew from its last checkpoint."""


class _Trainer(DataParallelTrainer):
    """Ray's, without two actors that nothing here has a use for and every training would wait for.

    One deals out Ray Data sets. The other, which takes 12 s to stop where there is no dashboard, frees the workers of a
    controller that died; ours end with the driver, whose cluster or job they belong to.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [it for it in super()._create_default_callbacks() if not isinstance(it, unused)]


class _Room:
    """Whether the cluster has room for the fewest workers allowed; Ray itself would wait for it without end."""

    def __init__(self, train: Train, *, wait_s: float) -> None:
        self.each, self.workers, self.wait_s = resources(train), train.workers[0], wait_s
        self.seen = time.monotonic()

    def wait(self) -> None:
        """Until there is room."""
        while not self.check():
            time.sleep(POLL_S)

    def check(self) -> bool:
        """Whether there is room. Raises InfrastructureError once there was none for `wait_s` seconds."""
        there = ray.cluster_resources()
        lacking = [kind for kind in self.each if there.get(kind, 0) < self.each[kind] * self.workers]
        now = time.monotonic()
        if not lacking:
            self.seen = now
        elif now - self.seen >= self.wait_s:
            kind = lacking[0]
            raise InfrastructureError(
                f"{self.workers} workers with {self.each[kind]} {kind} each asked for; "
                f"after {self.wait_s:g} s the cluster has {there.get(kind, 0):g} {kind}",
                cure="fewer train.num_workers, a larger cluster, or a longer cluster.wait_s",
            )
        return not lacking


def work(
    job: Job, *, wait_s: float, hear: Callable[[list[Note]], None], check: Callable[[], None]
) -> tuple[Progress, Evaluation]:
    """Run the workers to the training's end; while they run, `hear` is told what they report, and `check` called.

    Raises InfrastructureError if the cluster has no room for them during `wait_s` seconds, or if they keep dying.
    """
    room = _Room(job.train, wait_s=wait_s)
    room.wait()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()  # no other node's end is its own
    shutil.rmtree(job.path / "ray", ignore_errors=True)  # Ray's own state: of no use, and torn it stops Ray
    trainer = _trainer(job, board)
    with ThreadPoolExecutor(max_workers=1) as threads:  # not the main thread, where Ray would take over Ctrl-C
        future = threads.submit(trainer.fit)
        try:
            for notes in _pinned(board, future):
                check()
                room.check()
                hear(notes)
            outcome = json.loads(future.result().return_value)
        except BaseException as error:
            if not future.done():
                ray.shutdown()  # ends the workers, and so the thread that waits for them
            if isinstance(error, TrainingFailedError | RayError):
                raise own_error(error, cure="run again: it resumes from the last checkpoint") from error
            raise
    if "error" in outcome:
        raise from_plain(outcome["error"])
    return Progress.from_plain(outcome["progress"]), Evaluation.from_plain(outcome["evaluation"])


def resources(train: Train) -> dict[str, int]:
    """What one worker takes."""
    return {"CPU": train.cpus_per_worker, **({"GPU": 1} if train.use_gpu else {})}


def _trainer(job: Job, board: Any) -> _Trainer:
    train = job.train
    least, most = train.workers
    return _Trainer(
        partial(loop, job, board),  # only workers unpack it, so the controller need not import it
        backend_config=_backend(train),
        scaling_config=ScalingConfig(
            num_workers=most if least == most else (least, most),
            use_gpu=train.use_gpu,
            resources_per_worker=resources(train),
            elastic_resize_monitor_interval_s=RESIZE_S,
        ),
        run_config=RunConfig(
            name=job.path.name,
            storage_path=str(job.path / "ray"),
            failure_config=FailureConfig(max_failures=train.max_restarts, controller_failure_limit=3),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _backend(train: Train) -> BackendConfig:
    """torch's process group; none for a worker that is always alone, and no torch in its controller."""
    if train.workers[1] == 1:
        return BackendConfig()
    return TorchConfig(backend="nccl" if train.use_gpu else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S)


def _pinned(board: Any, future: Future[Any]) -> Iterator[list[Note]]:
    """What the workers report, every POLL_S seconds until they are done."""
    while not future.done():
        with suppress(TimeoutError):
            future.exception(timeout=POLL_S)
        yield ray.get(board.take.remote())
