"""This project's VAE against pythae's: held-out NLL and seconds per epoch, interleaved in one process."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
from pathlib import Path
from typing import Any, Final

import digits
import our_side
import pythae_side
import torch

SETTINGS: Final[dict[str, Any]] = {"hidden": (200, 200), "latent": 16, "batch_rows": 100, "learning_rate": 1e-3}
NETWORK: Final = {"hidden": (200, 200), "latent": 16}
SEEDS: Final = (0, 1, 2)
SAMPLES: Final = 1000
ROUNDS: Final = 9
RESULTS: Final = Path(__file__).with_name("results") / "vs_pythae.md"


def main() -> None:
    """Measure, print and write the results down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines = [*_header(arguments.threads), *_likelihood(arguments.epochs), "", *_speed()]
    print("\n".join(lines))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")


def _header(threads: int) -> list[str]:
    machine = f"{os.cpu_count()} shared cores, {platform.machine()}, no GPU; {threads} thread"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, pythae 0.1.2"
    return [
        f"# Against pythae 0.1.2, {datetime.datetime.now(tz=datetime.UTC):%Y-%m-%d}",
        "",
        f"{machine}; {versions}.",
        "",
    ]


def _likelihood(all_epochs: list[int]) -> list[str]:
    """Held-out NLL of both, judged by one estimator."""
    lines = [
        f"Held-out NLL of binarised digits, nats per row, {SAMPLES} importance samples, seeds {SEEDS}:",
        "",
        "| activation | epochs | ours | pythae | ours - pythae, by seed |",
        "|---|---|---|---|---|",
    ]
    for activation in ("relu", "tanh"):
        for epochs in all_epochs:
            pairs = [_pair(epochs, seed, activation) for seed in SEEDS]
            ours, theirs = (statistics.mean(side) for side in zip(*pairs, strict=True))
            apart = ", ".join(f"{one - other:+.3f}" for one, other in pairs)
            lines.append(f"| {activation} | {epochs} | {ours:.3f} | {theirs:.3f} | {apart} |")
    return lines


def _pair(epochs: int, seed: int, activation: str) -> tuple[float, float]:
    rows = digits.fixed()
    settings = {**SETTINGS, "epochs": epochs, "seed": seed, "activation": activation}
    ours = our_side.train(rows.train, **settings).model
    theirs = pythae_side.train(rows.train, **settings).model
    handed = our_side.dressed(pythae_side.weights(theirs), **NETWORK, activation=activation)
    judged = our_side.nll(handed, rows.test, k=SAMPLES, seed=seed)
    own = pythae_side.nll(theirs, rows.test, SAMPLES, seed)
    if abs(judged - own) > 0.05:
        raise SystemExit(f"void: pythae's own NLL is {own:.3f}, ours of its weights {judged:.3f}")
    return our_side.nll(ours, rows.test, k=SAMPLES, seed=seed), judged


def _speed() -> list[str]:
    """Seconds per epoch, the order turned every round; the first round warms up and is not counted."""
    rows = digits.resampled().train
    sides = {"ours": our_side.train, "pythae": pythae_side.train}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(ROUNDS + 1):
        for name in sorted(sides, reverse=bool(turn % 2)):
            seconds = sides[name](rows, **SETTINGS, epochs=2, seed=turn).seconds_per_epoch
            taken[name].append(min(seconds))
    ratios = [one / other for one, other in zip(taken["ours"][1:], taken["pythae"][1:], strict=True)]
    medians = {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}
    return [
        f"Seconds per epoch of {len(rows):,} rows in batches of 100, medians of {ROUNDS} interleaved rounds: "
        f"ours {medians['ours']:.3f}, pythae {medians['pythae']:.3f}.",
        f"Ratio ours / pythae: **{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}).",
        "Most of it is batching: pythae's DataLoader fetches row by row. See README.md.",
    ]


if __name__ == "__main__":
    main()
