"""Do one thing to many units: in threads of this process, or in Ray Data actors. Only facts come back, never rows.

    for index, facts in spread(work, units, workers=2):        # work(unit) -> plain, JSON-able facts
        ...

Threads suit work that numpy and Arrow do: they let go of the interpreter's lock. Actors suit many machines. An actor
that dies is replaced and its units are done again, so `work` must bear that; a unit that ends its worker every time
ends the run, and is named.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property
from typing import Any, Final, TypeVar

from pipeline import handshake
from pipeline.board import Board
from pipeline.cluster import follow, own_error
from pipeline.errors import InfrastructureError, LatentpipeError, from_plain

U = TypeVar("U")
Work = Callable[[U], Any]
Answers = Iterator[tuple[int, Any]]
Spread = Callable[[Work[Any], Sequence[Any]], Answers]
RETRIES: Final = 3
"""How often a unit is given to another actor because its own died."""
RESTARTS: Final = 100
"""How often one actor is replaced."""
BOARD_S: Final = 10.0
"""How long a note for the board may take; it is for messages only."""
SHOWN: Final = 200
"""Characters of a unit in a message."""
CURE: Final = "run again; nothing was published"


class Stopped(Exception):
    """Raised by work that was told to stop: nobody waits for it any more."""


def threads(work: Work[U], units: Sequence[U], *, workers: int) -> Answers:
    """The number of each unit and what `work` says of it, as they finish; an error stops the others.

    So does whoever stops asking: `work.stop()` is called, if it has one, and the units that are being done awaited.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="intake")
    try:
        running: dict[Future[Any], int] = {pool.submit(work, unit): index for index, unit in enumerate(units)}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=running.__getitem__):
                yield running.pop(future), future.result()
    finally:
        getattr(work, "stop", lambda: None)()
        pool.shutdown(cancel_futures=True)


def actors(
    work: Work[U],
    units: Sequence[U],
    *,
    workers: int,
    use_gpu: bool = False,
    wait_s: float = 60.0,
    loads: Sequence[Sequence[int]] | None = None,
) -> Answers:
    """The same by Ray Data over a pool of actors; Ray must be up. `work` and `units` travel, so they are plain.

    `loads` says which units, by their index, go to an actor together, and in which order.
    Raises our own errors as they were, and InfrastructureError for Ray's: if within `wait_s` there is no room for the
    actors, if one runs other code than this process, or if a unit ended its actor more than RETRIES times.
    """
    import ray
    import ray.cloudpickle
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.exceptions import ExecutionTimeoutError
    from ray.exceptions import RayError
    from ray.util.annotations import RayDeprecationWarning

    if not units:
        return
    follow("ray.data")
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.wait_for_min_actors_s = max(1, round(wait_s))
    rows = [{"load": json.dumps([*load])} for load in loads or [[index] for index in range(len(units))]]
    board = ray.remote(num_cpus=0)(Board).remote()
    with warnings.catch_warnings():  # Ray 2.60 calls these two settings deprecated and has no others
        warnings.simplefilter("ignore", RayDeprecationWarning)
        answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            Actor,
            fn_constructor_args=(handshake.CODE, ray.cloudpickle.dumps((work, list(units))), board),
            compute=ActorPoolStrategy(size=min(workers, len(rows))),
            num_cpus=1,
            num_gpus=1 if use_gpu else None,
            max_restarts=RESTARTS,
            max_task_retries=RETRIES,
        )
    done: set[int] = set()
    try:
        for answer in answers.iter_rows():
            if answer["error"] is not None:
                raise from_plain(answer["error"])
            for index, facts in json.loads(answer["facts"]):
                done.add(index)
                yield index, facts
    except (RayError, ExecutionTimeoutError) as error:
        times, index = _suspect([it for it in _begun(board) if it not in done])
        if times > RETRIES:
            cure = "is there enough memory? logs/ray.log has what its worker said last"
            raise InfrastructureError(f"ended its worker {times} times", str(units[index])[:SHOWN], cure) from error
        raise own_error(error, cure=CURE) from error


def _suspect(begun: Sequence[int]) -> tuple[int, int]:
    """How often the unit most often begun in vain was, and its index; of several of one load, the last it came to."""
    last = {index: place for place, index in enumerate(begun)}
    return max(
        ((times, index) for index, times in Counter(begun).items()), key=lambda it: (it[0], last[it[1]]), default=(0, 0)
    )


def _begun(board: Any) -> list[int]:
    """The index of a unit for every time that it was begun."""
    import ray
    from ray.exceptions import RayError

    try:
        return [int(note) for note in ray.get(board.take.remote(), timeout=BOARD_S)]
    except RayError:
        return []


class Actor:
    """Holds the work and the units, once it knows that it runs the driver's code; is told numbers of units."""

    def __init__(self, driver: handshake.Code, packed: bytes, board: Any) -> None:
        self.driver, self.packed, self.board = driver, packed, board

    @cached_property
    def task(self) -> tuple[Work[Any], Sequence[Any]]:
        """The work and the units, unpacked no sooner than the code is known to be the same."""
        import ray.cloudpickle

        handshake.check(self.driver)
        unpacked: tuple[Work[Any], Sequence[Any]] = ray.cloudpickle.loads(self.packed)
        return unpacked

    def __call__(self, row: dict[str, str]) -> dict[str, Any]:
        """The facts as JSON, or our own error as data: Ray would wrap an exception beyond recognition."""
        answer: dict[str, Any] = {"facts": None, "error": None}
        try:
            answer["facts"] = json.dumps([(index, self._do(index)) for index in json.loads(row["load"])])
        except LatentpipeError as error:
            answer["error"] = error.to_plain()
        return answer

    def _do(self, index: int) -> Any:
        work, units = self.task
        self._note(index)
        return work(units[index])

    def _note(self, index: int) -> None:
        """Say which unit is begun, in case that it is this worker's last."""
        import ray
        from ray.exceptions import RayError

        try:
            ray.get(self.board.pin.remote(str(index)), timeout=BOARD_S)
        except RayError:
            return
