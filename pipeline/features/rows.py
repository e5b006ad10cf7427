"""Fitted preprocessing: rows <-> `values` and `observed`, and back to the original types and units.

    reals         (x - center) / scale; log_normal: of log x; a time: of its seconds, a date: of its days
      standardise   center and scale are mean and standard deviation
      robust        they are the median and, as a normal's standard deviation, the interquartile range / 1.349
      log1p         as standardise, of log(1 + x)
      rank_gauss    as robust, then straight lines from the quantiles to the normal scores of their ranks
    counts        as they are
    levels        as they are; binarised: 0 or 1 about the middle, or the share of the highest level
    bernoulli     0 or 1, in the order of the two categories
    ordinal       0..K-1 in the declared order, or the sorted one
    categorical   code 1..K in the order of the categories; 0 is reserved for a category not seen in training

The encoder is shown levels and codes scaled to -1..1 or one-hot, a categorical of many codes by a learned vector per
code, and of a time also sine and cosine of day, week and year: those are no values, so p(x) counts the time once.

Fitted on training rows only (`pipeline.fitting`), saved beside the model as `features.json`.

What comes back: counts up to 2^24, levels and categories exactly. Of reals the model is given float32, so a value v
comes back to within 1e-7 of |v| or 1, whichever is larger, times dx/dv: standardised, that is 1e-7 of the distance from
the center or of the scale. Of a timestamp 1,000 days away it is 9 s. Whole numbers are rounded, so they are exact where
that error is below 1/2. Farther from the center than 3.4e38 scales, the largest float32, a number stays there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Self, get_args

import numpy as np
import pyarrow as pa

from pipeline.errors import DataError
from pipeline.features import plain
from pipeline.features.transforms import Feature as Feature
from pipeline.features.transforms import Observed, Values
from vae.config import Column, LikelihoodName

FILE: Final = "features.json"
FORMAT: Final = 3
BLOCKS: Final = get_args(LikelihoodName)


@dataclass(frozen=True)
class Features:
    """The fitted transformations of a table's features, in the table's order."""

    columns: tuple[Feature, ...]

    @cached_property
    def layout(self) -> list[Feature]:
        """In the order of the model's features: sorted so that what one block can hold lies together."""

        def block(it: Feature) -> tuple[Any, ...]:
            return BLOCKS.index(it.likelihood), it.group, it.components, it.shape, it.embedding > 0

        return sorted(self.columns, key=block)

    @property
    def width(self) -> int:
        """Model values of a row."""
        return sum(feature.width for feature in self.columns)

    def model_columns(self) -> tuple[Column, ...]:
        """The columns as the model sees them."""
        return tuple(feature.column() for feature in self.layout)

    def transform(self, table: pa.Table | pa.RecordBatch) -> tuple[Values, Observed]:
        """Rows as `values[row, feature]` and `observed[row, feature]`. Raises DataError for what cannot be."""
        cells = [(feature, _column(table, feature)) for feature in self.layout]
        values = np.empty((len(table), self.width), np.float32)
        observed = np.empty(values.shape, np.bool_)
        first = 0
        for together, run in groupby(cells, key=lambda it: plain.plain(it[0]) and it[1].null_count == 0):
            features, columns = zip(*run, strict=True)
            if together:
                span = slice(first, first + len(features))
                plain.transform(features, columns, values[:, span], observed[:, span])
                first = span.stop
                continue
            for feature, column in zip(features, columns, strict=True):
                span = slice(first, first + feature.width)
                values[:, span], observed[:, span] = feature.transform(column)
                first = span.stop
        return values, observed

    def restore(self, values: Values) -> pa.StructArray:
        """`values[row, feature]` as a struct of the table's own columns."""
        arrays = dict(self._restored(values))
        names = [feature.name for feature in self.columns]
        return pa.StructArray.from_arrays([arrays[name] for name in names], fields=list(self.struct()))

    def _restored(self, values: Values) -> Iterator[tuple[str, pa.Array]]:
        first = 0
        for together, run in groupby(self.layout, key=plain.plain):
            features = [*run]
            span = slice(first, first + sum(feature.width for feature in features))
            first = span.stop
            if together:
                names = [feature.name for feature in features]
                yield from zip(names, plain.restore(features, values[:, span]), strict=True)
                continue
            edges = np.cumsum([feature.width for feature in features])[:-1]
            for feature, part in zip(features, np.split(values[:, span], edges, axis=1), strict=True):
                yield feature.name, feature.restore(part)

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


def _column(table: pa.Table | pa.RecordBatch, feature: Feature) -> pa.Array:
    if not table.schema.get_all_field_indices(feature.name):
        raise DataError(f"column {feature.name!r} is missing; the model was trained on it")
    column = table.column(feature.name)
    if not column.type.equals(feature.arrow):
        raise DataError(
            f"column {feature.name!r} is {column.type}; the model was trained on {feature.arrow}",
            cure=f"declare type = {feature.type!r} under columns.{feature.name} and ingest again, or train again",
        )
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies even one chunk
