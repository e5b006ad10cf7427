"""What tests of preprocessing share: rows by column, and the fit of one column."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.columns import ColumnConfig
from pipeline.features import Feature, Features, fitting
from pipeline.schema import arrow_type
from vae.config import COUNTS, LEVELS, LikelihoodName


def batch(**columns: pa.Array) -> pa.RecordBatch:
    """Rows by column."""
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def column(kind: str, likelihood: LikelihoodName, *, nullable: bool = True, **settings: Any) -> ColumnConfig:
    """A feature, with what its likelihood needs besides."""
    if likelihood == "joint_mixture":
        settings = {"group": "g", **settings}
    return ColumnConfig(type=kind, likelihood=likelihood, nullable=nullable, **settings)


def cells(values: list[Any], kind: str) -> pa.Array:
    """A column of this type."""
    return pa.array(values, arrow_type(kind))


def fitted(array: pa.Array, kind: str, likelihood: LikelihoodName, **settings: Any) -> Features:
    """Fitted to one column named x."""
    return fitting.fit([batch(x=array)], {"x": column(kind, likelihood, **settings)})


def feature(array: pa.Array, kind: str, likelihood: LikelihoodName, **settings: Any) -> Feature:
    """The fitted column named x."""
    return fitted(array, kind, likelihood, **settings).columns[0]


def family() -> tuple[pa.RecordBatch, dict[str, ColumnConfig]]:
    """Five rows with a column of every likelihood, in an order that is not the model's."""
    columns = {
        "size": column("string", "ordinal", order=("small", "medium", "large")),
        "north": column("float64", "joint_mixture", group="place", components=3),
        "city": column("string", "categorical"),
        "stars": column("int8", "binomial", levels=6),
        "up": column("float32", "joint_mixture", group="air"),
        "sold": column("bool", "bernoulli"),
        "east": column("float32", "joint_mixture", group="place", components=3),
        "visits": column("int64", "poisson"),
        "ink": column("uint8[4]", "bernoulli", levels=17, binarise="dynamic", shape=(2, 2)),
        "price": column("float64", "log_normal"),
        "down": column("float64", "joint_mixture", group="air"),
        "pixels": column("uint8[4]", "discretised_logistic", levels=256, shape=(2, 2)),
        "age": column("int16", "mixture", components=2),
        "clicks": column("uint32", "negative_binomial"),
        "change": column("float32[2]", "student_t"),
        "height": column("float64", "gaussian", sigma=2.0),
        "mask": column("uint8[4]", "bernoulli", levels=17, binarise="static"),
    }
    rows = {
        "size": ["large", "small", None, "medium", "small"],
        "north": [52.5, 41.9, 59.9, None, 48.8],
        "city": ["Rome", None, "Oslo", "Rome", "Lima"],
        "stars": [5, 0, 3, None, 1],
        "up": [0.5, None, -0.25, 8.0, 1.0],
        "sold": [True, False, None, True, True],
        "east": [13.5, 12.5, None, 2.5, 10.75],
        "visits": [0, 3, None, 1_000_000, 7],
        "ink": [[0, 16, 3, 8], [1, 2, 3, 4], None, [16, 16, 0, 0], [5, 0, None, 11]],
        "price": [1e-9, 12.5, 3e7, None, 0.75],
        "down": [1.5, 2.5, None, -4.0, 0.0],
        "pixels": [[0, 255, 128, 7], None, [9, 8, 7, 6], [0, 0, None, 255], [1, 2, 3, 4]],
        "age": [18, 99, 18, None, 47],
        "clicks": [0, None, 12, 16_777_216, 3],
        "change": [[0.5, -0.5], [8.25, None], None, [0.125, 1.0], [-3.5, 0.0]],
        "height": [181.5, 160.25, None, 175.0, 169.0],
        "mask": [[0, 16, 16, 0], None, [16, 16, 0, 0], [0, 0, None, 16], [16, 0, 0, 0]],
    }
    return batch(**{name: cells(rows[name], it.type) for name, it in columns.items()}), columns


LEVELLED = {name: {"levels": 11} for name in LEVELS}
"""Settings that the likelihoods over levels need, by likelihood."""
WHOLE = (*COUNTS, *LEVELS)
"""Likelihoods over whole numbers."""
