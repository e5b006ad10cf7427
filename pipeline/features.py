"""Fitted preprocessing: rows <-> `values` and `observed`, and back to the original types and units.

    Gaussian      (x - center) / scale
    Bernoulli     0 or 1, in the order of the two categories
    categorical   code 1..K in the order of the categories; 0 is reserved for a category not seen in training

Fitted on training rows only, saved beside the model as `features.json`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ColumnConfig
from pipeline.errors import DataError
from pipeline.schema import arrow_type
from vae.config import Column, LikelihoodName

FILE: Final = "features.json"
FORMAT: Final = 1
REAL_FLOOR: Final = 1e-2
ROUNDING: Final = 1 / math.sqrt(12)
"""Standard deviation of rounding to whole numbers: a model of integers can claim no smaller one."""
BLOCKS: Final[tuple[LikelihoodName, ...]] = ("gaussian", "bernoulli", "categorical")
MAX_CATEGORIES: Final = 10_000
Values = npt.NDArray[np.float32]
Observed = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column's fitted transformation."""

    name: str
    type: str
    """As in the run's config: `int64`, `float32[64]`, ..."""
    likelihood: LikelihoodName
    nullable: bool
    center: float = 0.0
    scale: float = 1.0
    categories: tuple[Any, ...] = ()
    rates: tuple[float, ...] = ()
    """Marginal probabilities in the training rows: of the second category, or of each code."""

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

    def column(self) -> Column:
        """The column as the model sees it."""
        whole = pa.types.is_integer(self.scalar)
        return Column(
            name=self.name,
            likelihood=self.likelihood,
            width=self.width,
            codes=len(self.categories) + 1 if self.likelihood == "categorical" else 0,
            scale=self.scale,
            floor=max(REAL_FLOOR, ROUNDING / self.scale) if whole else REAL_FLOOR,
            rates=self.rates,
            nullable=self.nullable,
        )

    def transform(self, array: pa.Array) -> tuple[Values, Observed]:
        """`[row, width]` numbers and which of them are there; missing ones are 0."""
        flat = _elements(array, self.width)
        if self.likelihood == "gaussian":
            numbers = flat.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            scaled, seen = (numbers - self.center) / self.scale, ~np.isnan(numbers)
        else:
            cells = _comparable(flat)
            code = pc.index_in(cells, pa.array(self.categories, cells.type)).to_numpy(zero_copy_only=False)
            known, present = ~np.isnan(code), pc.is_valid(flat).to_numpy(zero_copy_only=False)
            categorical = self.likelihood == "categorical"
            scaled, seen = np.where(known, code + categorical, 0), present if categorical else known
        shape = (len(array), self.width)
        return np.where(seen, scaled, 0).astype(np.float32).reshape(shape), seen.reshape(shape)

    def restore(self, values: Values) -> pa.Array:
        """`[row, width]` model values as the column they stand for, in its own type and units."""
        flat = values.astype(np.float64).ravel()
        if self.likelihood == "gaussian":
            elements = _to_type(flat * self.scale + self.center, self.scalar)
        else:
            index = flat.round().astype(np.int64) - (self.likelihood == "categorical")
            known = index.clip(0, max(len(self.categories) - 1, 0))
            cells = pa.array(self.categories or (None,), _comparable(pa.array([], self.scalar)).type)
            elements = cells.take(pa.array(known)).cast(self.scalar)
        if self.vector:
            return pa.FixedSizeListArray.from_arrays(elements, type=self.arrow)
        return elements


@dataclass(frozen=True)
class Features:
    """The fitted transformations of a table's features, in the table's order."""

    columns: tuple[Feature, ...]

    @property
    def layout(self) -> list[Feature]:
        """In the order of the model's features: sorted by likelihood, so that each is one block."""
        return sorted(self.columns, key=lambda feature: BLOCKS.index(feature.likelihood))

    def model_columns(self) -> tuple[Column, ...]:
        """The columns as the model sees them."""
        return tuple(feature.column() for feature in self.layout)

    def transform(self, table: pa.Table | pa.RecordBatch) -> tuple[Values, Observed]:
        """Rows as `values[row, feature]` and `observed[row, feature]`. Raises DataError for a missing column."""
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
        if plain["format"] != FORMAT:
            raise DataError(f"written by a newer version; this one reads format {FORMAT}", str(directory / FILE))
        tuples = ("categories", "rates")
        columns = ({**column, **{key: tuple(column[key]) for key in tuples}} for column in plain["columns"])
        return cls(tuple(Feature(**column) for column in columns))


