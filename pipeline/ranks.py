"""What Ray runs: `worker.run` on each rank, and the board that rank 0 pins its metrics to.

A module of its own, because every worker process imports it: no MLflow here.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import ray
from ray.train import get_context
from ray.train.torch import get_device, prepare_model

from pipeline import worker
from pipeline.checkpoints import Metrics, Progress
from pipeline.errors import LatentpipeError
from pipeline.job import Place
from vae.evaluate import Evaluation

WRAPPED: Final[dict[str, Any]] = {"parallel_strategy_kwargs": {"broadcast_buffers": False}}
"""Buffers are constants: there is nothing to synchronise in every step."""


class Board:
    """Where rank 0 pins what it has done, for the driver to read while training runs.

    `ray.train.report` would hold every epoch for the controller's next poll.
    """

    def __init__(self) -> None:
        self.pinned: list[Metrics] = []

    def pin(self, metrics: Metrics) -> None:
        """Add the metrics of an epoch."""
        self.pinned.append(metrics)

    def take(self) -> list[Metrics]:
        """What was pinned since the last call."""
        taken, self.pinned = self.pinned, []
        return taken


def loop(settings: dict[str, Any]) -> tuple[Progress, Evaluation] | LatentpipeError:
    """The training loop of one rank; what rank 0 returns reaches the driver.

    An error of ours is returned, not raised: Ray would try it again on new workers, and it would happen again.
    """
    context, board = get_context(), settings["board"]
    place = Place(context.get_world_rank(), context.get_world_size(), get_device())

    def pin(metrics: Metrics) -> None:
        ray.get(board.pin.remote(metrics))  # waits: what is pinned is there when the loop has ended

    try:
        return worker.run(settings["job"], place=place, prepare=partial(prepare_model, **WRAPPED), report=pin)
    except LatentpipeError as error:
        return error
