"""The column `imputed`: what the model holds possible in the cells that were missing, and how sure it is.

A struct of the columns that may have missing cells; each is null where the cell was there, else `value` with `sd`, in
the column's units, or with the `probability` of that category. A vector that misses some elements is given whole, with
an sd of 0, or a probability of 1, for those that were there. An sd is null where the distribution has none. The whole
is null where nothing was missing. Vectors are lists: pyarrow cannot read a fixed_size_list back that is null.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.codec import Codec
from pipeline.features import Feature
from pipeline.features.doubles import elements, to_cells
from pipeline.features.transforms import Observed
from pipeline.padded import Rows
from vae.config import CATEGORIES
from vae.evidence import Witness

Doubles = npt.NDArray[np.float64]
LARGEST: Final = float(np.finfo(np.float32).max)


def gaps(codec: Codec) -> list[Feature]:
    """The columns that may have missing cells, in the table's order."""
    return [feature for feature in codec.features.columns if feature.nullable]


def struct(codec: Codec) -> pa.StructType:
    """Type of what `impute` returns."""
    return pa.struct([pa.field(feature.name, _cell(feature)) for feature in gaps(codec)])


def impute(codec: Codec, witness: Witness, table: pa.Table, rows: Rows, *, draws: int) -> pa.StructArray:
    """One struct per row, by the mean over so many posterior draws."""
    missing = _missing(codec, table)
    struck = np.flatnonzero(missing.any(1))
    some, missing = rows.take(struck), missing[struck]
    found = [
        witness.imputed(batch.values, batch.observed, batch.posterior, batch.noise(range(draws)))
        for batch in some.batches(codec.device)
    ]
    names = ("value", "sd", "probability")
    value, sd, chance = (
        np.concatenate([getattr(it, name).cpu().numpy() for it in found])[: len(some)] for name in names
    )
    known = np.concatenate([witness.units(it.values).cpu().numpy() for it in some.batches(codec.device)])[: len(some)]
    value, sure = np.where(missing, value, known), np.where(np.isnan(chance), sd, chance)
    cells = {
        feature.name: _column(feature, value[:, place], sure[:, place], missing[:, place])
        for feature, place in zip(codec.features.layout, _places(codec), strict=True)
        if feature.nullable
    }
    kind = struct(codec)
    whole = pa.StructArray.from_arrays([cells[field.name] for field in kind], fields=list(kind))
    index = np.full(len(rows), -1)
    index[struck] = np.arange(len(struck))
    return whole.take(pa.array(index, mask=index < 0))


def _places(codec: Codec) -> list[slice]:
    """The features of each column, in the model's order."""
    edges = np.cumsum([0, *(feature.width for feature in codec.features.layout)]).tolist()
    return [slice(start, end) for start, end in pairwise(edges)]


def _missing(codec: Codec, table: pa.Table) -> Observed:
    """Which cells of the table are null, by feature; a category that the model does not know is not."""
    found = np.zeros((len(table), codec.features.width), np.bool_)
    for feature, place in zip(codec.features.layout, _places(codec), strict=True):
        if feature.nullable:
            cells = elements(table.column(feature.name).combine_chunks(), feature.width)
            found[:, place] = pc.is_null(cells).to_numpy(zero_copy_only=False).reshape(-1, feature.width)
    return found


def _certain(feature: Feature) -> str:
    return "probability" if feature.likelihood in CATEGORIES and feature.binarise != "dynamic" else "sd"


def _cell(feature: Feature) -> pa.StructType:
    kinds = ("value", feature.scalar), (_certain(feature), pa.float32())
    return pa.struct([pa.field(name, pa.list_(kind) if feature.vector else kind) for name, kind in kinds])


def _column(feature: Feature, value: Doubles, sure: Doubles, missing: Observed) -> pa.StructArray:
    """The cells of one column; `value` holds codes, or numbers in original units."""
    if feature.coded:
        cells = elements(feature.restore(value.astype(np.float32)), feature.width)
    else:
        levels = feature.levels - 1 if feature.likelihood == "bernoulli" else 1
        cells = to_cells(value.ravel() * levels, feature.scalar)
        sure = sure * levels if _certain(feature) == "sd" else sure
    sure = np.where(missing, sure, float(_certain(feature) == "probability"))
    children = [cells, floats(sure.ravel())]
    if feature.vector:
        ends = pa.array(np.arange(len(value) + 1, dtype=np.int32) * feature.width)
        children = [pa.ListArray.from_arrays(ends, it) for it in children]
    there = pa.array(~missing.any(1))
    return pa.StructArray.from_arrays(children, fields=list(_cell(feature)), mask=there)


def floats(numbers: Doubles) -> pa.Array:
    """As float32, held within its range; null where there is no number, or none that is finite."""
    bounded = np.clip(np.nan_to_num(numbers), -LARGEST, LARGEST).astype(np.float32)
    return pa.array(bounded, mask=~np.isfinite(numbers))