def fit(batches: Iterable[pa.RecordBatch], columns: Mapping[str, ColumnConfig]) -> Features:
    """Fit every feature column in one pass over the training rows."""
    tallies = {name: _Tally(name, column) for name, column in columns.items()}
    for batch in batches:
        for name, tally in tallies.items():
            tally.add(batch.column(name))
    return Features(tuple(tally.fitted() for tally in tallies.values()))


@dataclass
class _Tally:
    """Running statistics of one column: moments merged as in Chan et al. (1979), or counts of categories."""

    name: str
    column: ColumnConfig
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    largest: float = 0.0
    categories: Counter[Any] = field(default_factory=Counter)

    def add(self, array: pa.Array) -> None:
        kind = arrow_type(self.column.type, column=self.name)
        flat = _elements(array, kind.list_size if pa.types.is_fixed_size_list(kind) else 1).drop_null()
        if self.column.likelihood == "gaussian":
            self._moments(flat.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        else:
            counted = pc.value_counts(_comparable(flat))
            pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
            self.categories.update(dict(pairs))
            self._limit()

    def fitted(self) -> Feature:
        assert self.column.likelihood is not None
        gaussian = self.column.likelihood == "gaussian"
        return Feature(
            name=self.name,
            type=self.column.type,
            likelihood=self.column.likelihood,
            nullable=self.column.nullable,
            center=self.mean,
            scale=self._scale() if gaussian else 1.0,
            categories=tuple(sorted(self.categories)),
            rates=() if gaussian else self._rates(),
        )

    def _moments(self, numbers: npt.NDArray[np.float64]) -> None:
        if not len(numbers):
            return
        self.largest = max(self.largest, float(np.abs(numbers).max()))
        with np.errstate(over="ignore", invalid="ignore"):
            total, mean = self.count + len(numbers), float(numbers.mean())
            apart = mean - self.mean
            self.squares += float(((numbers - mean) ** 2).sum()) + apart * apart * self.count * len(numbers) / total
            self.mean += apart * len(numbers) / total
            self.count = total

    def _scale(self) -> float:
        if not math.isfinite(self.squares):
            raise DataError(
                f"column {self.name!r} holds numbers too large to standardise, up to {self.largest:g}",
                cure="mend them, or give the column the role 'passthrough'",
            )
        deviation = math.sqrt(self.squares / max(self.count, 1))
        constant = deviation <= 1e-12 * self.largest
        return 1.0 if constant else deviation

    def _rates(self) -> tuple[float, ...]:
        counts = [self.categories[category] for category in sorted(self.categories)]
        if self.column.likelihood == "bernoulli":
            return (counts[-1] / sum(counts),) if len(counts) == 2 else (0.0,)
        total = sum(counts) + len(counts) + 1
        return tuple((count + 1) / total for count in (0, *counts))

    def _limit(self) -> None:
        limit = 2 if self.column.likelihood == "bernoulli" else MAX_CATEGORIES
        if len(self.categories) > limit:
            some = ", ".join(repr(value) for value in list(self.categories)[:4])
            raise DataError(
                f"column {self.name!r} has more than {limit:,} distinct values ({some}, ...)",
                cure=f"another likelihood than {self.column.likelihood!r}, or role = 'passthrough', under [columns]",
            )


def _elements(array: pa.Array, width: int) -> pa.Array:
    """A column's cells one after the other, `width` to a row; a missing vector is `width` missing cells."""
    if not pa.types.is_fixed_size_list(array.type):
        return array
    if array.null_count == 0:
        return array.flatten()
    index = np.full((len(array), width), -1, dtype=np.int64)
    present = pc.is_valid(array).to_numpy(zero_copy_only=False)
    index[present] = np.arange(present.sum() * width).reshape(-1, width)
    return array.flatten().take(pa.array(index.ravel(), mask=index.ravel() < 0))


def _comparable(cells: pa.Array) -> pa.Array:
    """Cells as values that count as categories: floats in double precision, and zero without a sign."""
    if pa.types.is_floating(cells.type):
        return pc.add(cells.cast(pa.float64()), 0.0)
    return cells


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
