"""What all models of a comparison share: the same test rows, and the same ways to measure on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipeline import probes
from pipeline.codec import Codes
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.features import Feature, Features
from pipeline.training import shards
from pipeline.training.job import CPU, Job
from pipeline.training.rows import Rows, binarised, count, read, resident, size_mb
from vae.config import CATEGORIES, Column

Encode = Callable[[pa.Table], Codes]
Sample = Callable[..., pa.StructArray]
PROBED: Final = 5_000
"""Rows of each split that the probes see, at most."""


@dataclass(frozen=True)
class Arena:
    """Rows of the training and the test split, as tensors and, some of them, as tables."""

    config: RunConfig
    features: Features
    columns: tuple[Column, ...]
    train: Rows
    test: Rows
    tables: dict[int, pa.Table]

    @classmethod
    def of(cls, config: RunConfig, job: Job) -> Self:
        """Read the dataset by the preprocessing that every training will fit."""
        features = Features.load(job.path)
        columns, needed = features.model_columns(), size_mb(count(job.parts), features.width)
        if needed > config.train.memory_mb:
            raise ConfigError(
                f"compare holds all rows, {needed:,} MB, in memory; train.memory_mb allows {config.train.memory_mb:,}",
                cure=f"--set train.memory_mb={needed}, or fewer features",
            )
        splits = resident(job, CPU)
        train, test = (binarised(columns, splits[it], seed=config.train.seed) for it in (shards.TRAIN, shards.TEST))
        return cls(config, features, columns, train, test, _tables(job))

    def error(self, guess: torch.Tensor) -> float | None:
        """Reconstruction error of the test rows from model values, over columns, relative to a constant guess."""
        found, start = [], 0
        for feature, column in zip(self.features.layout, self.columns, strict=True):
            span = slice(start, start + column.width)
            start += column.width
            seen = self.test.observed[:, span]
            if seen.any() and feature.spread > 0:
                found.append(_error(feature, guess[:, span], self.test.values[:, span], seen) / feature.spread)
        return float(np.mean(found)) if found else None

    def probe(self, encode: Encode) -> tuple[float, float] | tuple[None, None]:
        """Linear and nearest-neighbour score of the label from the codes; none where there is nothing to tell."""
        train, test = (self._labelled(split) for split in (shards.TRAIN, shards.TEST))
        if train is None or test is None or not len(test[1]) or len(np.unique(train[1])) < 2:
            return None, None
        pairs = [(encode(table).mu, labels) for table, labels in (train, test)]
        if not pairs[0][0].shape[1]:
            return None, None
        return probes.probe(*pairs, neighbours=self.config.compare.neighbours)

    def two_sample(self, sample: Sample) -> float | None:
        """Real test rows against as many sampled ones, their cells missing where the real ones' are."""
        values, observed = (part[:PROBED].numpy() for part in (self.test.values, self.test.observed))
        table = pa.Table.from_struct_array(sample(len(values), seed=self.config.train.seed))
        real, fake = (np.where(observed, it, np.nan) for it in (values, self.features.transform(table)[0]))
        coded = [column.likelihood in CATEGORIES for column in self.columns for _ in range(column.width)]
        return probes.two_sample(real, fake, categorical=coded, seed=self.config.train.seed)

    def caption(self) -> str:
        """What a reader must know of the figures."""
        shown = f"{len(self.test):,} test rows; seconds of gradient steps or fitting alone"
        labelled = self._labelled(shards.TEST)
        if labelled is None or not len(labelled[1]):
            return shown
        if probes.regressed(labelled[1]):
            return f"{shown}; linear and kNN: R^2 of {self.config.compare.label}"
        commonest = np.unique(labelled[1], return_counts=True)[1].max() / len(labelled[1])
        return (
            f"{shown}; linear and kNN: accuracy for {self.config.compare.label}, {commonest:.3f} by its commonest value"
        )

    def _labelled(self, split: int) -> tuple[pa.Table, npt.NDArray[np.generic]] | None:
        """The rows that have a label, and their labels."""
        if not (label := self.config.compare.label):
            return None
        table = self.tables[split].filter(pc.is_valid(self.tables[split].column(label)))
        cells = table.column(label).to_numpy(zero_copy_only=False)
        return table, cells.astype(float) if cells.dtype.kind in "iuf" else cells.astype(str)


def _tables(job: Job) -> dict[int, pa.Table]:
    """The first PROBED rows of the training and the test split."""
    kept: dict[int, list[pa.RecordBatch]] = {shards.TRAIN: [], shards.TEST: []}
    for batch, split in read(job):
        for kind, found in kept.items():
            room = PROBED - sum(map(len, found))
            found.append(batch.filter(pa.array(split == kind)).slice(0, room))
        if all(sum(map(len, found)) >= PROBED for found in kept.values()):
            break
    return {kind: pa.Table.from_batches(found) for kind, found in kept.items()}


def _error(feature: Feature, guess: torch.Tensor, true: torch.Tensor, seen: torch.Tensor) -> float:
    """RMSE in the column's units, or the share of wrong codes."""
    if feature.likelihood in CATEGORIES:
        return float((guess.round() != true)[seen].double().mean())
    apart = (feature.units(it.double().numpy()) for it in (guess[seen], true[seen]))
    return float(np.sqrt(np.mean(np.subtract(*apart) ** 2)))
