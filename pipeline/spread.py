"""Do one thing to many units: in threads of this process, or in Ray Data actors. Only facts come back, never rows.

    for index, facts in spread(work, units, workers=2):        # work(unit) -> plain, JSON-able facts
        ...

Threads suit work that numpy and Arrow do: they let go of the interpreter's lock. Actors suit many machines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeVar

from pipeline.cluster import own_error
from pipeline.errors import LatentpipeError, from_plain

U = TypeVar("U")
Work = Callable[[U], Any]
Answers = Iterator[tuple[int, Any]]
Spread = Callable[[Work[Any], Sequence[Any]], Answers]


def threads(work: Work[U], units: Sequence[U], *, workers: int) -> Answers:
    """The number of each unit and what `work` says of it, as they finish; an error stops the others."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="intake")
    try:
        running: dict[Future[Any], int] = {pool.submit(work, unit): index for index, unit in enumerate(units)}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=running.__getitem__):
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def actors(work: Work[U], units: Sequence[U], *, workers: int, use_gpu: bool = False) -> Answers:
    """The same by Ray Data over a pool of actors; Ray must be up. `work` and `units` travel, so they are plain.

    Raises our own errors as they were, and InfrastructureError for Ray's.
    """
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayError

    if not units:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    answers = ray.data.from_items([{"unit": index} for index in range(len(units))], override_num_blocks=len(units)).map(
        Actor,
        fn_constructor_args=(work, list(units)),
        compute=ActorPoolStrategy(size=min(workers, len(units))),
        num_cpus=1,
        num_gpus=1 if use_gpu else None,
    )
    try:
        for answer in answers.iter_rows():
            if answer["error"] is not None:
                raise from_plain(answer["error"])
            yield answer["unit"], json.loads(answer["facts"])
    except (RayError, ExecutionTimeoutError) as error:
        raise own_error(error, cure="run again; nothing was published") from error


class Actor(Generic[U]):
    """Holds the work and the units; is told the number of one at a time."""

    def __init__(self, work: Work[U], units: Sequence[U]) -> None:
        self.work, self.units = work, units

    def __call__(self, row: dict[str, int]) -> dict[str, Any]:
        """The facts as JSON, or our own error as data: Ray would wrap an exception beyond recognition."""
        answer: dict[str, Any] = {"unit": row["unit"], "facts": None, "error": None}
        try:
            answer["facts"] = json.dumps(self.work(self.units[row["unit"]]))
        except LatentpipeError as error:
            answer["error"] = error.to_plain()
        return answer
