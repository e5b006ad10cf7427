"""Faults of encode, with real processes: killed, stopped and late workers and drivers, full disks, changed inputs.

    python tests/faults/encoding.py [--many] [--only 2,3] [--named TEXT] [--results FILE]

Among them what the field reports of others' writers: a killed worker's torn file is read by consumers (daft#3576; all
of rows 2 and 3), a late attempt adds a file after the commit (vane#405; row 4), and runs that go on at once delete each
other's files (ray#55043; row 8). As many as `--many` asks for, each at another random moment, take hours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import late, spoiled
from faults.cases import Case, Found
from faults.grounds import MODES, NAME, grounds
from faults.late import Act
from faults.scene import Missed, Scene

MB = 1 << 20
TRIES = 3
LATENTS, LOGS = f"latents/{NAME}", "logs"
INT, TERM = signal.SIGINT, signal.SIGTERM
KILLED: dict[str, Act] = {
    "before the first task": late.driver_killed(late.begun),
    "amid tasks": late.driver_killed(late.amid),
    "all tasks done": late.driver_killed_at("gathered"),
    "before the commit": late.driver_killed_at("committing"),
    "after the commit, before _latest.json": late.driver_killed_at("pointing"),
    "after _latest.json": late.driver_killed(late.pointed),
}
LATE: dict[str, Act] = {
    "worker late, its driver waits": late.worker_late,
    "worker late, its driver is dead": late.orphan_late,
    "worker late, its attempt is swept away": late.swept_late,
}
STOPPED: dict[str, Act] = {
    "SIGINT at start-up": late.interrupted(INT, late.begun),
    "SIGTERM amid tasks": late.interrupted(TERM, late.amid),
    "SIGINT before the commit": late.interrupted_at(INT, "committing", committed=False),
    "SIGTERM after the commit": late.interrupted_at(TERM, "pointing", committed=True),
}
CHANGED: dict[str, Act] = {
    "input has other values after planning": spoiled.input_changed(Scene.attempts, spoiled.other_values),
    "input cut short amid tasks": spoiled.input_changed(Scene.staged, spoiled.cut_short),
}
AT_ONCE: dict[str, Act] = {"two runs of one key at once": spoiled.same_at_once}


def case(row: int, name: str, act: Act, mode: str, *, number: int = 0, disk: tuple[str, int] | None = None) -> Case:
    """An act on a scene of its own, and the judge's word on it."""
    title = f"{name}, {mode}" + (f" #{number}" if number else "")

    def once(folder: Path) -> Found:
        with Scene(grounds(), folder, mode, disk) as scene:
            wrong = act(scene, random.Random(f"{row} {title} {folder.name}"))
            return Found(failed=wrong) if wrong else scene.judge()

    return Case(row, title, partial(hit, once))


def hit(once: Callable[[Path], Found], folder: Path) -> Found:
    """The same again if the run was over before its fault could come, as it may be by bad luck, but not for ever."""
    for number in range(TRIES - 1):
        with suppress(Missed):
            return once(folder / str(number))
    return once(folder / str(TRIES))


def apart(row: int, name: str, act: Act, mode: str, *, disk: tuple[str, int] | None = None) -> Case:
    """An act on a scene that the judge does not know, and that judges itself."""

    def run(folder: Path) -> Found:
        with Scene(grounds(), folder, mode, disk) as scene:
            return Found(failed=act(scene, random.Random(0)))

    return Case(row, f"{name}, {mode}", run)


def cases(many: bool = False) -> list[Case]:
    """All of them; many: each row at ten times as many random moments."""
    times = range(10 if many else 1)
    found = [case(2, "worker killed", late.worker_killed, "actors", number=n + 1) for n in range(30 if many else 3)]
    for mode in MODES:
        for row, acts in {3: KILLED, 4: LATE, 16: STOPPED, 19: CHANGED, 8: AT_ONCE}.items():
            found += [case(row, name, act, mode, number=n) for name, act in acts.items() for n in times]
        found += full_disks(mode)
    found.append(apart(8, "two runs of other keys at once", spoiled.others_at_once, next(iter(MODES))))
    found.append(case(20, "nodes run other code", spoiled.version_skew, "actors"))
    return sorted(found, key=lambda it: it.row)


def quick() -> list[Case]:
    """None of them is."""
    return []


def full_disks(mode: str) -> list[Case]:
    """Row 5."""
    small, large = (LATENTS, 12 * MB), (LATENTS, 64 * MB)
    found = [
        case(5, "disk full at data", spoiled.disk_full, mode, disk=small),
        case(5, "disk full at the manifest", spoiled.disk_full_at("stating"), mode, disk=large),
        case(5, "disk full after the commit", spoiled.disk_full_at("committing"), mode, disk=large),
        case(5, "disk full at logs", spoiled.log_full, mode, disk=(LOGS, 1 * MB)),
    ]
    if mode == "threads":
        found.append(apart(5, "disk full beside units carried over", spoiled.addition_full, mode, disk=large))
        act = spoiled.quarantine_full
        found.append(case(5, "disk full at the quarantine of rows", act, mode, disk=("datasets/bad", 1 * MB)))
    return found


def judged(it: Case) -> Found:
    """What came of it, in a folder of its own; whatever goes wrong is a failure of the case."""
    with tempfile.TemporaryDirectory(prefix="fault-") as folder:
        try:
            return it.run(Path(folder))
        except Exception:
            return Found(failed=traceback.format_exc())


def table(story: list[tuple[Case, Found]]) -> list[str]:
    """A line per fault, and what was found."""
    lines = ["| row | fault | cases | lost | duplicated | torn | failed |", "|---|---|---|---|---|---|---|"]
    for row, name in dict.fromkeys((it.row, it.name.partition(" #")[0]) for it, _ in story):
        mine = [found for it, found in story if (it.row, it.name.partition(" #")[0]) == (row, name)]
        sums = [sum(getattr(it, what) for it in mine) for what in ("lost", "duplicated", "torn")]
        cells = [row, name, len(mine), *sums, sum(bool(it.failed) for it in mine)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def main() -> None:
    """Run them one after the other, tell, write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--many", action="store_true", help="ten times as many")
    parser.add_argument("--only", default="", help="rows of the matrix, such as 2,3")
    parser.add_argument("--named", default="", help="part of the names of the cases")
    parser.add_argument("--results", type=Path, help="Markdown file to write")
    asked = parser.parse_args()
    rows, story, began = {int(row) for row in asked.only.split(",") if row}, [], time.monotonic()
    for it in cases(asked.many):
        if (not rows or it.row in rows) and asked.named in it.name:
            since = time.monotonic()
            story.append((it, judged(it)))
            print(f"{it.row:>2} {it.name}, {time.monotonic() - since:.0f} s: {story[-1][1]}", flush=True)
    sums = {what: sum(getattr(found, what) for _, found in story) for what in ("lost", "duplicated", "torn")}
    failed = [f"{it.row} {it.name}" for it, found in story if found != Found()]
    facts = {"cases": len(story), **sums, "failed": failed, "seconds": round(time.monotonic() - began)}
    where = f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores"
    lines = [f"# Faults of encode ({where})", "", *table(story), "", json.dumps(facts)]
    if asked.results:
        asked.results.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[2:]))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
