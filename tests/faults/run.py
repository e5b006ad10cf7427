"""Every fault case, a table of what was found, and last one JSON line.

    python tests/faults/run.py [--only ROW[,ROW]] [--quick] [--results FOLDER]

A topic is a module here with `cases()`. What cases write as `*.jsonl`, such as histories, goes to the results' folder,
and so does the table as `encode.md` if it is the whole one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]
from faults.cases import Case, Found, total  # noqa: E402

TOPICS = ("publishing", "torn", "encoding")
FAULTS = {
    1: "crash at every storage operation",
    2: "worker killed mid-file",
    3: "driver killed",
    4: "first attempt finishes late",
    5: "disk full",
    6: "store answers 503, resets, is silent",
    7: "concurrent runs, one target",
    8: "same run key twice at once",
    9: "torn or flipped Parquet",
    10: "clock",
    11: "gc against live writer and reader",
    16: "SIGINT, SIGTERM",
    17: "target read-only, missing, foreign",
    18: "network cut",
    19: "input changes during the run",
    20: "version skew",
}
MEMORY = next((it for it in ("/dev/shm",) if Path(it).is_dir()), None)  # noqa: S108
"""Where an fsync costs nothing: none of the faults is the disk's own."""


def gathered(rows: set[int], *, quick: bool) -> list[Case]:
    """The cases of all topics that are there, by row."""
    topics = [import_module(f"faults.{topic}") for topic in TOPICS if (HERE / f"{topic}.py").exists()]
    cases = [case for it in topics for case in (getattr(it, "quick", it.cases) if quick else it.cases)()]
    return sorted((it for it in cases if not rows or it.row in rows), key=lambda it: it.row)


def tried(case: Case, results: Path) -> Found:
    """Run in a folder of its own; an exception is a finding."""
    with tempfile.TemporaryDirectory(prefix="fault-", dir=MEMORY, ignore_cleanup_errors=True) as folder:
        try:
            found = case.run(Path(folder))
        except Exception:  # whatever it is, the other cases are to run
            traceback.print_exc()
            found = Found(failed=traceback.format_exc(limit=-1).splitlines()[-1])
        for path in Path(folder).glob("*.jsonl"):
            results.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, results / path.name)
    return replace(found, failed=f"{case.row} {case.name}: {found.failed}" if found.failed else "")


def table(found: dict[int, list[Found]]) -> list[str]:
    """A line per row of the matrix."""
    lines = ["| row | fault | cases | lost | duplicated | torn | failed |", "|---|---|---|---|---|---|---|"]
    for row, those in sorted(found.items()):
        it = total(those)
        failed = sum(bool(one.failed) for one in those)
        name = FAULTS.get(row, "")
        lines.append(f"| {row} | {name} | {it.cases} | {it.lost} | {it.duplicated} | {it.torn} | {failed} |")
    return lines


def main() -> None:
    """Run, tell, end with 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows of the matrix, with commas between")
    parser.add_argument("--quick", action="store_true", help="what `make test` has")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    rows = {int(row) for row in arguments.only.split(",") if row}
    found: dict[int, list[Found]] = defaultdict(list)
    for case in gathered(rows, quick=arguments.quick):
        began = time.monotonic()
        found[case.row].append(tried(case, arguments.results))
        it = found[case.row][-1]
        print(f"{case.row:>3} {case.name:<50} {it.cases:>4} {time.monotonic() - began:6.1f} s {it.failed}", flush=True)
    everything = [one for those in found.values() for one in those]
    it = total(everything)
    failed = [one.failed for one in everything if one.failed]
    facts = {"cases": it.cases, "lost": it.lost, "duplicated": it.duplicated, "torn": it.torn, "failed": failed}
    lines = ["", *table(found), "", json.dumps(facts)]
    print("\n".join(lines))
    if not (rows or arguments.quick):
        where = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        title = f"# `make faults` ({datetime.now(UTC):%Y-%m-%d}, {where})"
        (arguments.results / "encode.md").write_text("\n".join([title, *lines]) + "\n")
    sys.exit(bool(it.lost or it.duplicated or it.torn or failed))


if __name__ == "__main__":
    main()
