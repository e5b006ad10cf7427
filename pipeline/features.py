"""Fitted preprocessing: rows <-> `values` and `observed`, and back to the original types and units.

    reals         (x - center) / scale; log_normal: of log x
    counts        as they are
    levels        as they are; binarised: 0 or 1 about the middle, or the share of the highest level
    bernoulli     0 or 1, in the order of the two categories
    ordinal       0..K-1 in the declared order, or the sorted one
    categorical   code 1..K in the order of the categories; 0 is reserved for a category not seen in training

Fitted on training rows only (`pipeline.fitting`), saved beside the model as `features.json`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.schema import arrow_type
from vae.config import CATEGORIES, COUNTS, LEVELS, REALS, Column, LikelihoodName

FILE: Final = "features.json"
FORMAT: Final = 2
REAL_FLOOR: Final = 1e-2
ROUNDING: Final = 1 / math.sqrt(12)
"""Standard deviation of rounding to whole numbers: a model of integers can claim no smaller one."""
BLOCKS: Final = get_args(LikelihoodName)
EXACT: Final = 1 << 24
"""Whole numbers up to here are themselves in float32."""
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
    shape: tuple[int, ...] = ()
    sigma: float = 0.0
    components: int = 5
    group: str = ""
    levels: int = 0
    binarise: str = "none"
    center: float = 0.0
    scale: float = 1.0
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

    @property
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
        whole = pa.types.is_integer(self.scalar) and self.likelihood != "log_normal"
        codes = {"categorical": len(self.categories) + 1, "ordinal": len(self.categories)}
        return Column(
            name=self.name,
            likelihood=self.likelihood,
            width=self.width,
            shape=self.shape,
            codes=self.levels if self.likelihood in LEVELS else codes.get(self.likelihood, 0),
            center=self.center,
            scale=self.scale,
            floor=max(REAL_FLOOR, ROUNDING / self.scale) if whole else REAL_FLOOR,
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
            scaled = (numbers(self, array) - self.center) / self.scale
            seen = ~np.isnan(scaled)
        shape = (len(array), self.width)
        return np.where(seen, scaled, 0).astype(np.float32).reshape(shape), seen.reshape(shape)

    def restore(self, values: Values) -> pa.Array:
        """`[row, width]` model values as the column they stand for, in its own type and units."""
        flat = values.astype(np.float64).ravel()
        if self.coded:
            index = flat.round().astype(np.int64) - (self.likelihood == "categorical")
            known = index.clip(0, max(len(self.categories) - 1, 0))
            cells = pa.array(self.categories or (None,), comparable(pa.array([], self.scalar)).type)
            flat_array = cells.take(pa.array(known)).cast(self.scalar)
        else:
            flat_array = _to_type(self.units(flat), self.scalar)
        return pa.FixedSizeListArray.from_arrays(flat_array, type=self.arrow) if self.vector else flat_array

    def _codes(self, flat: pa.Array) -> tuple[npt.NDArray[Any], Observed]:
        cells = comparable(flat)
        code = pc.index_in(cells, pa.array(self.categories, cells.type)).to_numpy(zero_copy_only=False)
        known, present = ~np.isnan(code), pc.is_valid(flat).to_numpy(zero_copy_only=False)
        categorical = self.likelihood == "categorical"
        return np.where(known, code + categorical, 0), present if categorical else known

    def units(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Numbers as the model holds them in the column's own units."""
        units = values * self.scale + self.center
        if self.likelihood == "log_normal":
            return np.exp(np.clip(units, -700, 700)).clip(1 if pa.types.is_integer(self.scalar) else _tiny(self.scalar))
        if self.likelihood in COUNTS:
            return units.clip(0, EXACT)
        return units * (self.levels - 1) if self.likelihood == "bernoulli" else units


