"""What training rows look like to their model: the yardstick for a row's percentiles, and for drift.

Measured once, at the end of training, on training rows evenly spread over the split; sealed with the model. Numbers lie
in `reference.safetensors`, marginals of the table's columns in `reference.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from pipeline import draws
from pipeline.errors import DataError
from pipeline.features import Feature, Features
from vae.config import CATEGORIES
from vae.evidence import Witness
from vae.model import VAE

FACTS, NUMBERS = "reference.json", "reference.safetensors"
FORMAT: Final = 1
ROWS: Final = 65_536
"""Training rows that are measured, at most."""
CELLS: Final = 1 << 24
"""Model values that are in memory at a time, at most: of a wide table fewer rows are measured."""
CODES: Final = 2_048
"""Rows whose codes are kept, at most."""
STEPS: Final = np.linspace(0, 1, 1001)
"""Shares at which a figure's quantiles are kept."""
COLUMN_STEPS: Final = np.linspace(0, 1, 101)
"""Shares at which a column's quantiles are kept."""
ELBO_DRAWS: Final = 1
"""Posterior draws behind the ELBO of a row, here and in latents: the two must be as noisy to be compared."""
BATCH: Final = 1_024
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Marginal:
    """One column over the measured rows, all elements of a vector alike."""

    missing: float
    """Share of the cells that are missing to the model."""
    quantiles: tuple[float, ...] = ()
    """Of numbers, at the shares 0, 0.01, ..., 1, in the column's own units; empty if all are missing."""
    shares: tuple[float, ...] = ()
    """Of the cells there, by code: `Feature.categories`, after those never seen (0) if it is a categorical."""


@dataclass(frozen=True)
class Reference:
    """The measured rows in figures."""

    rows: int
    elbo: Doubles | None
    """Quantiles `[1001]` of the rows' ELBO, nats in original units; None of a deterministic encoder."""
    error: Doubles
    """Quantiles `[column, 1001]` of the error, in original units, 0 or 1 of a code; NaN of a column never observed."""
    usual_error: Doubles
    """`[column]`: root mean square of the error, in which one more row is as far off as a guess of the mean."""
    total_error: Doubles
    """Quantiles `[1001]` of a row's total error (see `total`)."""
    mu: npt.NDArray[np.float32]
    """Posterior means `[row, latent]` of some of the rows, evenly spread, 2,048 at most."""
    columns: dict[str, Marginal]
    """By name, in the order of `error`: the model's."""

    def save(self, directory: Path) -> None:
        """Write both files."""
        numbers = {name: it for name, it in vars(self).items() if isinstance(it, np.ndarray)}
        save_file({name: np.ascontiguousarray(it) for name, it in numbers.items()}, directory / NUMBERS)
        columns = {name: asdict(it) for name, it in self.columns.items()}
        facts = {"format": FORMAT, "rows": self.rows, "columns": columns}
        (directory / FACTS).write_text(json.dumps(facts, indent=1))

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """From a model's directory. Raises DataError if the model has none, or one of another format."""
        path = Path(directory) / FACTS
        if not path.is_file():
            raise DataError("the model was trained before models had a reference", str(path), "train it again")
        facts = json.loads(path.read_text())
        if facts["format"] != FORMAT:
            raise DataError(f"format {facts['format']}, not {FORMAT}", str(path), "train the model again")
        columns = {
            name: Marginal(it["missing"], tuple(it["quantiles"]), tuple(it["shares"]))
            for name, it in facts["columns"].items()
        }
        return cls(**{"rows": facts["rows"], "columns": columns, "elbo": None, **load_file(path.with_name(NUMBERS))})

    def standardised(self, errors: Doubles) -> Doubles:
        """Errors `[row, column]` in units of the usual one: the scale on which columns compare."""
        return errors / self.usual_error


def percentile(quantiles: Doubles, figures: Doubles) -> Doubles:
    """Percentage of the measured rows below each figure, and half of those equal to it; NaN stays."""
    low, high = (np.searchsorted(quantiles, figures, side=side) for side in ("left", "right"))
    return np.where(np.isnan(figures), np.nan, 50 * (low + high) / len(quantiles))


