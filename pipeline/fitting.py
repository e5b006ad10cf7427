"""Fit the preprocessing of a table's features in one pass over its training rows."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import ColumnConfig
from pipeline.errors import ConfigError, DataError
from pipeline.features import Feature, Features, comparable, elements, numbers
from vae.config import REALS

MAX_CATEGORIES: Final = 10_000
Numbers = npt.NDArray[np.float64]


def fit(batches: Iterable[pa.RecordBatch], columns: Mapping[str, ColumnConfig]) -> Features:
    """Fit every feature column. Raises DataError, naming the column, for values that its likelihood cannot have."""
    tallies = {name: _tally(name, column) for name, column in columns.items()}
    for batch in batches:
        for name, tally in tallies.items():
            tally.add(batch.column(name))
    return Features(tuple(tally.fitted() for tally in tallies.values()))


def _tally(name: str, column: ColumnConfig) -> _Moments | _Categories:
    return (_Moments if column.numeric else _Categories)(_unfitted(name, column))


def _unfitted(name: str, column: ColumnConfig) -> Feature:
    """What the config says. Raises ConfigError for an order that the column's type cannot hold."""
    assert column.likelihood is not None
    shared = ("type", "nullable", "sigma", "components", "group", "levels", "binarise")
    settings = {setting: getattr(column, setting) for setting in shared}
    shape = (*column.shape, 1)[:3] if column.shape else ()
    feature = Feature(name=name, likelihood=column.likelihood, shape=shape, **settings)
    try:
        ranks = comparable(pa.array(column.order).cast(feature.scalar)).to_pylist()
    except pa.ArrowException:
        raise ConfigError(f"columns.{name}.order = {list(column.order)}: not values of {column.type!r}") from None
    return replace(feature, categories=tuple(ranks))


Moments = tuple[Numbers, Numbers, Numbers]
"""Count, mean and sum of squared deviations, by feature."""


@dataclass
class _Moments:
    """Running moments of each of a numeric column's features, merged as in Chan et al. (1979)."""

    feature: Feature
    moments: Moments = field(init=False)
    plain: Moments = field(init=False)
    """Of a log_normal's own numbers, whose logarithms `moments` are of."""
    low: float = math.inf
    high: float = -math.inf

    def __post_init__(self) -> None:
        self.moments = (np.zeros(self.feature.width), np.zeros(self.feature.width), np.zeros(self.feature.width))
        self.plain = self.moments

    def add(self, array: pa.Array) -> None:
        cells = numbers(self.feature, array).reshape(-1, self.feature.width)
        if np.isnan(cells).all():
            return
        self.low, self.high = min(self.low, float(np.nanmin(cells))), max(self.high, float(np.nanmax(cells)))
        with np.errstate(over="ignore", invalid="ignore"):
            self.moments = _merged(self.moments, _moments(cells))
            if self.feature.likelihood == "log_normal":
                self.plain = _merged(self.plain, _moments(np.exp(cells)))

    def fitted(self) -> Feature:
        count, mean, _ = self.moments
        if not count.any():
            return self.feature
        centre, deviation = self._pooled()
        if self.feature.likelihood not in REALS:
            return self.feature.with_statistics(means=mean, low=self.low, high=self.high, deviation=deviation)
        scale = deviation or 1.0
        logged = self.feature.likelihood == "log_normal"
        return self.feature.with_statistics(
            center=centre,
            scale=scale,
            deviation=min(_pooled(self.plain)[1], sys.float_info.max) if logged else deviation,
            means=np.where(count > 0, (mean - centre) / scale, 0),
            low=(self.low - centre) / scale,
            high=(self.high - centre) / scale,
        )

    def _pooled(self) -> tuple[float, float]:
        """Mean and standard deviation over all features; a constant column's is exactly 0."""
        centre, deviation = _pooled(self.moments)
        largest = max(abs(self.low), abs(self.high))
        if not math.isfinite(deviation):
            raise DataError(
                f"column {self.feature.name!r} holds numbers too large to standardise, up to {largest:g}",
                cure="mend them, or give the column the role 'passthrough'",
            )
        return centre, 0.0 if deviation <= 1e-12 * largest else deviation


def _moments(cells: Numbers) -> Moments:
    """Of rows `[row, feature]`; NaN is missing."""
    seen = ~np.isnan(cells)
    count = seen.sum(0).astype(float)
    mean = np.where(seen, cells, 0).sum(0) / np.maximum(count, 1)
    return count, mean, (np.where(seen, cells - mean, 0) ** 2).sum(0)


def _merged(one: Moments, other: Moments) -> Moments:
    """Of two sets of rows together."""
    total, apart = one[0] + other[0], other[1] - one[1]
    share = other[0] / np.maximum(total, 1)
    return total, one[1] + apart * share, one[2] + other[2] + apart**2 * one[0] * share


def _pooled(moments: Moments) -> tuple[float, float]:
    """Mean and standard deviation over all features; not finite where float64 cannot hold them."""
    count, mean, squares = moments
    with np.errstate(over="ignore", invalid="ignore"):
        centre = float(np.average(mean, weights=count))
        variance = float((squares + count * (mean - centre) ** 2).sum() / count.sum())
    return centre, math.sqrt(variance) if math.isfinite(variance) else math.inf


@dataclass
class _Categories:
    """Running counts of a column's distinct values."""

    feature: Feature
    counts: Counter[Any] = field(default_factory=Counter)

    def add(self, array: pa.Array) -> None:
        counted = pc.value_counts(comparable(elements(array, self.feature.width).drop_null()))
        pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
        self.counts.update(dict(pairs))
        limit = 2 if self.feature.likelihood == "bernoulli" else MAX_CATEGORIES
        if len(self.counts) > limit:
            some = ", ".join(repr(value) for value in list(self.counts)[:4])
            raise DataError(
                f"column {self.feature.name!r} has more than {limit:,} distinct values ({some}, ...)",
                cure=f"another likelihood than {self.feature.likelihood!r}, or role = 'passthrough', under [columns]",
            )

    def fitted(self) -> Feature:
        categories = self.feature.categories or tuple(sorted(self.counts))
        if strange := [value for value in self.counts if value not in categories]:
            raise DataError(
                f"column {self.feature.name!r} holds {strange[0]!r}, which its order does not name",
                cure=f"add it to columns.{self.feature.name}.order",
            )
        counts = [self.counts[category] for category in categories]
        if self.feature.likelihood == "bernoulli":
            means = (counts[-1] / sum(counts),) if len(counts) == 2 else (0.0,)
            return self.feature.with_statistics(categories=categories, means=means)
        fewest = 2 if self.feature.likelihood == "ordinal" else 1
        if len(categories) < fewest:
            raise DataError(
                f"column {self.feature.name!r} has {len(categories)} distinct values to train on, "
                f"{self.feature.likelihood!r} needs {fewest}",
                cure=f"role = 'passthrough' under columns.{self.feature.name}",
            )
        known = [count + 1 for count in ([0] if self.feature.likelihood == "categorical" else []) + counts]
        return self.feature.with_statistics(categories=categories, rates=tuple(it / sum(known) for it in known))
