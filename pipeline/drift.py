"""drift: are the rows that were encoded such as the model was trained on? By what `watch` counted of both.

Watched are the inputs, column by column: the Wasserstein-1 distance of numbers, the total variation of categories, the
shares of cells that are missing or that training never saw. The codes: the sliced Wasserstein distance (Bonneel et al.
2015), which sees columns move together. The fit: by how much the mean ELBO fell.

Each has a threshold. If the rows come from where the training rows did, one of them or more is exceeded in
`false_alarms` of the encodes, as redrawing both sides from the training rows' counts shows. Among very many rows
differences show that are too small to matter: what moved by less than `least` has not moved.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from pipeline.distances import Counts, Numbers, bridges, redrawn, shares, variation
from pipeline.features import Feature
from pipeline.watch import Facts, Watch, expected

DRAWS: Final = 1_000
Of = Literal["inputs", "codes", "fit"]
What = Literal["distance", "missing", "unseen", "fall"]
Verdict = Literal["nothing", "data", "model", "data and model"]
WORDS: Final = {
    "nothing": "nothing moved",
    "data": "the data moved",
    "model": "the model fits worse",
    "data and model": "the data moved and the model fits worse",
}
NAMED: Final = 5
"""Signals in a line, at most."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One thing that is watched."""

    of: Of
    name: str
    """The column's."""
    what: What
    value: float
    """A share of rows or cells, or a distance: in the training rows' mean distances from their median."""
    chance: float
    """What it would be on average if nothing had moved."""
    threshold: float

    @property
    def moved(self) -> bool:
        """Whether it is farther off than by chance, and far enough to matter."""
        return self.value > self.threshold


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The judgement on an encode."""

    rows: int
    """That were watched."""
    false_alarms: float
    signals: tuple[Signal, ...]

    @property
    def verdict(self) -> Verdict:
        """The data moved - inputs, or codes, which are a function of them - or the model fits worse, or both."""
        data = any(it.moved for it in self.signals if it.of != "fit")
        fit = any(it.moved for it in self.signals if it.of == "fit")
        return "data and model" if data and fit else "data" if data else "model" if fit else "nothing"

    def facts(self) -> Facts:
        """As a manifest states it; the signals that went farthest beyond their thresholds first."""
        ranked = sorted(self.signals, key=lambda it: -it.value / max(it.threshold, sys.float_info.min))
        signals = [{**asdict(it), "moved": it.moved} for it in ranked]
        return {"verdict": self.verdict, "rows": self.rows, "false_alarms": self.false_alarms, "signals": signals}


@dataclass(frozen=True)
class HeldOut:
    """The ELBO of rows that the model was not trained on; those it was trained on are cheaper."""

    elbo: float
    rows: int

    @classmethod
    def by(cls, story: Path) -> HeldOut | None:
        """The test rows', by what the training left beside the model; None if the encoder is deterministic."""
        evaluation = json.loads(story.read_text())["evaluation"]
        return None if evaluation["elbo"] is None else cls(evaluation["elbo"], evaluation["rows"])


@dataclass(frozen=True)
class Trial:
    """A signal before its threshold is known."""

    of: Of
    name: str
    what: What
    value: float
    chance: Numbers
    """`[draw]` values if nothing had moved."""


def told(facts: Mapping[str, Any] | None) -> str:
    """A manifest's `drift` in a line."""
    if not facts:
        return "not watched"
    moved = [f"{it['name']} ({it['what']})" for it in facts["signals"] if it["moved"]]
    more = f" and {len(moved) - NAMED} more" if len(moved) > NAMED else ""
    what = ": ".join(filter(None, (WORDS[facts["verdict"]], ", ".join(moved[:NAMED]) + more)))
    return (
        f"{what}; {len(facts['signals'])} signals of {facts['rows']:,} rows, {facts['false_alarms']:.1%} false alarms"
    )


def judge(
    watch: Watch,
    model: str | Path,
    *,
    false_alarms: float = 0.01,
    least: float = 0.02,
    held_out: HeldOut | None = None,
) -> Drift:
    """What was counted against the counts of the training rows of the model in this directory."""
    if not watch.rows:
        return Drift(rows=0, false_alarms=false_alarms, signals=())
    trials = list(_Bench(watch, expected(model), held_out).trials())
    chance = np.stack([it.chance for it in trials])
    mean, deviation = chance.mean(1), chance.std(1)
    farthest = ((chance - mean[:, None]) / np.where(deviation > 0, deviation, 1)[:, None]).max(0)
    thresholds = mean + np.quantile(farthest, 1 - false_alarms) * deviation
    signals = [
        Signal(of=it.of, name=it.name, what=it.what, value=float(it.value), chance=usual, threshold=max(most, least))
        for it, usual, most in zip(trials, mean.tolist(), thresholds.tolist(), strict=True)
    ]
    return Drift(rows=watch.rows, false_alarms=false_alarms, signals=tuple(signals))


