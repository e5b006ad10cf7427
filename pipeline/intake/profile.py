"""What is known of each column after some rows: counts, moments, extremes, quantiles, categories.

Two profiles merge into that of both sets of rows. Counts, quantiles and categories come out the same however the rows
were cut; mean and variance merge by Chan et al. (1979), the same to the bit for the same cut in the same order.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

BINS: Final = 1 << 16
"""Of the histogram: the leading 16 bits of a number as float32, so that no middle is farther than 2^-8 of it."""
DISTINCT: Final = 1000
"""Values are counted one by one up to so many different ones."""
LEVELS: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SCHEMA: Final = pa.schema(
    [
        ("column", pa.string()),
        ("rows", pa.int64()),
        ("nulls", pa.int64()),
        ("cells", pa.int64()),
        ("mean", pa.float64()),
        ("squares", pa.float64()),
        ("low", pa.string()),
        ("high", pa.string()),
        ("bins", pa.list_(pa.uint16())),
        ("filled", pa.list_(pa.int64())),
        ("values", pa.string()),
        ("counts", pa.list_(pa.int64())),
    ]
)
Histogram = npt.NDArray[np.int64]


@dataclass
class Column:
    """One column's statistics."""

    rows: int = 0
    nulls: int = 0
    cells: int = 0
    """Numbers that mean, squares and histogram are of: a vector has several."""
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean."""
    low: Any = None
    high: Any = None
    histogram: Histogram | None = None
    counts: dict[Any, int] | None = field(default_factory=dict)
    """How often each value comes; None once there are more than DISTINCT."""

    def add(self, array: pa.Array) -> None:
        """Take in some rows."""
        self.rows += len(array)
        self.nulls += array.null_count
        present = array.drop_null() if array.null_count else array
        if pa.types.is_fixed_size_list(array.type):
            present, self.counts = present.flatten().drop_null(), None
        if not len(present):
            return
        if pa.types.is_float16(present.type):
            present = present.cast(pa.float32())  # Arrow counts no float16
        if _counted(present.type):
            self._count(present)
        if _numeric(present.type):
            self._measure(present.to_numpy(zero_copy_only=False))
        elif _timed(present.type):
            extremes = pc.min_max(present)
            self._extend(extremes["min"].as_py(), extremes["max"].as_py())

    def merge(self, other: Column) -> None:
        """Take in what another column's statistics are of."""
        self.rows, self.nulls = self.rows + other.rows, self.nulls + other.nulls
        self._moments(other.cells, other.mean, other.squares)
        if other.low is not None:
            self._extend(other.low, other.high)
        if other.histogram is not None:
            self.histogram = other.histogram.copy() if self.histogram is None else self.histogram + other.histogram
        self._tally(other.counts)

    @property
    def variance(self) -> float | None:
        """Population variance; None without numbers."""
        return self.squares / self.cells if self.cells else None

    def quantile(self, level: float) -> float | None:
        """The number with this share at or below it: exact if all are counted, else within 0.4 % of its size."""
        if self.histogram is None:
            return None
        if self.counts:
            values = sorted(self.counts)
            share = np.cumsum([self.counts[it] for it in values]) / sum(self.counts.values())
            return float(values[int(np.searchsorted(share, level))])
        share = np.cumsum(self.histogram[_ORDER])
        rank = max(math.ceil(level * share[-1]), 1)
        return float(np.clip(_MIDDLE[int(np.searchsorted(share, rank))], self.low, self.high))

    def facts(self) -> dict[str, Any]:
        """The statistics as a manifest states them."""
        found: dict[str, Any] = {"rows": self.rows, "nulls": self.nulls}
        if self.low is not None:
            found |= {"min": _plain(self.low), "max": _plain(self.high)}
        if self.cells:
            moments = {"mean": self.mean, "variance": self.variance}
            found |= {name: it for name, it in moments.items() if it is not None and math.isfinite(it)}
            found["quantiles"] = {f"{level:g}": self.quantile(level) for level in LEVELS}
        if self.counts is not None:
            ranked = sorted(self.counts.items(), key=lambda it: (-it[1], str(it[0])))
            found |= {"distinct": len(ranked), "values": [[_plain(value), count] for value, count in ranked[:100]]}
        return found

    def _count(self, present: pa.Array) -> None:
        if self.counts is not None:
            glance = pc.count_distinct(present[: 2 * DISTINCT]).as_py()
            if glance > DISTINCT or len(found := pc.value_counts(present)) > DISTINCT:
                self.counts = None
                return
            pairs = zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
            self._tally(dict(pairs))

    def _tally(self, counts: Mapping[Any, int] | None) -> None:
        if self.counts is None or counts is None:
            self.counts = None
            return
        for value, count in counts.items():
            self.counts[value] = self.counts.get(value, 0) + count
        if len(self.counts) > DISTINCT:
            self.counts = None

    def _extend(self, low: Any, high: Any) -> None:
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)

    def _measure(self, numbers: npt.NDArray[Any]) -> None:
        self._extend(numbers.min().item(), numbers.max().item())
        doubles = numbers.astype(np.float64, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(doubles.mean())
            apart = doubles - mean
            np.multiply(apart, apart, out=apart)  # not `@`: BLAS would start threads of its own
            self._moments(len(doubles), mean, float(apart.sum()))
            leading = doubles.astype(np.float32).view(np.uint16)[_UPPER]
        if self.histogram is None:
            self.histogram = np.zeros(BINS, dtype=np.int64)
        bins, filled = np.unique(leading, return_counts=True)  # unlike bincount it lets other threads run
        self.histogram[bins] += filled

    def _moments(self, cells: int, mean: float, squares: float) -> None:
        if cells:
            share, apart = cells / (self.cells + cells), mean - self.mean
            self.squares += squares + apart * apart * self.cells * share
            self.mean += apart * share
            self.cells += cells


@dataclass
class Profile:
    """The statistics of a table's columns, by name; of a secret one only how many cells are there."""

    columns: dict[str, Column] = field(default_factory=dict)
    secret: frozenset[str] = frozenset()

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in some rows."""
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            column = self.columns.setdefault(name, Column())
            if name in self.secret:
                column.rows, column.nulls, column.counts = (
                    column.rows + len(array),
                    column.nulls + array.null_count,
                    None,
                )
            else:
                column.add(array)

    def merge(self, other: Profile) -> None:
        """Take in what another profile is of."""
        for name, column in other.columns.items():
            self.columns.setdefault(name, Column()).merge(column)

    def observed(self, name: str) -> int:
        """Rows in which the column has a value."""
        column = self.columns.get(name, Column())
        return column.rows - column.nulls

    def facts(self) -> dict[str, dict[str, Any]]:
        """The statistics as a manifest states them."""
        return {name: column.facts() for name, column in self.columns.items()}

    def to_batch(self) -> pa.RecordBatch:
        """As rows of SCHEMA, one per column, to merge again later."""
        return pa.RecordBatch.from_pylist([_row(name, it) for name, it in self.columns.items()], schema=SCHEMA)

    @classmethod
    def merged(cls, batches: Iterable[pa.RecordBatch | pa.Table]) -> Self:
        """Of all the rows that these batches of SCHEMA are of, in this order."""
        whole = cls()
        for batch in batches:
            for row in range(batch.num_rows):
                facts = {name: batch.column(name)[row] for name in batch.schema.names}
                whole.columns.setdefault(facts["column"].as_py(), Column()).merge(_column(facts))
        return whole


def _row(name: str, column: Column) -> dict[str, Any]:
    histogram = column.histogram if column.histogram is not None else np.zeros(0, dtype=np.int64)
    filled = np.flatnonzero(histogram)
    counts = None if column.counts is None else list(column.counts.items())
    return {
        "column": name,
        "rows": column.rows,
        "nulls": column.nulls,
        "cells": column.cells,
        "mean": column.mean,
        "squares": column.squares,
        "low": _told(column.low),
        "high": _told(column.high),
        "bins": filled,
        "filled": histogram[filled],
        "values": None if counts is None else json.dumps([value for value, _ in counts]),
        "counts": None if counts is None else [count for _, count in counts],
    }


def _column(row: Mapping[str, pa.Scalar]) -> Column:
    histogram, counts = None, None
    if len(row["bins"]):
        histogram = np.zeros(BINS, dtype=np.int64)
        histogram[row["bins"].values.to_numpy()] = row["filled"].values.to_numpy()
    if row["values"].is_valid:
        counts = dict(zip(json.loads(row["values"].as_py()), row["counts"].as_py(), strict=True))
    plain = {name: row[name].as_py() for name in ("rows", "nulls", "cells", "mean", "squares")}
    low, high = (json.loads(row[name].as_py() or "null") for name in ("low", "high"))
    return Column(**plain, low=low, high=high, histogram=histogram, counts=counts)


def _told(value: Any) -> str | None:
    return None if value is None else json.dumps(_plain(value))


def _plain(value: Any) -> Any:
    """As JSON can say it; times in ISO 8601, which sorts as they do."""
    return value if isinstance(value, str | int | float | bool) else value.isoformat()


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _timed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def _counted(kind: pa.DataType) -> bool:
    return bool(_numeric(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind))


def _middles() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The bins in the order of their numbers, and the middle of each in that order."""
    bins = np.arange(BINS, dtype=np.uint32)
    negative = bins >> 15 == 1
    order = np.argsort(np.where(negative, -(bins & 0x7FFF).astype(np.int64) - 1, bins.astype(np.int64)), kind="stable")
    with np.errstate(invalid="ignore"):  # some bins are NaN, and empty
        middle = ((bins << 16) | 0x8000).view(np.float32).astype(np.float64)
    return order, middle[order]


_ORDER, _MIDDLE = _middles()
_UPPER: Final = slice(1 if sys.byteorder == "little" else 0, None, 2)
"""The leading half of each float32."""
