"""What a model was trained on, in small: quantiles and shares of its training rows, and some of their codes.

Sealed with the model as `reference.json` and `reference.safetensors`; what is encoded later is compared with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from safetensors.numpy import load_file, save_file

from pipeline.errors import DataError
from pipeline.features import Feature, Features
from pipeline.features.doubles import comparable, elements, to_doubles

FILE: Final = "reference"
ROWS: Final = 65_536
"""Training rows looked at, at most, evenly spread."""
CODES: Final = 2_048
"""Codes kept, at most."""
LEVELS: Final = np.linspace(0, 1, 101)
FINE_LEVELS: Final = np.linspace(0, 1, 1001)
Numbers = npt.NDArray[np.float64]
Codes = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Marginal:
    """One column of the training rows."""

    missing: float
    """Share of its cells."""
    quantiles: tuple[float, ...] = ()
    """Of its numbers at LEVELS, in its units; of a time in seconds, of a date in days. Empty: of categories."""
    categories: tuple[Any, ...] = ()
    shares: tuple[float, ...] = ()
    """Of its cells that are not missing, by category."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The training rows, as far as later rows are compared with them."""

    rows: int
    elbo: Numbers | None
    """Quantiles of the rows' ELBO at FINE_LEVELS, nats; None if the encoder is deterministic."""
    mu: Codes
    """`[<= CODES, latent]`."""
    columns: dict[str, Marginal]

    @classmethod
    def of(cls, features: Features, table: pa.Table, mu: Codes, elbo: Numbers | None) -> Self:
        """Of some rows, their codes and their ELBO."""
        kept = np.linspace(0, len(mu) - 1, min(CODES, len(mu))).astype(np.int64)
        return cls(
            rows=len(table),
            elbo=None if elbo is None else np.quantile(elbo, FINE_LEVELS),
            mu=mu[kept],
            columns={it.name: _marginal(it, table.column(it.name)) for it in features.columns},
        )

    def save(self, directory: Path) -> None:
        """Write both files."""
        plain = {"rows": self.rows, "columns": {name: asdict(it) for name, it in self.columns.items()}}
        (directory / f"{FILE}.json").write_text(json.dumps(plain, indent=1))
        tensors = {"mu": self.mu} if self.elbo is None else {"mu": self.mu, "elbo": self.elbo}
        save_file(tensors, directory / f"{FILE}.safetensors")

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """From a sealed model directory. Raises DataError if the model is older than references are."""
        try:
            plain = json.loads((Path(directory) / f"{FILE}.json").read_text())
            tensors = load_file(Path(directory) / f"{FILE}.safetensors")
        except FileNotFoundError as error:
            raise DataError("the model has no reference", str(directory), "train it again") from error
        columns = {name: Marginal(**_frozen(it)) for name, it in plain["columns"].items()}
        return cls(rows=plain["rows"], elbo=tensors.get("elbo"), mu=tensors["mu"], columns=columns)


def spread_evenly(rows: int, wanted: int = ROWS) -> Callable[[int, int], npt.NDArray[np.int64]]:
    """Which of the rows start..stop are among `wanted` that are evenly spread over `rows`."""
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, wanted)).astype(np.int64))
    return lambda start, stop: chosen[slice(*np.searchsorted(chosen, (start, stop)))] - start


def codes_of(feature: Feature, column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Number of each cell's category; -1 for one never seen, -2 for a missing cell."""
    cells = elements(column.combine_chunks(), feature.width)
    known = comparable(cells)
    index = pc.index_in(known, pa.array(feature.categories, known.type)).fill_null(-1)
    return np.where(pc.is_valid(cells).to_numpy(zero_copy_only=False), index.to_numpy(zero_copy_only=False), -2)


def numbers_of(feature: Feature, column: pa.ChunkedArray) -> Numbers:
    """Its elements in its units; NaN where missing."""
    return to_doubles(elements(column.combine_chunks(), feature.width))


def _marginal(feature: Feature, column: pa.ChunkedArray) -> Marginal:
    if feature.coded:
        codes = codes_of(feature, column)
        counts = np.bincount(codes[codes >= 0], minlength=len(feature.categories))
        shares = tuple((counts / max(counts.sum(), 1)).tolist())
        return Marginal(missing=float((codes == -2).mean()), categories=feature.categories, shares=shares)
    numbers = numbers_of(feature, column)
    seen = numbers[~np.isnan(numbers)]
    quantiles = tuple(np.quantile(seen, LEVELS).tolist()) if len(seen) else ()
    return Marginal(missing=float(np.isnan(numbers).mean()), quantiles=quantiles)


def _frozen(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
