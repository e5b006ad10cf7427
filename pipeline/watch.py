"""What passes an encode, counted: rows in cells that the training rows define, so that what workers count adds up.

A share of the rows, chosen by a hash of their ids, is counted: the inputs column by column, the codes on fixed random
directions, the ELBO. `drift` judges the counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from pipeline.distances import Counts, Line, Numbers
from pipeline.errors import DataError
from pipeline.features import Feature, Features
from pipeline.reference import Codes, Reference, codes_of, numbers_of

FILE: Final = "drift.json"
"""Beside the model: the training rows' own counts."""
WATCHED: Final = 65_536
"""Rows that are watched, about; all of fewer."""
DIRECTIONS: Final = 32
COARSE: Final = 32
"""Spaces between the quantiles of codes on a direction."""
Facts = dict[str, Any]
Score = Callable[[pa.Table], Numbers]


class Watch:
    """Counts rows as they are encoded: each worker one, merged by the driver."""

    def __init__(self, reference: Reference, features: Features, *, id_column: str = "", share: float = 1.0) -> None:
        self.features, self.reference, self.id_column, self.share = features, reference, id_column, share
        self.counts: dict[str, Counts] = {"rows": np.zeros(1, dtype=np.int64)}

    @classmethod
    def load(cls, model: str | Path, *, id_column: str, rows: int) -> Self:
        """For an encode of so many rows by the model in a sealed directory. Raises DataError if it has no reference."""
        share = min(1.0, WATCHED / max(rows, 1))
        return cls(Reference.load(model), Features.load(Path(model)), id_column=id_column, share=share)

    def add(self, table: pa.Table, mu: Codes, score: Score | None = None) -> None:
        """Some rows and their codes `[row, latent]`; `score` gives the ELBO of those that are watched."""
        if self.share < 1:
            kept = np.flatnonzero(hashes(table.column(self.id_column)) < np.uint64(self.share * 2.0**64))
            table, mu = table.take(pa.array(kept)), mu[kept]
        if not len(table):
            return
        self._add("rows", np.array([len(table)]))
        for feature in self.features.columns:
            self._add(f"inputs/{feature.name}", self._count(feature, table.column(feature.name)))
        for number, (line, along) in enumerate(zip(self.lines, (mu @ self.directions).T, strict=True)):
            self._add(f"codes/{number}", line.count(along.astype(np.float64)))
        if self.reference.elbo is not None and score is not None:
            self._add("fit", self.elbo.count(score(table)))

    def facts(self) -> Facts:
        """What was counted, plain and JSON-able."""
        return {name: counts.tolist() for name, counts in self.counts.items()}

    def merged(self, facts: Iterable[Mapping[str, Any]]) -> Self:
        """With what others counted."""
        for counted in facts:
            for name, counts in counted.items():
                self._add(name, np.array(counts, dtype=np.int64))
        return self

    @property
    def rows(self) -> int:
        """Counted so far."""
        return int(self.counts["rows"][0])

    @cached_property
    def directions(self) -> npt.NDArray[np.float32]:
        """`[latent, DIRECTIONS]` unit vectors, the same for ever."""
        drawn = np.random.default_rng(0).standard_normal((self.reference.mu.shape[1], DIRECTIONS))
        return (drawn / np.linalg.norm(drawn, axis=0)).astype(np.float32)

    @cached_property
    def lines(self) -> list[Line]:
        """The cells of codes on each direction."""
        levels = np.linspace(0, 1, COARSE + 1)
        projected = (self.reference.mu @ self.directions).astype(np.float64)
        return [Line(it) for it in np.quantile(projected, levels, axis=0).T]

    @cached_property
    def elbo(self) -> Line:
        """The cells of the ELBO."""
        assert self.reference.elbo is not None
        return Line(self.reference.elbo[::10])

    @cached_property
    def columns(self) -> dict[str, Line]:
        """The cells of each column of numbers."""
        known = self.reference.columns
        plain = (it.name for it in self.features.columns if not it.coded)
        return {name: Line(np.array(known[name].quantiles or (0.0,))) for name in plain}

    def _count(self, feature: Feature, column: pa.ChunkedArray) -> Counts:
        """In its cells, and last the missing ones; of categories those never seen just before."""
        if feature.coded:
            codes, known = codes_of(feature, column), len(feature.categories)
            return np.bincount(np.where(codes < 0, known - 1 - codes, codes), minlength=known + 2)
        numbers = numbers_of(feature, column)
        seen = numbers[~np.isnan(numbers)]
        return np.append(self.columns[feature.name].count(seen), len(numbers) - len(seen))

    def _add(self, name: str, counts: Counts) -> None:
        self.counts[name] = counts + self.counts.get(name, 0)


def hashes(ids: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """64 bits for each id, by its value alone."""
    hashed: npt.NDArray[np.uint64] = pd.util.hash_array(np.asarray(ids.to_numpy()))
    return hashed


def save_expected(model: Path, table: pa.Table, mu: Codes, elbo: Numbers | None) -> None:
    """Write the counts of the rows that the reference was made of beside it and the model."""
    watch = Watch(Reference.load(model), Features.load(model))
    watch.add(table, mu, None if elbo is None else lambda _: elbo)
    (model / FILE).write_text(json.dumps(watch.facts()))


def known(model: str | Path) -> bool:
    """Whether the model has its training rows' counts; one of an older latentpipe has not."""
    return (Path(model) / FILE).is_file()


def expected(model: str | Path) -> Facts:
    """The training rows' counts. Raises DataError if the model is older than they are."""
    try:
        facts: Facts = json.loads((Path(model) / FILE).read_text())
    except FileNotFoundError as error:
        raise DataError(f"the model has no {FILE}", str(model), "train it again") from error
    return facts
