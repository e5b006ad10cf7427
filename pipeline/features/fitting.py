"""Fit the preprocessing of a table's features in one pass over its training rows."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import ColumnConfig
from pipeline.errors import DataError
from pipeline.features import lines
from pipeline.features.doubles import Numbers, comparable, elements
from pipeline.features.quantiles import Quantiles
from pipeline.features.rows import Features
from pipeline.features.transforms import Feature, numbers
from vae.config import REALS

MAX_CATEGORIES: Final = 10_000
RANKED: Final = ("robust", "rank_gauss")
"""Transforms by quantiles."""
NORMAL_QUARTILES: Final = 2 * NormalDist().inv_cdf(0.75)
"""Width of a standard normal's middle half, 1.349."""
SMALLEST, LARGEST = 1e-37, 1e37
"""Scales that float32 holds, and not only just; what varies by less is constant."""


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
    """What the config says."""
    assert column.likelihood is not None
    shared = ("type", "nullable", "secret", "sigma", "components", "group", "levels", "binarise")
    settings = {setting: getattr(column, setting) for setting in shared}
    shape = (*column.shape, 1)[:3] if column.shape else ()
    feature = Feature(name=name, likelihood=column.likelihood, shape=shape, scaling=column.transform, **settings)
    known = comparable(pa.array(column.order or column.categories).cast(feature.scalar))
    return replace(feature, categories=tuple(known.to_pylist()))


Moments = tuple[Numbers, Numbers, Numbers]
"""Count, mean and sum of squared deviations, by feature."""


@dataclass
class _Moments:
    """Running moments of each of a numeric column's features, merged as in Chan et al. (1979), and their quantiles."""

    feature: Feature
    moments: Moments = field(init=False)
    plain: Moments = field(init=False)
    """Of the numbers whose logarithms `moments` are of."""
    quantiles: Quantiles = field(default_factory=Quantiles)
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
            if self.logged:
                self.plain = _merged(self.plain, _moments(np.exp(cells)))
        if self.feature.scaling in RANKED:
            self.quantiles.add(cells[~np.isnan(cells)])

    @property
    def logged(self) -> bool:
        """Whether the numbers are logarithms: of x, or of 1 + x."""
        return self.feature.likelihood == "log_normal" or self.feature.scaling == "log1p"

    def fitted(self) -> Feature:
        count, mean, _ = self.moments
        if not count.any():
            return self.feature
        if self.feature.likelihood not in REALS:
            deviation = self._standard()[1]
            return self.feature.with_statistics(means=mean, low=self.low, high=self.high, deviation=deviation)
        centre, scale = self._robust() if self.feature.scaling in RANKED else self._standard()
        scaled = replace(self.feature, center=centre, scale=scale or 1.0)
        if self.feature.scaling == "rank_gauss":
            knots, scores = lines.fit(self.quantiles, center=centre, scale=scaled.scale)
            scaled = replace(scaled, knots=knots, scores=scores)
        low, high = scaled.standardised(np.array([self.low, self.high]))
        return scaled.with_statistics(
            deviation=min(self._deviation(), sys.float_info.max),
            means=() if scaled.knots else np.where(count > 0, scaled.standardised(mean), 0),
            low=float(low),
            high=float(high),
        )

    def _deviation(self) -> float:
        """Standard deviation in the column's own units; may be infinite."""
        return _pooled(self.plain)[1] if self.logged else self._varied(_pooled(self.moments)[1])

    def _standard(self) -> tuple[float, float]:
        """Mean and standard deviation over all features."""
        centre, pooled = _pooled(self.moments)
        if not (deviation := self._varied(pooled)) < LARGEST:
            raise self._too_large()
        return centre, deviation

    def _varied(self, deviation: float) -> float:
        """A standard deviation, exactly 0 of a constant column."""
        largest = max(abs(self.low), abs(self.high))
        constant = self.low == self.high or deviation <= max(1e-12 * largest, SMALLEST)
        return 0.0 if constant else deviation

    def _robust(self) -> tuple[float, float]:
        """Median, and the standard deviation of the normal whose middle half is as wide; or the column's own."""
        low, centre, high = self.quantiles.at(np.array([0.25, 0.5, 0.75])).tolist()
        scale = high / NORMAL_QUARTILES - low / NORMAL_QUARTILES
        if scale <= SMALLEST:
            scale = self._standard()[1]
        reach = max(self.high - centre, centre - self.low)
        if not (scale < LARGEST and reach <= LARGEST * (scale or 1.0)):
            raise self._too_large()
        return centre, scale

    def _too_large(self) -> DataError:
        largest = self.feature.told(max(abs(self.low), abs(self.high)))
        return DataError(
            f"column {self.feature.name!r} holds numbers too large to standardise, up to {largest}",
            cure="mend them, or give the column the role 'passthrough'",
        )


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
        limit = 2 if self.feature.likelihood == "bernoulli" and not self.feature.categories else MAX_CATEGORIES
        if len(self.counts) > limit:
            some = ", ".join(map(self.feature.told, list(self.counts)[:4]))
            raise DataError(
                f"column {self.feature.name!r} has more than {limit:,} distinct values ({some}, ...)",
                cure=f"another likelihood than {self.feature.likelihood!r}, or role = 'passthrough', under [columns]",
            )

    def fitted(self) -> Feature:
        categories = self.feature.categories or tuple(sorted(self.counts))
        strange = [value for value in self.counts if value not in categories]
        if strange and self.feature.likelihood == "ordinal":
            raise DataError(
                f"column {self.feature.name!r} holds {self.feature.told(strange[0])}, which its order does not name",
                cure=f"add it to columns.{self.feature.name}.order",
            )
        counts = [self.counts[category] for category in categories]
        if self.feature.likelihood == "bernoulli":
            means = (counts[-1] / max(sum(counts), 1),) if len(counts) == 2 else (0.0,)
            return self.feature.with_statistics(categories=categories, means=means)
        fewest = 2 if self.feature.likelihood == "ordinal" else 1
        if len(categories) < fewest:
            raise DataError(
                f"column {self.feature.name!r} has {len(categories)} distinct values to train on, "
                f"{self.feature.likelihood!r} needs {fewest}",
                cure=f"role = 'passthrough' under columns.{self.feature.name}",
            )
        if self.feature.likelihood == "categorical":
            counts.insert(0, sum(self.counts[value] for value in strange))
        total = sum(counts) + len(counts)
        return self.feature.with_statistics(categories=categories, rates=tuple((it + 1) / total for it in counts))
