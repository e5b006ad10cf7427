"""Many plain columns at once: to the bit what each alone becomes, and back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.columns import ColumnConfig
from pipeline.features import fitting
from pipeline.features.plain import plain

ROWS = 3000
ODD = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0, -0.0]


def test_columns_together_are_what_each_is_alone() -> None:
    """float32 and float64, standardised and robust, with numbers too far and not there at all; some rows no block's."""
    random = np.random.default_rng(7)
    kinds = {"a": "float32", "b": "float64", "c": "float32", "d": "float64"}
    sizes = 10.0 ** random.integers(-3, 4, len(kinds))
    rows = {
        name: (random.standard_normal(ROWS) * size).astype(kind)
        for (name, kind), size in zip(kinds.items(), sizes, strict=True)
    }
    columns = {
        name: ColumnConfig(type=kind, likelihood="gaussian", transform="robust" if name in "cd" else "standardise")
        for name, kind in kinds.items()
    }
    fitted = fitting.fit([pa.RecordBatch.from_pydict(rows)], columns)
    for index, name in enumerate(rows):
        rows[name][1030 + index :: 211][: len(ODD)] = ODD
    rows["b"][5] = 1e300
    table = pa.table(rows)
    assert all(plain(it) for it in fitted.columns)
    values, observed = fitted.transform(table)
    alone = [it.transform(table.column(it.name).chunk(0)) for it in fitted.layout]
    assert np.array_equal(values, np.concatenate([it for it, _ in alone], axis=1))
    assert np.array_equal(observed, np.concatenate([it for _, it in alone], axis=1))
    values[::97] = np.finfo(np.float32).max
    restored = fitted.restore(values)
    for index, it in enumerate(fitted.layout):
        assert restored.field(it.name).equals(it.restore(values[:, [index]]))