class _Bench:
    """Where the two sets of counts meet."""

    def __init__(self, watch: Watch, training: Mapping[str, Counts], held_out: HeldOut | None) -> None:
        self.watch, self.training, self.held_out = watch, training, held_out
        self.rows, self.training_rows = watch.rows, int(training["rows"][0])
        self.generator = np.random.default_rng(0)

    def trials(self) -> Iterator[Trial]:
        for feature in self.watch.features.columns:
            yield from self._column(feature)
        yield self._codes()
        if "fit" in self.watch.counts and "fit" in self.training:
            yield self._fit()

    def _column(self, feature: Feature) -> Iterator[Trial]:
        ours, theirs = (it[f"inputs/{feature.name}"] / feature.width for it in (self.watch.counts, self.training))
        if feature.nullable:
            yield self._missing(feature, ours, theirs)
        seen, known = ours[:-1], theirs[:-1]
        if not seen.sum() or not known.sum():
            return
        if feature.likelihood == "categorical" and feature.coded:
            yield self._unseen(feature, seen[0], seen.sum(), int((known[1:] == 1).sum()) + 1, known.sum())
        elif not feature.coded:
            yield self._unseen(feature, seen[0] + seen[-1], seen.sum(), 2, known.sum())
        yield self._distance(feature, seen, known)

    def _missing(self, feature: Feature, ours: Numbers, theirs: Numbers) -> Trial:
        value = abs(ours[-1] / ours.sum() - theirs[-1] / theirs.sum())
        share = (theirs[-1] + 0.5) / (theirs.sum() + 1)
        return Trial(
            "inputs", feature.name, "missing", value, np.abs(self._shares(share, ours) - self._shares(share, theirs))
        )

    def _unseen(self, feature: Feature, unseen: float, of: float, rare: int, known: float) -> Trial:
        """By chance: as many as training has categories of one row (Good 1953), and one; or numbers at both ends."""
        chance = self._shares(min(rare / (known + 1), 1.0), np.array([of]))
        return Trial("inputs", feature.name, "unseen", unseen / of, chance)

    def _distance(self, feature: Feature, ours: Numbers, theirs: Numbers) -> Trial:
        excess = shares(ours) - shares(theirs)
        if feature.coded:
            chance = redrawn(theirs, ours.sum(), DRAWS, self.generator)
            return Trial("inputs", feature.name, "distance", float(variation(excess)), variation(chance))
        line, noise = self.watch.cells.columns[feature.name], 1 / ours.sum() + 1 / theirs.sum()
        chance = bridges(shares(theirs), noise, DRAWS, self.generator)
        return Trial("inputs", feature.name, "distance", float(line.wasserstein(excess)), line.wasserstein(chance))

    def _codes(self) -> Trial:
        """The mean over directions. Chance redraws whole codes, whose projections move together."""
        lines, known = self.watch.cells.lines, len(self.watch.reference.mu)
        mu = self.watch.reference.mu[::2]  # enough to see how they vary
        names = [f"codes/{number}" for number in range(len(lines))]
        scale = np.float32(np.sqrt((1 / self.rows + 1 / known) / len(mu)))
        weights = self.generator.standard_normal((DRAWS, len(mu)), dtype=np.float32) * scale
        weights -= weights.mean(1, keepdims=True)
        value, chance, spread = 0.0, np.zeros(DRAWS), sum(line.spread for line in lines)
        for name, line, along in zip(names, lines, self.watch.cells.projected(mu), strict=True):
            excess = shares(self.watch.counts[name]) - shares(self.training[name])
            value += float(line.wasserstein(excess)) * line.spread / spread
            chance += line.wasserstein(line.gather(weights, along)) * line.spread / spread
        return Trial("codes", "mu", "distance", value, chance)

    def _fit(self) -> Trial:
        """How far the mean fell, beyond what rows cost that were not trained on."""
        line, ours, theirs = self.watch.cells.elbo, self.watch.counts["fit"], self.training["fit"]
        value = float(line.fall(shares(ours) - shares(theirs)))
        noise = 1 / self.rows + 1 / self.training_rows
        chance = line.fall(bridges(shares(theirs), noise, DRAWS, self.generator))
        if self.held_out is not None:
            value -= min(max((line.quantiles.mean() - self.held_out.elbo) / line.spread, 0.0), 1.0)
            chance = chance + self.generator.standard_normal(DRAWS) * line.quantiles.std() / (
                line.spread * np.sqrt(self.held_out.rows)
            )
        return Trial("fit", "elbo", "fall", value, chance)

    def _shares(self, share: float, counts: Numbers) -> Numbers:
        rows = max(round(counts.sum()), 1)
        return np.asarray(self.generator.binomial(rows, share, DRAWS) / rows)
