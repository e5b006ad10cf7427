"""What passes an encode, counted: rows in cells that the training rows define, so that what workers count adds up.

A share of the rows, chosen by a hash of their ids, is counted: the inputs column by column, the codes on fixed random
directions, the ELBO. The training rows' own counts lie beside the model; `drift` judges the one by the other.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.distances import Counts, Line, Numbers
from pipeline.errors import DataError
from pipeline.features import Feature, Features
from pipeline.features.transforms import Observed, Values
from pipeline.reference import Reference

FILE: Final = "drift.json"
"""Beside the model: the training rows' own counts."""
WATCHED: Final = 65_536
"""Rows that are watched, about; all of fewer."""
DIRECTIONS: Final = 32
COARSE: Final = 16
"""Spaces between the quantiles of codes on a direction."""
BATCH: Final = 4_096
_PLACES: Final = np.random.default_rng(0).integers(0, 1 << 64, 256, dtype=np.uint64) | np.uint64(1)
Codes = npt.NDArray[np.float32]
Facts = dict[str, Any]


class Cells:
    """Where rows are counted, as the training rows have it."""

    def __init__(self, reference: Reference, features: Features) -> None:
        self.features, self.reference = features, reference

    @cached_property
    def directions(self) -> Tensor:
        """Unit vectors `[latent, direction]`, the same for ever."""
        drawn = np.random.default_rng(0).standard_normal((self.reference.mu.shape[1], DIRECTIONS))
        return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=0))

    def projected(self, mu: Codes) -> Numbers:
        """Codes along each direction, `[direction, row]`; numpy's product would leave a thread of BLAS spinning."""
        return np.asarray((torch.from_numpy(mu).double() @ self.directions).T.numpy())

    @cached_property
    def lines(self) -> list[Line]:
        """Of codes on each direction."""
        levels = np.linspace(0, 1, COARSE + 1)
        return [Line(np.quantile(it, levels)) for it in self.projected(self.reference.mu)]

    @cached_property
    def elbo(self) -> Line:
        """Of the ELBO."""
        assert self.reference.elbo is not None
        return Line(self.reference.elbo[::10])

    @cached_property
    def columns(self) -> dict[str, Line]:
        """Of each column of numbers, in its units."""
        plain = (it.name for it in self.features.columns if not it.coded)
        return {name: Line(np.array(self.reference.columns[name].quantiles or (0.0,))) for name in plain}


class Watch:
    """Counts rows as they are encoded: each worker one, merged by the driver."""

    def __init__(self, reference: Reference, features: Features, *, share: float = 1.0) -> None:
        self.features, self.reference, self.share = features, reference, share
        self.cells = Cells(reference, features)
        self._begin()

    def _begin(self) -> None:
        self._counts: dict[str, Counts] = {"rows": np.zeros(1, dtype=np.int64)}
        self._held: list[tuple[npt.NDArray[Any], ...]] = []

    @classmethod
    def load(cls, model: str | Path, *, rows: int) -> Self:
        """For an encode of so many rows by the model in a sealed directory. Raises DataError if it has no reference."""
        return cls(Reference.load(model), Features.load(Path(model)), share=min(1.0, WATCHED / max(rows, 1)))

    def anew(self) -> Self:
        """Nothing counted yet; what is known of the model is shared."""
        other = copy.copy(self)
        other._begin()
        return other

    def add(self, ids: pa.ChunkedArray, values: Values, observed: Observed, mu: Codes, elbo: Any = None) -> None:
        """Some rows, as the model is given them, their codes `[row, latent]` and, if they have one, their ELBO."""
        kept = slice(None) if self.share >= 1 else hashes(ids) < np.uint64(self.share * 2.0**64)
        bound = () if elbo is None else (np.asarray(elbo, dtype=np.float64),)
        self._held.append(tuple(it[kept] for it in (values, observed, mu, *bound)))
        if sum(len(it[0]) for it in self._held) >= BATCH:
            self._count_held()

    def _count_held(self) -> None:
        """A few rows cost as much to count as many."""
        if not self._held:
            return
        values, observed, mu, *bound = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
        self._held = []
        self._add("rows", np.array([len(values)]))
        self.add_inputs(values, observed)
        self.add_codes(mu)
        if self.reference.elbo is not None and bound:
            self.add_fit(*bound)

    def add_inputs(self, values: Values, observed: Observed) -> None:
        """Count each column."""
        edges = np.cumsum([feature.width for feature in self.features.layout])[:-1]
        parts = zip(self.features.layout, *(np.split(it, edges, axis=1) for it in (values, observed)), strict=True)
        for feature, cells, seen in parts:
            self._add(f"inputs/{feature.name}", self._count(feature, cells[seen], missing=int((~seen).sum())))

    def add_codes(self, mu: Codes) -> None:
        """Count the codes on each direction."""
        for number, (line, along) in enumerate(zip(self.cells.lines, self.cells.projected(mu), strict=True)):
            self._add(f"codes/{number}", line.count(along))

    def add_fit(self, elbo: Numbers) -> None:
        """Count the ELBO."""
        self._add("fit", self.cells.elbo.count(elbo))

    @property
    def counts(self) -> dict[str, Counts]:
        """Of all rows so far, by cell."""
        self._count_held()
        return self._counts

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

    def _count(self, feature: Feature, cells: Values, *, missing: int) -> Counts:
        """In each cell, or of each code (0 of a categorical: never seen in training), and last the missing."""
        if feature.coded:
            counts = np.bincount(cells.astype(np.int64), minlength=codes(feature))
        else:
            counts = self.cells.columns[feature.name].count(feature.units(cells.astype(np.float64)))
        return np.append(counts, missing)

    def _add(self, name: str, counts: Counts) -> None:
        self._counts[name] = counts + self._counts.get(name, 0)


