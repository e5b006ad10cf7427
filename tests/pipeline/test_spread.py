"""One thing done to many units: every unit once, errors as they were, by threads and by Ray alike."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import handshake
from pipeline.errors import DataError, InfrastructureError
from pipeline.spread import RETRIES, actors, threads


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


class Endless:
    """Units that last until they are told to stop."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def stop(self) -> None:
        """End."""
        self.told.set()

    def __call__(self, unit: int) -> bool:
        """The first fails."""
        if unit == 0:
            raise DataError("unlucky", "unit 0", "")
        return self.told.wait(60)


def test_what_is_being_done_is_told_to_stop() -> None:
    """An error, or whoever stops asking, does not wait for a unit of minutes."""
    work = Endless()
    with pytest.raises(DataError, match="unit 0: unlucky"):
        list(threads(work, range(3), workers=2))
    assert work.told.is_set()


@pytest.mark.parametrize("workers", [1, 2])
def test_actors_do_every_unit_once(ray_up: None, workers: int, capfd: pytest.CaptureFixture[str]) -> None:
    """The same answers from other processes; none for no units. What Ray has to say goes to its log."""
    found = dict(actors(squared, range(5), workers=workers))
    assert found == dict(threads(squared, range(5), workers=workers))
    assert list(actors(squared, [], workers=workers)) == []
    assert [it for it in "".join(capfd.readouterr()).splitlines() if "core_worker.cc" not in it] == []


def test_an_actors_error_is_the_units_own(ray_up: None) -> None:
    """Not Ray's wrapping of it: what, where and cure are there."""
    with pytest.raises(DataError) as caught:
        list(actors(squared, [1, 13], workers=1))
    assert caught.value.args == ("unlucky", "unit 13", "another number")


def deadly(unit: int) -> dict[str, int]:
    """A unit that ends its worker, as a crash in a library would; the others do no harm."""
    if unit == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return squared(unit)


def once_deadly(unit: Path) -> dict[str, int]:
    """A unit that ends the first worker that is given it."""
    mark = unit / "begun"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"done": 1}


def test_a_unit_that_always_ends_its_worker_is_named(ray_up: None) -> None:
    """After so many tries the run ends, and says which unit it was."""
    with pytest.raises(InfrastructureError) as caught:
        list(actors(deadly, [1, 7, 2], workers=1, loads=[[0, 1, 2]]))
    assert (caught.value.what, caught.value.where) == (f"ended its worker {1 + RETRIES} times", "7")


def test_a_dead_worker_is_replaced(ray_up: None, tmp_path: Path) -> None:
    """What it was doing is done by another."""
    assert list(actors(once_deadly, [tmp_path], workers=1)) == [(0, {"done": 1})]


def test_an_actor_of_another_code_is_refused(ray_up: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which worker, and what both run; nothing was done."""
    ours = handshake.CODE
    monkeypatch.setattr(handshake, "CODE", replace(ours, contracts={"latents": 99}))
    with pytest.raises(InfrastructureError) as caught:
        list(actors(squared, [1], workers=1))
    assert caught.value.where.startswith("worker ")
    assert f"runs {ours}; the driver runs {handshake.CODE}" in caught.value.what
    assert "contract 'latents': 2, not 99" in caught.value.what


@pytest.mark.parametrize("change", [{"source": "0" * 64}, {"contracts": {}}, {"version": "9.9"}])
def test_any_difference_of_code_is_refused(change: dict[str, Any]) -> None:
    """Another version, another contract, or but another byte of source."""
    handshake.check(handshake.CODE)
    with pytest.raises(InfrastructureError, match="the driver runs"):
        handshake.check(replace(handshake.CODE, **change))
