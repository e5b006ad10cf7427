"""CSV and Parquet to a snapshot against DuckDB, polars and a bare pyarrow dataset, interleaved; ratios, as JSON."""

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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import table

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "ingest.md"
PEERS = ("duckdb", "polars", "pyarrow")
Run = dict[str, float]
Memory = dict[tuple[str, str], tuple[float, float]]
"""Megabytes for a tenth of the rows, and for all."""


def main() -> None:
    """Measure, print and write the results down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("build/bench-ingest"))
    arguments = parser.parse_args()
    runs = {
        kind: _rounds(source.absolute(), arguments.folder.absolute(), arguments.rounds)
        for kind, source in zip(("csv", "parquet"), table.make(arguments.folder, arguments.rows), strict=True)
    }
    small = dict(zip(("csv", "parquet"), table.make(arguments.folder, arguments.rows // 10), strict=True))
    memory = {
        (kind, name): (
            _run(name, source.absolute(), arguments.folder.absolute())["peak_mb"],
            statistics.median(it["peak_mb"] for it in runs[kind][name]),
        )
        for kind, source in small.items()
        for name in ("ours", "by_ray")
    }
    lines = [*_header(arguments), *_table(runs), "", *_memory(memory), "", json.dumps(_ratios(runs, memory))]
    print("\n".join(lines))
    RESULTS.write_text("\n".join(lines) + "\n")


def _rounds(source: Path, folder: Path, rounds: int) -> dict[str, list[Run]]:
    """Every contestant once a round, the order turned each time."""
    names = ["ours", "by_ray", "again", *PEERS]
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            runs[name].append(_run(name, source, folder))
            print(source.suffix, name, runs[name][-1], file=sys.stderr)
    return runs


def _run(name: str, source: Path, folder: Path) -> Run:
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    command = [sys.executable, str(HERE / "side.py"), name, str(source), str(out)]
    ended = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ".:tests"}
    )
    found: Run = json.loads(ended.stdout.splitlines()[-1])
    return found


def _speed(runs: list[Run]) -> float:
    return statistics.median(it["rows"] / it["seconds"] for it in runs)


def _ratios(runs: dict[str, dict[str, list[Run]]], memory: Memory) -> dict[str, Any]:
    """Ours against the best of the peers, by medians."""
    found: dict[str, Any] = {}
    for kind, by_name in runs.items():
        best = max(_speed(by_name[peer]) for peer in PEERS)
        found[kind] = {name: round(_speed(by_name[name]) / best, 3) for name in ("ours", "by_ray")}
        found[kind]["second_run_s"] = round(statistics.median(it["seconds"] for it in by_name["again"]), 4)
        found[kind]["memory_10x_to_1x"] = {
            name: round(ten / one, 2) for (of, name), (one, ten) in memory.items() if of == kind
        }
    return found


def _header(arguments: argparse.Namespace) -> list[str]:
    peers = ", ".join(f"{name} {version(name)}" for name in PEERS)
    return [
        f"# Ingest, {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}",
        "",
        f"`make bench-ingest`: {arguments.rows:,} rows x 32 mixed columns (`table.py`), one file, "
        f"{arguments.rounds} rounds; "
        f"{os.cpu_count()} shared cores, {platform.machine()}, Python {platform.python_version()}, {peers}.",
        "",
    ]


def _table(runs: dict[str, dict[str, list[Run]]]) -> list[str]:
    lines = ["| source | who | rows/s, median (range) | peak MB |", "|---|---|---|---|"]
    for kind, by_name in runs.items():
        for name, found in by_name.items():
            if name == "again":
                continue
            speeds = sorted(it["rows"] / it["seconds"] for it in found)
            peak = max(it["peak_mb"] for it in found)
            spread = f"{statistics.median(speeds):,.0f} ({speeds[0]:,.0f} to {speeds[-1]:,.0f})"
            lines.append(f"| {kind} | {name} | {spread} | {peak:,} |")
    return lines


def _memory(memory: Memory) -> list[str]:
    told = "| {} | {} | {:,.0f} | {:,.0f} |"
    return [
        "Peak memory of one process (`by_ray`: of one worker), MB. A tenth of the Parquet file is a single unit:",
        "one of the two threads of `ours` is idle there.",
        "",
        "| source | who | a tenth of the rows | all |",
        "|---|---|---|---|",
        *(told.format(*which, *peaks) for which, peaks in memory.items()),
        "",
        "`ours` works in threads of the process, as up to `ingest.local_mb`; `by_ray` by Ray Data actors.",
        "`second_run_s`: an ingest of what was ingested is a listing; the interpreter's start-up is left out.",
    ]


if __name__ == "__main__":
    main()