@torch.inference_mode()
def measure(model: VAE, features: Features, take: Callable[[Tensor], tuple[Tensor, Tensor]], *, rows: int) -> Reference:
    """Of the `rows` training rows that `take` gives by their numbers, as values and observed on the model's device."""
    witness, count = Witness(model), max(1, min(rows, ROWS, CELLS // features.width))
    numbers = torch.arange(count) * rows // count
    kept = set((np.arange(min(count, CODES)) * count // min(count, CODES)).tolist())
    elbo, errors, codes, cells = list[Tensor](), list[Tensor](), list[Tensor](), list[tuple[Tensor, Tensor]]()
    for place in torch.arange(count).split(BATCH):
        values, observed = take(numbers[place])
        posterior = model.encode(values, observed)
        errors.append(witness.errors(values, observed, model.reconstruct(posterior.mean)).cpu())
        codes.append(posterior.mean[[it in kept for it in place.tolist()]].cpu())
        cells.append((values.cpu(), observed.cpu()))
        if model.stochastic:
            noise = draws.normal(numbers[place].numpy().astype(np.uint64), range(ELBO_DRAWS), latent=codes[0].shape[1])
            elbo.append(witness.elbo(values, observed, posterior, torch.from_numpy(noise).to(values)).cpu())
    found = torch.cat(errors).numpy()
    usual = _usual(features, found)
    return Reference(
        rows=count,
        elbo=np.quantile(torch.cat(elbo).numpy(), STEPS) if elbo else None,
        error=np.stack([_quantiles(column) for column in found.T]),
        usual_error=usual,
        total_error=_quantiles(total(found / usual)),
        mu=torch.cat(codes).numpy().astype(np.float32),
        columns=_marginals(features, *(torch.cat(parts).numpy() for parts in zip(*cells, strict=True))),
    )


def total(standardised: Doubles) -> Doubles:
    """Root mean square of the standardised errors `[row, column]` over the columns observed; NaN if none is."""
    seen = ~np.isnan(standardised)
    squares = np.where(seen, standardised, 0) ** 2
    with np.errstate(invalid="ignore"):
        found: Doubles = np.sqrt(squares.sum(1) / seen.sum(1))
    return found


def _usual(features: Features, errors: Doubles) -> Doubles:
    far = np.array([1.0 if it.likelihood in CATEGORIES else it.deviation or 1.0 for it in features.layout])
    squares = np.where(np.isnan(errors), 0, errors / far) ** 2
    usual: Doubles = far * np.sqrt((squares.sum(0) + 1) / ((~np.isnan(errors)).sum(0) + 1))
    return usual


def _quantiles(figures: Doubles) -> Doubles:
    seen = figures[~np.isnan(figures)]
    return np.quantile(seen, STEPS) if len(seen) else np.full(len(STEPS), np.nan)


def _marginals(
    features: Features, values: npt.NDArray[np.float32], observed: npt.NDArray[np.bool_]
) -> dict[str, Marginal]:
    edges = np.cumsum([feature.width for feature in features.layout])[:-1]
    parts = zip(features.layout, np.split(values, edges, axis=1), np.split(observed, edges, axis=1), strict=True)
    return {feature.name: _marginal(feature, value[seen], seen) for feature, value, seen in parts}


def _marginal(feature: Feature, cells: npt.NDArray[np.float32], seen: npt.NDArray[np.bool_]) -> Marginal:
    missing = float((~seen).mean())
    if feature.coded:
        codes = len(feature.categories) + (feature.likelihood == "categorical")
        counts = np.bincount(cells.astype(np.int64), minlength=codes)
        return Marginal(missing, shares=tuple((counts / max(counts.sum(), 1)).tolist()))
    if not len(cells):
        return Marginal(missing)
    quantiles = np.quantile(feature.units(cells.astype(np.float64)), COLUMN_STEPS)
    return Marginal(missing, quantiles=tuple(quantiles.tolist()))
