"""One column's fitted transformation: its cells as the numbers a model is given, and back (see `pipeline.features`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.features import lines
from pipeline.features.doubles import Numbers, comparable, elements, periods, tiny, to_cells, to_doubles
from pipeline.schema import arrow_type
from vae.config import CATEGORIES, COUNTS, LEVELS, REALS, Column, LikelihoodName

REAL_FLOOR: Final = 1e-2
ROUNDING: Final = 1 / math.sqrt(12)
"""Standard deviation of rounding to whole numbers: a model of integers can claim no smaller one."""
EXACT: Final = 1 << 24
"""Whole numbers up to here are themselves in float32."""
FURTHEST: Final = float(np.finfo(np.float32).max)
LARGEST_LOG: Final = 709.0
"""Beyond, e^x is more than float64 holds."""
ONE_HOT: Final = 64
"""A categorical with more codes is shown to the encoder by a learned vector per code."""
Values = npt.NDArray[np.float32]
Observed = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column's fitted transformation: what the config says of it, then what was found in the training rows."""

    name: str
    type: str
    """As in the run's config: `int64`, `float32[64]`, ..."""
    likelihood: LikelihoodName
    nullable: bool
    secret: bool = False
    shape: tuple[int, ...] = ()
    sigma: float = 0.0
    components: int = 5
    group: str = ""
    levels: int = 0
    binarise: str = "none"
    scaling: str = "standardise"
    """The config's `transform`."""
    center: float = 0.0
    scale: float = 1.0
    knots: tuple[float, ...] = ()
    """Of rank_gauss: standardised numbers, rising."""
    scores: tuple[float, ...] = ()
    """The model value at each."""
    deviation: float = 0.0
    """Standard deviation in the column's units."""
    low: float = 0.0
    high: float = 0.0
    means: tuple[float, ...] = ()
    """Mean model value of each feature."""
    categories: tuple[Any, ...] = ()
    rates: tuple[float, ...] = ()
    """Marginal probability of each code."""

    def with_statistics(self, **found: Any) -> Self:
        """With what was found in the training rows."""
        found["means"] = tuple(map(float, found.get("means", ())))
        return replace(self, **found)

    def told(self, value: Any) -> str:
        """A value as messages have it."""
        if self.secret:
            return "a secret value"
        return f"{value:g}" if isinstance(value, float) else repr(value)

    @cached_property
    def arrow(self) -> pa.DataType:
        """Type of the column in the table."""
        return arrow_type(self.type, column=self.name)

    @property
    def scalar(self) -> pa.DataType:
        """Type of one element."""
        return self.arrow.value_type if self.vector else self.arrow

    @property
    def vector(self) -> bool:
        """Whether a cell is a list of numbers."""
        return bool(pa.types.is_fixed_size_list(self.arrow))

    @property
    def width(self) -> int:
        """Features the column occupies."""
        return int(self.arrow.list_size) if self.vector else 1

    @property
    def coded(self) -> bool:
        """Whether its values are codes of categories."""
        return self.likelihood in CATEGORIES and self.binarise == "none"

    def column(self) -> Column:
        """The column as the model sees it."""
        whole = pa.types.is_integer(self.scalar) or pa.types.is_date(self.scalar)
        codes = {"categorical": len(self.categories) + 1, "ordinal": len(self.categories)}
        return Column(
            name=self.name,
            likelihood=self.likelihood,
            width=self.width,
            shape=self.shape,
            codes=self.levels if self.likelihood in LEVELS else codes.get(self.likelihood, 0),
            warp="knots" if self.knots else "log1p" if self.scaling == "log1p" else "none",
            knots=self.knots,
            scores=self.scores,
            periods=periods(self.scalar),
            embedding=self.embedding,
            center=min(max(self.center, -FURTHEST), FURTHEST),
            scale=self.scale,
            floor=max(REAL_FLOOR, ROUNDING / self.unit) if whole and self.likelihood != "log_normal" else REAL_FLOOR,
            sigma=self.sigma / self.scale,
            components=self.components,
            group=self.group,
            means=self.means,
            rates=self.rates,
            low=self.low,
            high=self.high,
            dynamic=self.binarise == "dynamic",
            nullable=self.nullable,
        )

    @property
    def embedding(self) -> int:
        """Width of the vector that stands for a code, 0 for one-hot: fastai's 1.6 K^0.56, but at most 50."""
        codes = len(self.categories) + 1
        many = self.likelihood == "categorical" and codes > ONE_HOT
        return min(50, round(1.6 * codes**0.56)) if many else 0

    @property
    def unit(self) -> float:
        """Original units in one standardised unit, in the middle of the column."""
        if self.scaling == "log1p":
            return self.scale * math.exp(self.center)
        if self.knots:
            low, high = self.units(np.array([-0.5, 0.5]))
            return float(high - low)
        return self.scale

    @property
    def spread(self) -> float:
        """The error of the best constant guess in the training rows: RMSE in its units, or the share of wrong codes."""
        if self.likelihood == "bernoulli":
            rate = float(np.mean(self.means or 0.0))
            return min(rate, 1 - rate)
        return 1 - max(self.rates) if self.rates else self.deviation

    def transform(self, array: pa.Array) -> tuple[Values, Observed]:
        """`[row, width]` numbers and which of them are there; missing ones are 0."""
        if self.coded:
            scaled, seen = self._codes(elements(array, self.width))
        else:
            scaled = self.standardised(numbers(self, array)).clip(-FURTHEST, FURTHEST)
            seen = ~np.isnan(scaled)
        shape = (len(array), self.width)
        return np.where(seen, scaled, 0).astype(np.float32).reshape(shape), seen.reshape(shape)

    def standardised(self, numbers: Numbers) -> Numbers:
        """Model values of what `numbers` gave."""
        with np.errstate(over="ignore"):
            standard = (numbers - self.center) / self.scale
            return lines.along(standard, self.knots, self.scores) if self.knots else standard

    def restore(self, values: Values) -> pa.Array:
        """`[row, width]` model values as the column they stand for, in its own type and units."""
        flat = values.astype(np.float64).ravel()
        if self.coded:
            index = flat.round().astype(np.int64) - (self.likelihood == "categorical")
            known = index.clip(0, max(len(self.categories) - 1, 0))
            cells = pa.array(self.categories or (None,), comparable(pa.array([], self.scalar)).type)
            flat_array = cells.take(pa.array(known)).cast(self.scalar)
        else:
            flat_array = to_cells(self.units(flat), self.scalar)
        return pa.FixedSizeListArray.from_arrays(flat_array, type=self.arrow) if self.vector else flat_array

    def _codes(self, flat: pa.Array) -> tuple[npt.NDArray[Any], Observed]:
        cells = comparable(flat)
        code = pc.index_in(cells, pa.array(self.categories, cells.type)).to_numpy(zero_copy_only=False)
        known, present = ~np.isnan(code), pc.is_valid(flat).to_numpy(zero_copy_only=False)
        categorical = self.likelihood == "categorical"
        return np.where(known, code + categorical, 0), present if categorical else known

    def units(self, values: Numbers) -> Numbers:
        """Numbers as the model holds them in the column's own units."""
        with np.errstate(over="ignore"):
            units = (lines.along(values, self.scores, self.knots) if self.knots else values) * self.scale + self.center
        if self.likelihood == "log_normal":
            return np.exp(np.clip(units, -700, 700)).clip(tiny(self.scalar))
        if self.scaling == "log1p":
            return np.expm1(np.clip(units, 0, LARGEST_LOG))
        if self.likelihood in COUNTS:
            return units.clip(0, EXACT)
        return units * (self.levels - 1) if self.likelihood == "bernoulli" else units


