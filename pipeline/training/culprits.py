"""Who is to blame when a step is not finite: the columns, and the ids of the rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import torch

from pipeline.training import rows, shards
from pipeline.training.feed import Batch
from pipeline.training.job import Job
from vae.model import VAE
from vae.noise import Noise, binarise

TOLD: Final = 10
"""Ids, and columns, that a message names."""


@dataclass(frozen=True)
class Culprits:
    """Columns by number and rows by their number in the training split; all of a batch's rows if none stands out."""

    columns: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()
    apart: bool = False
    """Whether the rows stand out from their batch."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: VAE, batch: Batch, noise: Noise) -> Self:
        """Those of this rank's rows of a batch: by their values, or else by the log-likelihood of each column."""
        values = binarise(model.columns, batch.values, noise.binary) if noise.binary.shape[1] else batch.values
        bad = model.columns.per_column((batch.observed & ~values.isfinite()).to(values.dtype)) > 0
        if not bad.any():
            z = model.draw(model.encode(values, batch.observed), noise.posterior)
            bad = ~model.columns.per_column(model.log_likelihood(values, batch.observed, z).mean(1)).isfinite()
        struck = bad.any(1).cpu().numpy()
        numbers = batch.numbers[struck] if struck.any() else batch.numbers
        return cls(tuple(bad.any(0).nonzero()[:, 0].tolist()), tuple(sorted(map(int, numbers))), bool(struck.any()))

    @classmethod
    def from_plain(cls, plain: str) -> Self:
        """Back from JSON."""
        columns, numbers, apart = json.loads(plain)
        return cls(tuple(columns), tuple(numbers), apart)

    def to_plain(self) -> str:
        """As JSON."""
        return json.dumps([self.columns, self.numbers[:TOLD], self.apart])

    @classmethod
    def joined(cls, found: Sequence[Self]) -> Self:
        """Those of all ranks: the first rows of those that stand out, or of the batch."""
        apart = any(it.apart for it in found)
        numbers = sorted(number for it in found if it.apart == apart for number in it.numbers)
        return cls(tuple(sorted({it for one in found for it in one.columns})), tuple(numbers[:TOLD]), apart)


def ids(job: Job, numbers: Sequence[int]) -> tuple[str, ...]:
    """Of training rows, by their numbers, which are in order; read again from the table, unless they are secret."""
    if job.secret_ids:
        return ("***",) * len(numbers)
    found: list[str] = []
    wanted, before = np.asarray(numbers, dtype=np.int64), 0
    for batch, split in rows.read(job):
        there = np.flatnonzero(split == shards.TRAIN)
        here = wanted[(wanted >= before) & (wanted < before + len(there))] - before
        column = batch.column(job.id_column)
        found += [str(column[int(row)].as_py()) for row in there[here]]
        before += len(there)
        if len(found) == len(wanted):
            break
    return tuple(found)
