"""What Ray runs on each rank: `worker.run`, which pins its metrics, and what else it has to say, to the driver's board.

A module of its own, because every worker process imports it: no MLflow here.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from functools import partial
from typing import Any, Final

import ray
from ray.train import get_context
from ray.train.torch import get_device, prepare_model

from pipeline.errors import LatentpipeError
from pipeline.training import worker
from pipeline.training.checkpoints import Metrics
from pipeline.training.job import Job, Place

WRAPPED: Final[dict[str, Any]] = {"parallel_strategy_kwargs": {"broadcast_buffers": False}}
"""Buffers are constants: there is nothing to synchronise in every step."""


def loop(job: Job, board: Any) -> str:
    """The training loop of one rank; what rank 0 returns reaches the driver.

    It is JSON: Ray's controller unpacks all that passes through it, and would import torch for a record of ours.
    An error of ours is returned, not raised: Ray would try it again on new workers, and it would happen again.
    """
    started = time.monotonic()
    context = get_context()
    place = Place(context.get_world_rank(), context.get_world_size(), get_device())

    def pin(metrics: Metrics) -> None:
        note = {**metrics, "loop_s": time.monotonic() - started, "workers": place.world_size}
        ray.get(board.pin.remote(note))  # waits: what is pinned is there when the loop has ended

    try:
        progress, evaluation = worker.run(
            job,
            place=place,
            prepare=partial(prepare_model, **WRAPPED),
            report=pin,
            tell=lambda text: ray.get(board.pin.remote(text)),
        )
    except LatentpipeError as error:
        return json.dumps({"error": error.to_plain()})
    return json.dumps({"progress": asdict(progress), "evaluation": asdict(evaluation)})
