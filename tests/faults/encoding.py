"""Faults of encode, with real processes: killed, stopped and late workers and drivers, full disks, changed inputs.

    python tests/faults/encoding.py [--many] [--only 2,3] [--named TEXT] [--results FILE]

Among them what the field reports of others' writers: a killed worker's torn file is read by consumers (daft#3576; all
of rows 2 and 3), a late attempt adds a file after the commit (vane#405; row 4), and runs that go on at once delete each
other's files (ray#55043; row 8). As many as `--many` asks for, each at another random moment, take hours.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import late, spoiled
from faults.cases import Case, Found
from faults.grounds import MODES, NAME, grounds
from faults.late import Act
from faults.scene import Scene

MB = 1 << 20
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
    title = f"{name}, {mode}" + (f" {number}" if number else "")

    def run(folder: Path) -> Found:
        with Scene(grounds(), folder, mode, disk) as scene:
            wrong = act(scene, random.Random(f"{row} {title}"))
            return Found(failed=wrong) if wrong else scene.judge()

    return Case(row, title, run)


def apart(row: int, name: str, act: Act, mode: str) -> Case:
    """An act on a scene that the judge does not know, and that judges itself."""

    def run(folder: Path) -> Found:
        with Scene(grounds(), folder, mode) as scene:
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


def full_disks(mode: str) -> list[Case]:
    """Row 5."""
    return [
        case(5, "disk full at data", spoiled.disk_full, mode, disk=(LATENTS, 12 * MB)),
        case(5, "disk full at the manifest", spoiled.disk_full_at("stating"), mode, disk=(LATENTS, 64 * MB)),
        case(5, "disk full after the commit", spoiled.disk_full_at("pointing"), mode, disk=(LATENTS, 64 * MB)),
        case(5, "disk full at logs", spoiled.log_full, mode, disk=(LOGS, 1 * MB)),
        case(5, "disk full at the quarantine", spoiled.quarantine_full, mode, disk=("datasets/bad", 1 * MB)),
    ]


def main() -> None:
    """Run them one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--named", default="")
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args()
    rows = {int(row) for row in asked.only.split(",") if row}
    wanted = [it for it in cases(asked.many) if (not rows or it.row in rows) and asked.named in it.name]
    lines = []
    for it in wanted:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="fault-") as folder:
            try:
                found = it.run(Path(folder))
            except Exception:
                found = Found(failed=traceback.format_exc())
        print(f"{it.row:>2} {it.name}: {found} {time.monotonic() - began:.0f} s", flush=True)
        lines.append((it, found))
    print(json.dumps({"cases": len(lines), "failed": [it.name for it, found in lines if found.failed]}))


if __name__ == "__main__":
    main()
