"""The models of the training benchmark, and their tables: made by a seeded generator, as Parquet and as one array."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK: Final = 50_000


@dataclass(frozen=True, kw_only=True)
class Model:
    """One architecture, features -> hidden -> latent -> hidden mirrored -> features, and how it is trained."""

    features: int
    hidden: tuple[int, ...]
    latent: int
    batch_rows: int
    likelihood: Literal["gaussian", "bernoulli"]
    rows: int
    """In the table."""
    streamed: int
    """In a table that is more than `STREAMING_MB` of them."""
    epochs: int
    """Of one turn."""

    @property
    def names(self) -> list[str]:
        """Columns of the table: one for each real feature, one vector for all binary ones."""
        return [f"x{index}" for index in range(self.features)] if self.likelihood == "gaussian" else ["pixels"]

    @property
    def flops_per_row(self) -> int:
        """Of the matrix products in one step: forward, and twice that backward, less the gradient of the input."""
        widths = (self.features, *self.hidden)
        weights = 2 * sum(a * b for a, b in pairwise(widths)) + 3 * widths[-1] * self.latent
        return 6 * weights - 2 * widths[0] * widths[1]


MODELS: Final = {
    "64-128-128-8": Model(
        features=64,
        hidden=(128, 128),
        latent=8,
        batch_rows=1024,
        likelihood="gaussian",
        rows=200_000,
        streamed=560_000,
        epochs=6,
    ),
    "784-512-512-32": Model(
        features=784,
        hidden=(512, 512),
        latent=32,
        batch_rows=256,
        likelihood="bernoulli",
        rows=30_000,
        streamed=45_000,
        epochs=4,
    ),
}


def make(folder: Path, name: str, rows: int) -> Path:
    """A folder with `rows` rows as `rows.parquet` and, float32, as `rows.npy`; made once."""
    import pyarrow.parquet as pq  # not at the top: the peers' environment has none

    model, made = MODELS[name], folder / f"{name}-{rows}"
    if (made / "complete").exists():
        return made
    made.mkdir(parents=True, exist_ok=True)
    array = np.lib.format.open_memmap(made / "rows.npy", "w+", np.float32, (rows, model.features))
    with pq.ParquetWriter(made / "rows.parquet", _table(model, _chunk(model, 0, 1)).schema) as file:
        for first in range(0, rows, CHUNK):
            chunk = _chunk(model, first, min(CHUNK, rows - first))
            array[first : first + len(chunk)] = chunk
            file.write_table(_table(model, chunk))
    array.flush()
    (made / "complete").touch()
    return made


def _chunk(model: Model, first: int, rows: int) -> npt.NDArray[np.float32]:
    """Noise around what a hidden vector of the latent's width says; its sign, where values are binary."""
    loadings = np.random.default_rng(0).standard_normal((model.latent, model.features), np.float32)
    random = np.random.default_rng((1, first))
    values = random.standard_normal((rows, model.latent), np.float32) @ loadings
    values += random.standard_normal(values.shape, np.float32)
    return values if model.likelihood == "gaussian" else (values > 0).astype(np.float32)


def _table(model: Model, chunk: npt.NDArray[np.float32]) -> pa.Table:
    """Columns of float32, or one of vectors of uint8."""
    import pyarrow as pa

    if model.likelihood == "gaussian":
        return pa.table(list(np.ascontiguousarray(chunk.T)), names=model.names)
    flat = pa.array(chunk.astype(np.uint8).ravel())
    return pa.table([pa.FixedSizeListArray.from_arrays(flat, model.features)], names=model.names)