@dataclass(frozen=True)
class Features:
    """The fitted transformations of a table's features, in the table's order."""

    columns: tuple[Feature, ...]

    @property
    def layout(self) -> list[Feature]:
        """In the order of the model's features: sorted so that what one block can hold lies together."""
        return sorted(self.columns, key=lambda it: (BLOCKS.index(it.likelihood), it.group, it.components, it.shape))

    def model_columns(self) -> tuple[Column, ...]:
        """The columns as the model sees them."""
        return tuple(feature.column() for feature in self.layout)

    def transform(self, table: pa.Table | pa.RecordBatch) -> tuple[Values, Observed]:
        """Rows as `values[row, feature]` and `observed[row, feature]`. Raises DataError for what cannot be."""
        parts = [feature.transform(_column(table, feature.name)) for feature in self.layout]
        values, observed = zip(*parts, strict=True)
        return np.concatenate(values, axis=1), np.concatenate(observed, axis=1)

    def restore(self, values: Values) -> pa.StructArray:
        """`values[row, feature]` as a struct of the table's own columns."""
        edges = np.cumsum([feature.width for feature in self.layout])[:-1]
        parts = np.split(values, edges, axis=1)
        arrays = {feature.name: feature.restore(part) for feature, part in zip(self.layout, parts, strict=True)}
        names = [feature.name for feature in self.columns]
        return pa.StructArray.from_arrays([arrays[name] for name in names], fields=list(self.struct()))

    def struct(self) -> pa.StructType:
        """Type of what `restore` returns."""
        return pa.struct([pa.field(feature.name, feature.arrow) for feature in self.columns])

    def save(self, directory: Path) -> None:
        """Write `features.json`."""
        plain = {"format": FORMAT, "columns": [asdict(feature) for feature in self.columns]}
        (directory / FILE).write_text(json.dumps(plain, indent=1))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read `features.json`."""
        plain = json.loads((directory / FILE).read_text())
        if (written := plain["format"]) != FORMAT:
            age = "a newer version" if written > FORMAT else "an older version; train again"
            raise DataError(f"format {written}, not {FORMAT}: written by {age}", str(directory / FILE))
        return cls(tuple(Feature(**_frozen(column)) for column in plain["columns"]))


def _frozen(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def numbers(feature: Feature, array: pa.Array) -> npt.NDArray[np.float64]:
    """A numeric column's elements as its likelihood counts them, before they are standardised; NaN where missing.

    Raises DataError, naming the column and the value, for one that the likelihood cannot have.
    """
    cells = elements(array, feature.width).cast(pa.float64(), safe=False)
    flat: npt.NDArray[np.float64] = cells.to_numpy(zero_copy_only=False)
    if feature.likelihood == "log_normal":
        _refuse(feature, flat, flat <= 0, "is not positive", "'gaussian' or 'student_t'")
        logarithms: npt.NDArray[np.float64] = np.log(flat)
        return logarithms
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


def _refuse(feature: Feature, flat: npt.NDArray[np.float64], wrong: Observed, what: str, instead: str) -> None:
    if wrong.any():
        raise DataError(
            f"column {feature.name!r} holds {flat[wrong][0]:g}, which {what} ({feature.likelihood})",
            cure=f"{instead} under columns.{feature.name}, or set such rows aside before",
        )


def elements(array: pa.Array, width: int) -> pa.Array:
    """A column's cells one after the other, `width` to a row; a missing vector is `width` missing cells."""
    if not pa.types.is_fixed_size_list(array.type):
        return array
    if array.null_count == 0:
        return array.flatten()
    index = np.full((len(array), width), -1, dtype=np.int64)
    present = pc.is_valid(array).to_numpy(zero_copy_only=False)
    index[present] = np.arange(present.sum() * width).reshape(-1, width)
    return array.flatten().take(pa.array(index.ravel(), mask=index.ravel() < 0))


def comparable(cells: pa.Array) -> pa.Array:
    """Cells as values that count as categories: floats in double precision, and zero without a sign."""
    if pa.types.is_floating(cells.type):
        return pc.add(cells.cast(pa.float64()), 0.0)
    return cells


def _tiny(kind: pa.DataType) -> float:
    """The smallest positive number of a floating type, at full precision."""
    return float(np.finfo(kind.to_pandas_dtype()).tiny)


def _to_type(numbers: npt.NDArray[np.float64], kind: pa.DataType) -> pa.Array:
    """Numbers as a column type, held within its range; integers are rounded."""
    dtype = kind.to_pandas_dtype()
    if pa.types.is_integer(kind):
        whole = np.iinfo(dtype)
        high = np.nextafter(float(whole.max), 0) if kind.bit_width == 64 else whole.max
        return pa.array(np.clip(numbers.round(), whole.min, high).astype(dtype))
    real = np.finfo(dtype)
    return pa.array(np.clip(numbers, real.min, real.max).astype(dtype), kind)


def _column(table: pa.Table | pa.RecordBatch, name: str) -> pa.Array:
    if name not in table.schema.names:
        raise DataError(f"column {name!r} is missing; the model was trained on it")
    column = table.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
