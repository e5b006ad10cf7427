"""Row 10: the machine's clock is wrong, or jumps: same keys, nothing live is swept away, no time is negative.

The children run under libfaketime (Debian's package `faketime`), which lies about every clock but the monotonic one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]
from faults.cases import Found, reader, s3_port  # noqa: E402
from faults.writer import commit, parts_of  # noqa: E402

from pipeline import keys, storage  # noqa: E402
from pipeline.progress import Stage  # noqa: E402
from pipeline.stores import s3  # noqa: E402
from pipeline.stores.remote import located  # noqa: E402

DAY_S = 86_400
SHIFTS: dict[str, dict[str, str]] = {
    "two days ahead": {"FAKETIME": "+2d"},
    "two days behind": {"FAKETIME": "-2d"},
    "the hour that comes twice": {"FAKETIME": "@2026-10-25 02:59:58", "TZ": "Europe/Zurich"},
    "jumps a day back in the run": {"FAKETIME_TIMESTAMP_FILE": "clock", "FAKETIME_NO_CACHE": "1"},
    "two days ahead, bucket": {"FAKETIME": "+2d"},
}


def library() -> Path | None:
    """Where libfaketime is, if it is here."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def shifted(folder: Path, name: str) -> Found:
    """A run and a gc by such a clock, beside tries of processes whose clocks are right."""
    remote = name.endswith("bucket")
    root: Any = folder / "root"
    if remote:
        s3_port()
        root = located(f"s3://faults/{folder.name}/clock")
    commit(root, "first", [1])
    with storage.attempt(root, "alive") as alive:
        parts_of(alive, [2])
        dead = located(f"{root}/_attempts/dead/young")
        parts_of(_made(dead), [3])
        old = _old(root) if not remote else None
        (folder / "clock").write_text("+0d")
        told = child(folder, root, SHIFTS[name])
        wrong = [
            *([] if told["key"] == child(folder, root, {})["key"] else ["another key"]),
            *([] if told["elapsed_s"] >= 0 else [f"{told['elapsed_s']} s elapsed"]),
            *([] if told["lied"] else ["the clock was right"]),
            *([] if told["version"] == 2 else [f"published as {told['version']}"]),
            *([] if all(_there(it) for it in (alive, dead)) else ["something young or live was swept away"]),
            *([] if old is None or not _there(old) else ["what is two days old was left"]),
        ]
    seen = reader()(root)
    wrong += seen["problems"] if [it["ids"] for it in seen["versions"]] == [[1], [4]] else ["versions differ"]
    return Found(torn=len(seen["problems"]), failed=next(iter(wrong), ""))


def child(folder: Path, root: Any, clock: dict[str, str]) -> dict[str, Any]:
    """What a process with that clock says."""
    lies = {**clock, "LD_PRELOAD": str(library()), "DONT_FAKE_MONOTONIC": "1"} if clock else {}
    if "FAKETIME_TIMESTAMP_FILE" in clock:
        lies["FAKETIME_TIMESTAMP_FILE"] = str(folder / "clock")
    command = [sys.executable, __file__, str(root), "--real", str(time.time()), "--clock", str(folder / "clock")]
    ended = subprocess.run(
        command, env={**os.environ, **lies}, capture_output=True, text=True, timeout=300, check=False
    )
    if ended.returncode:
        raise RuntimeError(ended.stderr)
    answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return answer


def _made(folder: Any) -> Any:
    if isinstance(folder, Path):
        folder.mkdir(parents=True)
    return folder


def _old(root: Path) -> Path:
    """A try that died two days ago."""
    old = _made(root / "_attempts" / "dead" / "old")
    parts_of(old, [5])
    for path in (*old.iterdir(), old):
        os.utime(path, (time.time() - 2 * DAY_S,) * 2)
    return old


def _there(folder: Any) -> bool:
    """With its files."""
    if isinstance(folder, Path):
        return len([*folder.glob("*.parquet")]) == 2
    return sum(it.place.uri.endswith(".parquet") for it in s3.client().below(folder)[0]) == 2


def main() -> None:
    """The child: publish, sweep, tell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("--real", type=float)
    parser.add_argument("--clock", type=Path)
    arguments = parser.parse_args()
    root, lied = located(arguments.root), abs(time.time() - arguments.real) > DAY_S / 2
    s3.LIVE_S = 0.0  # age alone is to protect it
    with Stage("clock") as stage:
        key = keys.samples("digest", rows=1, seed=2)
        snapshot = commit(root, key, [4])
        arguments.clock.write_text("-1d")
        lied = lied or abs(time.time() - arguments.real) > DAY_S / 2
        storage.collect(root, older_than_s=DAY_S)
        elapsed_s = stage.elapsed_s
    print(json.dumps({"key": key, "version": snapshot.version, "elapsed_s": elapsed_s, "lied": lied}))


if __name__ == "__main__":
    main()
