"""Rows to latent codes: ours against a bare loop and the usual Ray recipe, interleaved; ratios, as JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from table import make

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "encode.md"
ORDER = ("ours", "bare", "by_ray", "usual_ray")
WHO = {
    "ours": "ours: threads of the process, as up to `encode.local_mb`",
    "by_ray": "ours: Ray Data actors",
    "bare": "bare loop: two threads, whole files",
    "usual_ray": "`read_parquet().map_batches().write_parquet()`",
    "again": "ours, second run: nothing changed",
}
Run = dict[str, float]


def main() -> None:
    """Measure, print, and write the results down when asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("build/bench-encode"))
    parser.add_argument("--only", nargs="+", choices=ORDER, default=ORDER)
    parser.add_argument("--write", action="store_true", help=f"also to {RESULTS.name}")
    arguments = parser.parse_args()
    small, large = (make(arguments.folder.absolute(), rows) for rows in (arguments.rows // 10, arguments.rows))
    runs = _rounds(large, arguments.rounds, arguments.only)
    tenth = {name: _run(name, small, arguments.rows // 10) for name in arguments.only}
    lines = [*_header(arguments), *_table(runs, tenth), "", json.dumps(_ratios(runs, tenth))]
    print("\n".join(lines))
    if arguments.write:
        RESULTS.write_text("\n".join(lines) + "\n")


def _rounds(place: Path, rounds: int, only: list[str]) -> dict[str, list[Run]]:
    """Every contestant once a round, each round in the other direction; after ours, the second run."""
    runs: dict[str, list[Run]] = {name: [] for name in (*only, "again")}
    rows = int(place.name)
    for turn in range(rounds):
        for name in only[:: -1 if turn % 2 else 1]:
            runs[name].append(_run(name, place, rows))
            if name == "ours":
                runs["again"].append(_run("again", place, rows))
    return runs


def _run(name: str, place: Path, rows: int) -> Run:
    """Wall time from the start of the process to the moment all is published, in seconds."""
    out = place / "out"
    for folder in (out, *([place / "workspace" / "latents"] if name != "again" else [])):
        shutil.rmtree(folder, ignore_errors=True)
    out.mkdir()
    for path in (place / "workspace" / "datasets").rglob("*.parquet"):
        path.read_bytes()  # whoever ran before, all find their input in the system's cache
    os.sync()
    command = [sys.executable, str(HERE / "side.py"), name, str(place), str(out)]
    began = time.monotonic()
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ".:tests"}, check=False
    )
    if ended.returncode:
        raise SystemExit(f"{name} failed:\n{ended.stderr}")
    found: Run = json.loads(ended.stdout.splitlines()[-1])
    assert found["rows"] == rows, (name, found)
    found["seconds"] = found.pop("published") - began
    print(f"{name} {found}", file=sys.stderr)
    return found


def _seconds(runs: list[Run]) -> float:
    return statistics.median(it["seconds"] for it in runs)


def _ratios(runs: dict[str, list[Run]], tenth: dict[str, Run]) -> dict[str, Any]:
    """How many times as fast ours is, by medians; peak memory at a tenth of the rows and at all."""
    ours = _seconds(runs["ours"]) if "ours" in runs else float("nan")
    others = (("bare", "ratio_to_bare"), ("usual_ray", "ratio_to_usual_ray"))
    found: dict[str, Any] = {told: round(_seconds(runs[name]) / ours, 3) for name, told in others if name in runs}
    if "ours" in runs:
        found["ratio_second_run"] = round(ours / _seconds(runs["again"]), 1)
    if "by_ray" in runs and "bare" in runs:
        found["by_ray_to_bare"] = round(_seconds(runs["bare"]) / _seconds(runs["by_ray"]), 3)
    found["peak_mb"] = {
        name: {"tenth": tenth[name]["peak_mb"], "all": max(it["peak_mb"] for it in runs[name])} for name in tenth
    }
    return found


def _header(arguments: argparse.Namespace) -> list[str]:
    return [
        f"# Encode, {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}",
        "",
        f"`make bench-encode`: {arguments.rows:,} rows x 64 float32 -> 8 latents -> reconstructions, 64-128-128-8, "
        f"{arguments.rounds} rounds; {os.cpu_count()} shared cores, {platform.machine()}, "
        f"Python {platform.python_version()}, torch {version('torch')}, pyarrow {version('pyarrow')}, "
        f"ray {version('ray')}.",
        "",
        "Wall time from the start of the process, imports included, to the moment all is published. The model is",
        "given, not looked up in a registry; no evidence is asked for; the rivals multiply as torch does. The input is",
        "in the system's cache. Peak memory of one process; of Ray's, of a worker without shared pages.",
        "",
    ]


def _table(runs: dict[str, list[Run]], tenth: dict[str, Run]) -> list[str]:
    lines = ["| who | s, median (range) | rows/s | peak MB | at a tenth of the rows |", "|---|---|---|---|---|"]
    for name, found in runs.items():
        if found:
            seconds = sorted(it["seconds"] for it in found)
            spread = f"{_seconds(found):,.2f} ({seconds[0]:,.2f} to {seconds[-1]:,.2f})"
            speed = found[0]["rows"] / _seconds(found)
            few = f"{tenth[name]['peak_mb']:,}" if name in tenth else ""
            peak = max(it["peak_mb"] for it in found)
            lines.append(f"| {WHO[name]} | {spread} | {speed:,.0f} | {peak:,} | {few} |")
    return lines


if __name__ == "__main__":
    main()
