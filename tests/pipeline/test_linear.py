"""PCA behind a codec's verbs: its own subspace comes back exactly, and what it gives are the table's values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from pipeline import linear
from pipeline.columns import ColumnConfig
from pipeline.features import fitting


def fitted(*, latent: int) -> tuple[linear.Linear, pa.Table, torch.Tensor, torch.Tensor]:
    """A PCA of a small mixed table, the table, and its tensors."""
    rng = np.random.default_rng(0)
    city = rng.integers(0, 3, 400)
    table = pa.table(
        {
            "x": rng.normal(size=400) + 4 * city,
            "city": np.array(["Lima", "Oslo", "Rome"])[city],
            "sold": city > 1,
            "visits": rng.poisson(5, 400),
            "rank": rng.integers(1, 5, 400),
        }
    )
    columns = {
        "x": ColumnConfig(type="float64", likelihood="gaussian"),
        "city": ColumnConfig(type="string", likelihood="categorical"),
        "sold": ColumnConfig(type="bool", likelihood="bernoulli"),
        "visits": ColumnConfig(type="int64", likelihood="poisson"),
        "rank": ColumnConfig(type="int64", likelihood="ordinal"),
    }
    features = fitting.fit(table.to_batches(), columns)
    values, observed = (torch.from_numpy(part) for part in features.transform(table))
    return linear.fit(features, values, observed, latent=latent), table, values, observed


def test_all_components_reconstruct_the_table() -> None:
    """With as many components as inputs nothing is lost: every cell comes back, whatever its kind."""
    model, _, values, observed = fitted(latent=8)
    inputs = linear.embedded(model.columns, values, observed)
    back = model.values(model.model.reconstruct(model.model.encode(inputs)))
    torch.testing.assert_close(back, values, rtol=0, atol=0.02)


def test_codes_are_those_of_the_components() -> None:
    """Codes are E[z | x]; a code's log-variance is the same in every row."""
    model, table, values, observed = fitted(latent=2)
    codes = model.encode(table)
    expected = model.model.encode(linear.embedded(model.columns, values, observed))
    np.testing.assert_allclose(codes.mu, expected, rtol=1e-5, atol=1e-6)
    assert codes.mu.shape == (400, 2)
    assert np.ptp(codes.logvar, axis=0).max() == 0


def test_samples_are_rows_of_the_table() -> None:
    """Samples have the table's columns and types, known categories, whole counts; the same seed, the same rows."""
    model, table, _, _ = fitted(latent=3)
    rows = pa.Table.from_struct_array(model.sample(200, seed=1))
    assert rows.schema.remove_metadata().types == table.schema.types
    assert set(rows["city"].to_pylist()) <= {"Lima", "Oslo", "Rome"}
    assert min(rows["visits"].to_pylist()) >= 0
    assert set(rows["rank"].to_pylist()) <= {1, 2, 3, 4}
    assert rows.equals(pa.Table.from_struct_array(model.sample(200, seed=1)))