def numbers(feature: Feature, array: pa.Array) -> Numbers:
    """A numeric column's elements as its likelihood counts them, before they are standardised; NaN where missing.

    Raises DataError, naming the column and the value, for one that the likelihood or the transform cannot have.
    """
    flat = to_doubles(elements(array, feature.width))
    if feature.likelihood == "log_normal":
        _refuse(feature, flat, flat <= 0, "is not positive", "'gaussian' or 'student_t'")
        return np.log(flat)
    if feature.scaling == "log1p":
        _refuse(feature, flat, flat < 0, "is negative", "transform = 'rank_gauss'", of="log1p")
        return np.log1p(flat)
    if feature.likelihood in COUNTS:
        _refuse(feature, flat, (flat < 0) | (flat > EXACT), f"is no count from 0 to {EXACT:,}", "'gaussian'")
    if feature.likelihood in REALS or feature.likelihood in COUNTS:
        return flat
    highest = feature.levels - 1
    between = (flat % 1 > 0) & (feature.binarise == "none")
    _refuse(feature, flat, (flat < 0) | (flat > highest) | between, f"is no level from 0 to {highest}", "more levels")
    if feature.binarise == "none":
        return flat
    return flat / highest if feature.binarise == "dynamic" else np.where(np.isnan(flat), flat, flat > highest / 2)


def _refuse(feature: Feature, flat: Numbers, wrong: Observed, what: str, instead: str, *, of: str = "") -> None:
    if wrong.any():
        value = feature.told(float(flat[wrong][0]))
        raise DataError(
            f"column {feature.name!r} holds {value}, which {what} ({of or feature.likelihood})",
            cure=f"{instead} under columns.{feature.name}, or set such rows aside before",
        )
