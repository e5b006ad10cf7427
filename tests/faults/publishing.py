"""Faults of publishing, on a folder and on a bucket: rows 1, 6, 7, 8, 10, 11 and 17 of the matrix. No Ray."""

from __future__ import annotations

from functools import partial

from faults.cases import Case
from faults.stops import SCENARIOS, stopped_everywhere


def cases() -> list[Case]:
    """All of them."""
    return stops()


def quick() -> list[Case]:
    """Those of `make test`."""
    return stops()


def stops() -> list[Case]:
    """Row 1."""
    return [
        Case(1, f"{'bucket' if remote else 'folder'}, {name}", partial(stopped_everywhere, scenario=name, remote=remote))
        for remote in (False, True)
        for name in SCENARIOS
    ]
