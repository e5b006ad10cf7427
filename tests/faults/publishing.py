"""Faults of publishing, on a folder and on a bucket: rows 1, 6, 7, 8, 10, 11 and 17 of the matrix. No Ray."""

from __future__ import annotations

import sys
from functools import partial

from faults import busy, clock, crowd, sweeping, targets
from faults.cases import Case
from faults.stops import SCENARIOS, stopped_everywhere

PLACES = {"folder": False, "bucket": True}


def cases() -> list[Case]:
    """All of them."""
    one = [*stops("folder"), *stops("bucket"), *failures(4)]
    return [*one, *crowds(25), *twins(50), *clocks(), *sweeps(20), *places()]


def quick() -> list[Case]:
    """Those of `make test`."""
    bucket = Case(1, "bucket, second", partial(stopped_everywhere, scenario="second", remote=True, ways=("after",)))
    one = [*stops("folder"), bucket, *failures(1)]
    return [*one, *crowds(5)[:1], *twins(5)[:1], *clocks()[3:4], *sweeps(5)[:1], *places()]


def stops(place: str) -> list[Case]:
    """Row 1."""
    return [
        Case(1, f"{place}, {it}", partial(stopped_everywhere, scenario=it, remote=PLACES[place])) for it in SCENARIOS
    ]


def failures(seeds: int) -> list[Case]:
    """Row 6."""
    rates = [(rate, seed) for rate in (0.1, 0.3) for seed in range(seeds)]
    on_commit = {
        "lost reply on the commit": ["lost reply"],
        "two lost replies on the commit": ["lost reply", "lost reply"],
        "503 and 409 on the commit": ["503", "409"],
    }
    return [
        *(
            Case(6, f"{rate:.0%} fail, seed {it}", partial(busy.some_fail, rate=rate, seed=it, commits=2))
            for rate, it in rates
        ),
        *(Case(6, name, partial(busy.commit_fails, faults=faults)) for name, faults in on_commit.items()),
        Case(6, "nothing is answered", busy.all_fail),
        Case(6, "committed, and never answered", busy.commit_unanswered),
    ]


def crowds(commits: int) -> list[Case]:
    """Row 7."""
    return [
        Case(7, f"{place}, 8 processes x {commits}", partial(crowd.many, processes=8, commits=commits, remote=remote))
        for place, remote in PLACES.items()
    ]


def twins(rounds: int) -> list[Case]:
    """Row 8."""
    return [
        Case(8, f"{place}, twice at once x {rounds}", partial(crowd.twins, rounds=rounds, remote=remote))
        for place, remote in PLACES.items()
    ]


def clocks() -> list[Case]:
    """Row 10; none without libfaketime."""
    if clock.library() is None:
        print("row 10 is left out: no libfaketime here, apt-get install faketime", file=sys.stderr)
        return []
    return [Case(10, name, partial(clock.shifted, name=name)) for name in clock.SHIFTS]


def sweeps(rounds: int) -> list[Case]:
    """Row 11."""
    return [
        Case(11, f"{place}, {rounds} commits", partial(sweeping.swept, commits=rounds, remote=remote))
        for place, remote in PLACES.items()
    ]


def places() -> list[Case]:
    """Row 17."""
    return [Case(17, name, run) for name, run in targets.TARGETS.items()]
