"""Training against a bare loop, Ray's usual recipe, pythae and Lightning, interleaved; ratios, as JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from table import MODELS, make

HERE: Final = Path(__file__).parent
OURS: Final = ("ours", "ours_compiled", "ours_streaming", "ours_by_two")
RIVALS: Final = ("usual_ray", "pythae", "lightning")
PEERS: Final = ("pythae", "lightning")
"""Contestants from the other environment."""
SHORT: Final = {"bare": 4, **dict.fromkeys(RIVALS, 2)}
"""Epochs of a turn, where not the model's."""
GROWN: Final = "64-128-128-8"
"""Model of which memory is measured at ten times the rows."""


@dataclass(frozen=True)
class Turn:
    """One process of one contestant, in one round."""

    name: str
    model: str
    round: int
    speeds: tuple[float, ...]
    """Rows/s of the epochs after the first."""
    of_bare: float
    """The speed over that of the bare loop that ran last before."""
    outside_s: float
    startup_s: dict[str, float]
    peak_mb: float

    @property
    def speed(self) -> float:
        """Rows/s."""
        return statistics.median(self.speeds)


def main() -> None:
    """Measure, print and write the results down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of two epochs each: does it work at all?")
    parser.add_argument("--only", nargs="+", choices=(*OURS, *RIVALS), default=(*OURS, *RIVALS), help="beside the bare")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--folder", type=Path, default=Path("build/race"))
    parser.add_argument("--peers", type=Path, default=Path("build/bench-train/bin/python"))
    parser.add_argument("--results", type=Path, default=HERE.parent / "results" / "train.md")
    race = Race(parser.parse_args())
    race.run()
    lines = [*race.header(), *race.table(), "", *race.notes(), "", json.dumps(race.ratios())]
    print("\n".join(lines))
    race.options.results.write_text("\n".join(lines) + "\n")


class Race:
    """All turns, and what they come to."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rounds = 1 if options.quick else options.rounds
        self.turns: list[Turn] = []
        self.failed: dict[tuple[str, str], str] = {}
        self.flops = 0.0
        self.grown_mb: dict[int, float] = {}
        self.streamed: dict[str, Path] = {}
        mine = [name for name in OURS if name in options.only]
        rivals = [name for name in RIVALS if name in options.only]
        self.order = (*(name for each in mine or ("bare",) for name in dict.fromkeys(("bare", each))), *rivals)
        """Of a round; each round begins two places further on."""

    def run(self) -> None:
        """Every contestant once a round on either model; then memory."""
        folders = {model: self._made(model, it.rows) for model, it in MODELS.items()}
        self.streamed = {model: self._made(model, it.streamed) for model, it in MODELS.items()}
        for number in range(self.rounds):
            first = 2 * number % max(2, self.order.count("bare") * 2)
            for model, folder in folders.items():
                products = self._ask("matmul", model, folder, epochs=3)
                self.flops = max([self.flops, *(products or {"speeds": []})["speeds"]])
                self._round(number, self.order[first:] + self.order[:first], model, folder)
        for times in (1, 10) if "ours_streaming" in self.options.only else ():
            folder = self._made(GROWN, MODELS[GROWN].streamed * times)
            if found := self._ask("ours_streaming", GROWN, folder, epochs=1):
                self.grown_mb[times] = found["own_mb"]

    def _made(self, model: str, rows: int) -> Path:
        """A table, ingested."""
        folder = make(self.options.folder.absolute(), model, rows)
        self._ask("prepare", model, folder, epochs=1)
        return folder

    def _round(self, number: int, order: tuple[str, ...], model: str, folder: Path) -> None:
        bare = float("nan")
        for name in order:
            epochs = 2 if self.options.quick else SHORT.get(name, MODELS[model].epochs)
            rows = self.streamed[model] if name == "ours_streaming" else folder
            if (found := self._ask(name, model, rows, epochs=epochs)) is None:
                continue
            speeds = tuple(found.pop("speeds")[1:])
            bare = statistics.median(speeds) if name == "bare" else bare
            of_bare = statistics.median(speeds) / bare
            facts = {fact: found[fact] for fact in ("outside_s", "startup_s", "peak_mb")}
            self.turns.append(Turn(name, model, number, speeds, of_bare, **facts))

    def _ask(self, name: str, model: str, folder: Path, *, epochs: int) -> dict[str, Any] | None:
        """What a contestant says in a process of its own; None if it fails, which is told in the notes."""
        python = str(self.options.peers) if name in PEERS else sys.executable
        path = os.pathsep.join(map(str, (Path.cwd(), HERE.parents[1], HERE.parent, HERE)))
        command = [python, HERE / "side.py", name, model, folder, epochs, self.options.device, time.time()]
        ended = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        if ended.returncode:
            said = [line for line in ended.stderr.splitlines() if line and not line[0].isspace()]
            self.failed[model, name] = said[-1] if said else f"exit code {ended.returncode}"
            print(f"{model} {name} failed:\n{ended.stderr}", file=sys.stderr)
            return None
        found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        print(model, name, found, file=sys.stderr)
        return found

    def of(self, model: str, name: str) -> list[Turn]:
        """A contestant's turns, by round."""
        return [it for it in self.turns if (it.model, it.name) == (model, name)]

    def median(self, model: str, name: str, fact: str) -> float:
        """Over a contestant's turns."""
        return statistics.median(getattr(it, fact) for it in self.of(model, name))

    def ratios(self) -> dict[str, dict[str, float]]:
        """By model: medians over rounds of ratios between neighbours in time."""
        told: dict[str, dict[str, float]] = {
            "ratio_to_bare": self._by_model("of_bare", "ours"),
            "ratio_to_bare_compiled": self._by_model("of_bare", "ours_compiled"),
            "ratio_to_bare_streaming": self._by_model("of_bare", "ours_streaming"),
            **{f"ratio_to_{rival}": self._against(rival, "ours") for rival in RIVALS},
            "two_workers_to_one": self._against("ours", "ours_by_two"),
            "outside_loop_s": self._by_model("outside_s", "ours"),
            "share_of_roofline": {it: round(self._share(it, "ours"), 3) for it in MODELS if self.of(it, "ours")},
        }
        if len(self.grown_mb) == 2:
            told["streaming_memory_10x_to_1x"] = {GROWN: round(self.grown_mb[10] / self.grown_mb[1], 2)}
        return told

    def _by_model(self, fact: str, name: str) -> dict[str, float]:
        return {model: round(self.median(model, name, fact), 3) for model in MODELS if self.of(model, name)}

    def _against(self, rival: str, name: str) -> dict[str, float]:
        """Speed over the rival's, both as shares of the bare loop beside them."""
        found = {}
        for model in MODELS:
            theirs = {it.round: it.of_bare for it in self.of(model, rival)}
            both = [it.of_bare / theirs[it.round] for it in self.of(model, name) if it.round in theirs]
            if both:
                found[model] = round(statistics.median(both), 3)
        return found

    def _share(self, model: str, name: str) -> float:
        return self.median(model, name, "speed") * MODELS[model].flops_per_row / self.flops

    def header(self) -> list[str]:
        """What was measured where, and when."""
        options = self.options
        asked = "from importlib.metadata import version as v; print(v('pythae'), v('lightning'))"
        peers = subprocess.run([options.peers, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
        where = torch.cuda.get_device_name() if options.device == "cuda" else "no GPU"
        quick = ", --quick" if options.quick else ""
        return [
            f"# Training, {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}",
            "",
            f"`make bench-train`: {self.rounds} round(s){quick}; {os.cpu_count()} shared cores, "
            f"{platform.machine()}, {where}; Python {platform.python_version()}, torch {torch.__version__}, "
            f"Ray {version('ray')}, pythae {peers[0]}, Lightning {peers[1]}.",
            "",
        ]

    def table(self) -> list[str]:
        """A line for each contestant and model."""
        lines = [
            "| model | who | rows/s, median (range) | of the bare | outside the loop, s | peak MB | of the roofline |",
            "|---|---|---|---|---|---|---|",
        ]
        for model in MODELS:
            for name in ("bare", *OURS, *RIVALS):
                if not (turns := self.of(model, name)):
                    continue
                speeds = sorted(speed for it in turns for speed in it.speeds)
                cells = (
                    model,
                    name,
                    f"{statistics.median(speeds):,.0f} ({speeds[0]:,.0f} to {speeds[-1]:,.0f})",
                    f"{self.median(model, name, 'of_bare'):.3f}",
                    f"{self.median(model, name, 'outside_s'):.1f}",
                    f"{max(it.peak_mb for it in turns):,.0f}",
                    f"{self._share(model, name):.0%}",
                )
                lines.append(f"| {' | '.join(cells)} |")
        return lines

    def notes(self) -> list[str]:
        """What the columns mean, and what the table has no room for."""
        kind = "bfloat16" if self.options.device == "cuda" else "float32, one thread"
        lines = [
            "Rows/s: of single epochs after a process's first, all rounds. Of the bare: the median over rounds of",
            "the ratio to the bare loop that ran last before. Peak: VmHWM of the process, or of a Ray worker.",
            f"The roofline: {self.flops / 1e9:,.0f} GFLOP/s of a large matrix product, {kind}.",
        ]
        for model in MODELS:
            if parts := [it.startup_s for it in self.of(model, "ours") if it.startup_s]:
                medians = {part: statistics.median(it[part] for it in parts) for part in parts[0]}
                told = ", ".join(f"{part} {seconds:.1f}" for part, seconds in medians.items())
                lines.append(f"Start-up of ours, {model}, s: {told}.")
        if self.grown_mb:
            told = ", ".join(f"{mb:,.0f} MB at {times}x" for times, mb in self.grown_mb.items())
            lines.append(f"Own memory (RssAnon) of a streaming worker at its peak, {GROWN}: {told} the rows.")
        return [*lines, *(f"{name} of {model} failed: {why}" for (model, name), why in self.failed.items())]


if __name__ == "__main__":
    main()
