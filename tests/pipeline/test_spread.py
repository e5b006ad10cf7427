"""One thing done to many units: every unit once, errors as they were, by threads and by Ray alike."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.spread import actors, threads


def squared(unit: int) -> dict[str, int]:
    """The work of these tests."""
    if unit == 13:
        raise DataError("unlucky", "unit 13", "another number")
    return {"square": unit * unit}


def test_threads_do_every_unit_once() -> None:
    """All answers come, each with the number of its unit."""
    found = dict(threads(squared, range(10), workers=3))
    assert found == {index: {"square": index**2} for index in range(10)}


def test_threads_stop_at_an_error() -> None:
    """The error is the unit's own, and units that had not begun are left."""
    begun: list[int] = []
    gate = threading.Event()

    def work(unit: int) -> Any:
        begun.append(unit)
        if unit == 0:
            raise DataError("unlucky", "unit 0", "")
        gate.wait(5)

    timer = threading.Timer(0.2, gate.set)
    timer.start()
    with pytest.raises(DataError, match="unit 0: unlucky"):
        list(threads(work, range(100), workers=2))
    assert len(begun) < 100


@pytest.mark.parametrize("workers", [1, 2])
def test_actors_do_every_unit_once(ray_up: None, workers: int) -> None:
    """The same answers from other processes; none for no units."""
    found = dict(actors(squared, range(5), workers=workers))
    assert found == dict(threads(squared, range(5), workers=workers))
    assert list(actors(squared, [], workers=workers)) == []


def test_an_actors_error_is_the_units_own(ray_up: None) -> None:
    """Not Ray's wrapping of it: what, where and cure are there."""
    with pytest.raises(DataError) as caught:
        list(actors(squared, [1, 13], workers=1))
    assert caught.value.args == ("unlucky", "unit 13", "another number")