def codes(feature: Feature) -> int:
    """How many codes a column of categories has."""
    return len(feature.categories) + (feature.likelihood == "categorical")


def hashes(ids: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """64 bits for each id, by its value alone: of text the sum of its bytes, each times a number of its place."""
    if pa.types.is_integer(ids.type):
        plain = ids.to_numpy().astype(np.int64, copy=False).view(np.uint64)
    else:
        plain = _sums(ids.cast(pa.large_binary()).combine_chunks())
    mixed = plain * _PLACES[0]  # integers in a row lie apart; the upper half decides
    return np.asarray((mixed ^ (mixed >> np.uint64(32))) * _PLACES[1])


def _sums(texts: pa.LargeBinaryArray) -> npt.NDArray[np.uint64]:
    _, offsets, letters = texts.buffers()
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    used = np.frombuffer(letters or b"", np.uint8)[ends[0] : ends[-1]]
    place = np.arange(len(used)) - np.repeat(ends[:-1] - ends[0], np.diff(ends))
    summed = np.append(np.uint64(0), np.cumsum((used + np.uint64(1)) * _PLACES[place % len(_PLACES)]))
    return np.asarray(np.diff(summed[ends - ends[0]]))


def save_expected(
    features: Features, reference: Reference, take: Callable[[Tensor], tuple[Tensor, Tensor]], *, rows: int, model: Path
) -> None:
    """Write the counts of the rows that the reference was made of into `model`; `take` gives rows by their numbers."""
    watch = Watch(reference, features)
    watch._add("rows", np.array([reference.rows]))
    for numbers in (torch.arange(reference.rows) * rows // reference.rows).split(BATCH):
        values, observed = take(numbers)
        watch.add_inputs(values.cpu().numpy(), observed.cpu().numpy())
    watch.add_codes(reference.mu)
    if reference.elbo is not None:
        watch.add_fit(reference.elbo)
    (model / FILE).write_text(json.dumps(watch.facts()))


def known(model: str | Path) -> bool:
    """Whether the model has its training rows' counts; one of an older latentpipe has not."""
    return (Path(model) / FILE).is_file()


def expected(model: str | Path) -> dict[str, Counts]:
    """The training rows' counts. Raises DataError if the model is older than they are."""
    try:
        facts = json.loads((Path(model) / FILE).read_text())
    except FileNotFoundError as error:
        raise DataError(f"the model has no {FILE}", str(model), "train it again") from error
    return {name: np.array(counts) for name, counts in facts.items()}
