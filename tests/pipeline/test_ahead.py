"""ahead: the same items in the same order, errors in their place, no more made than wanted."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from pipeline.encoding.ahead import ahead


def numbers(made: list[int], *, bad: int = -1) -> Generator[int, None, None]:
    """0, 1, 2, ..., each noted as it is made; `bad` cannot be."""
    try:
        for number in range(1000):
            if number == bad:
                raise ValueError(f"{number} is bad")
            made.append(number)
            yield number
    finally:
        made.append(-1)


@pytest.mark.parametrize("depth", [1, 3])
def test_items_come_in_their_order_from_another_thread(depth: int) -> None:
    """All of them, and none is made here."""

    def threads() -> Generator[tuple[int, str], None, None]:
        for number in range(20):
            yield number, threading.current_thread().name

    found = list(ahead(threads(), depth=depth))
    assert [number for number, _ in found] == [*range(20)]
    assert all(name.startswith("ahead") for _, name in found)


def test_an_error_comes_in_its_place() -> None:
    """After the items before it, as it was, through two threads."""
    made: list[int] = []
    items = ahead(ahead(numbers(made, bad=3)))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3 is bad"):
        next(items)
    assert made == [0, 1, 2, -1]


def test_whoever_stops_asking_stops_the_making() -> None:
    """At most `depth` items more than were taken are made, and the source is closed."""
    made: list[int] = []
    items = ahead(ahead(numbers(made)), depth=2)
    assert next(items) == 0
    items.close()
    assert made[-1] == -1
    assert len(made) <= 1 + 1 + 2 + 1 + 1
