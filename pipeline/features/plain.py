"""Many real columns at once: what `Feature.transform` and `Feature.restore` make of each, to the bit, in a few passes.

Rows go through in blocks that stay in a processor's cache; column by column, a wide table would be read once for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pipeline.features.transforms import FURTHEST, Feature, Observed, Values
from vae.config import REALS

BLOCK: Final = 1024


def plain(feature: Feature) -> bool:
    """Whether a cell is a floating number that is shifted and scaled, and nothing else."""
    return (
        feature.likelihood in REALS
        and feature.likelihood != "log_normal"
        and feature.scaling != "log1p"
        and not feature.knots
        and (pa.types.is_float32(feature.arrow) or pa.types.is_float64(feature.arrow))
    )


def transform(features: Sequence[Feature], columns: Sequence[pa.Array], values: Values, observed: Observed) -> None:
    """Fill `values[row, feature]` and `observed` from plain columns without nulls."""
    cells = [column.to_numpy() for column in columns]
    center, scale = (torch.from_numpy(it) for it in _constants(features))
    target = torch.from_numpy(values)
    for start in range(0, len(values), BLOCK):
        part = slice(start, start + BLOCK)
        block = torch.from_numpy(np.stack([it[part] for it in cells], dtype=np.float64)).sub_(center).div_(scale)
        observed[part] = True
        seen = block.numpy()
        if not (seen.min() >= -FURTHEST and seen.max() <= FURTHEST):  # too far, or not a number
            missing = block.isnan()
            observed[part] = ~missing.T.numpy()
            block.clamp_(-FURTHEST, FURTHEST).masked_fill_(missing, 0)
        target[part] = block.float().T


def restore(features: Sequence[Feature], values: Values) -> list[pa.Array]:
    """The columns that `values[row, feature]` stand for, in their own types and units."""
    kinds = [feature.arrow.to_pandas_dtype() for feature in features]
    center, scale, least, most = (torch.from_numpy(it) for it in (*_constants(features), *_limits(kinds)))
    floor, ceiling = least.max(), most.min()
    found = np.empty((len(features), len(values)), np.result_type(*kinds))
    source, target = torch.from_numpy(values), torch.from_numpy(found)
    for start in range(0, len(values), BLOCK):
        part = slice(start, start + BLOCK)
        block = source[part].T.contiguous().double().mul_(scale).add_(center)
        low, high = block.aminmax()
        if not (low >= floor and high <= ceiling):  # too far for some column's type, or not a number
            block = torch.minimum(torch.maximum(block, least), most)
        target[:, part] = block
    cells = [column.astype(kind, copy=False) for column, kind in zip(found, kinds, strict=True)]
    return [pa.array(column, feature.arrow) for column, feature in zip(cells, features, strict=True)]


def _constants(features: Sequence[Feature]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Center and scale, `[feature, 1]`."""
    center, scale = ([getattr(it, name) for it in features] for name in ("center", "scale"))
    return np.array(center)[:, None], np.array(scale)[:, None]


def _limits(kinds: Sequence[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Least and largest finite number of each type, `[feature, 1]`."""
    least, most = ([float(getattr(np.finfo(kind), name)) for kind in kinds] for name in ("min", "max"))
    return np.array(least)[:, None], np.array(most)[:, None]
