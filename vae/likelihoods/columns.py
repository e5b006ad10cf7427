"""The product of all columns' distributions: from decoder outputs to log p(x | z), means, draws and quantiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from vae.config import REALS, Column
from vae.likelihoods.likelihood import LARGEST, LIKELIHOODS, Likelihood, Observed, bounded, present


class Columns(nn.Module):
    """log p(x | z) = sum over observed features of log p(x_f | z).

    Neighbouring columns of one kind are handled as one block, so a table sorted by likelihood costs a few tensor
    operations however many columns it has. Images and groups with a joint mixture are blocks of their own.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        runs = [(column.likelihood, list(run)) for column, run in _runs(columns)]
        self.blocks = nn.ModuleList(LIKELIHOODS[kind](run) for kind, run in runs)
        self.shapes = [run[0].shape for _, run in runs]
        self.features = [block.features for block in self._all()]
        self.outputs = [block.outputs for block in self._all()]
        self.inputs = [block.inputs for block in self._all()]
        self.saturates = all(block.saturates for block in self._all())
        widths = torch.tensor([column.width for column in columns])
        nullable = torch.tensor([column.nullable for column in columns])
        real = torch.tensor([column.likelihood in REALS for column in columns])
        self.owner = self._constant("owner", torch.repeat_interleave(widths))
        self.scalar = len(self.owner) == len(columns)
        self.real = self._constant("real", real[self.owner])
        self.dynamic = self._constant("dynamic", torch.tensor([it.dynamic for it in columns])[self.owner])
        self.drawn = any(column.dynamic for column in columns)
        self.told = self._constant("told", nullable[self.owner].nonzero().flatten())
        self.width = sum(self.inputs) + len(self.told)

    def embed(self, values: Float[Tensor, "batch feature"], observed: Observed) -> Float[Tensor, "batch input"]:
        """The encoder's input: every block's embedding, then which of the nullable features are there."""
        values = present(values, observed)
        split = zip(self._all(), values.split(self.features, 1), self._seen(observed), strict=True)
        parts = [block.embed(value, seen) for block, value, seen in split]
        if len(self.told):
            told = values.new_ones(len(values), len(self.told)) if observed is None else observed[:, self.told]
            parts.append(told.to(values.dtype))
        return _joined(parts)

    def bias(self) -> Float[Tensor, " output"]:
        """Decoder outputs under which every column has about its marginal distribution."""
        return torch.cat([block.bias() for block in self._all()])

    def log_prob(
        self,
        outputs: Float[Tensor, "batch output"],
        values: Float[Tensor, "batch feature"],
        observed: Observed,
    ) -> Float[Tensor, "batch feature"]:
        """log p(x_f | z), nats in original units; exactly zero, with zero gradient, where a cell is missing.

        In a joint mixture it is that of the feature given those before it.
        """
        values = present(values, observed)
        if not self.saturates:
            outputs, values = bounded(outputs, -LARGEST, LARGEST), values.clamp(-LARGEST, LARGEST)
        parts = (outputs.split(self.outputs, 1), values.split(self.features, 1), self._seen(observed))
        blocks = [block.log_prob(*part) for block, *part in zip(self._all(), *parts, strict=True)]
        return present(_joined(blocks), observed)

    def mean(self, outputs: Float[Tensor, "batch output"]) -> Float[Tensor, "batch feature"]:
        """The mean of every feature, as a value; of a categorical, the most probable known code."""
        return self._each(lambda block, output: block.mean(output), self._split(outputs))

    def moments(
        self,
        outputs: Float[Tensor, "batch output"],
        values: Float[Tensor, "batch feature"],
        observed: Bool[Tensor, "batch feature"],
    ) -> tuple[Float[Tensor, "batch feature"], Float[Tensor, "batch feature"]]:
        """Mean, as a value, and standard deviation, in original units, of p(x_f | z, x_o) for each missing feature."""
        cells = (present(values, observed).split(self.features, 1), observed.split(self.features, 1))
        blocks = zip(self._all(), self._split(outputs), *cells, strict=True)
        mean, deviation = zip(*(block.moments(*part) for block, *part in blocks), strict=True)
        return _joined(mean), _joined(deviation)

    def mode(self, outputs: Float[Tensor, "batch output"]) -> Float[Tensor, "batch feature"]:
        """The most probable value of every feature."""
        return self._each(lambda block, output: block.mode(output), self._split(outputs))

    def quantile(self, outputs: Float[Tensor, "batch output"], level: float) -> Float[Tensor, "batch feature"]:
        """The smallest value of every feature with probability `level` of being no larger. 0 < level < 1."""
        if not 0 < level < 1:
            raise ValueError(f"level = {level:g}: a quantile's level lies between 0 and 1")
        return self._each(lambda block, output: block.quantile(output, level), self._split(outputs))

    def sample(
        self, outputs: Float[Tensor, "batch output"], generator: Generator | None = None
    ) -> Float[Tensor, "batch feature"]:
        """One draw of every feature, as a value."""
        return self._each(lambda block, output: block.sample(output, generator), self._split(outputs))

    def complete(
        self,
        outputs: Float[Tensor, "batch output"],
        values: Float[Tensor, "batch feature"],
        observed: Bool[Tensor, "batch feature"],
        generator: Generator | None = None,
    ) -> Float[Tensor, "batch feature"]:
        """The values with a draw of p(x_f | z, x_o) in each missing cell."""
        parts = (outputs.split(self.outputs, 1), values.split(self.features, 1), observed.split(self.features, 1))
        blocks = zip(self._all(), *parts, strict=True)
        return torch.cat(
            [block.complete(output, value, seen, generator) for block, output, value, seen in blocks], dim=1
        )

    def units(self, values: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
        """Values in the data's original units; codes, counts and levels are what they are."""
        return self._each(lambda block, value: block.units(value), values.split(self.features, 1))

    def jitter(
        self, values: Float[Tensor, "batch feature"], noise: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch feature"]:
        """Values with `noise`, standardised units, added to the reals."""
        blocks = zip(self._all(), values.split(self.features, 1), noise.split(self.features, 1), strict=True)
        return torch.cat([block.jitter(value, part) for block, value, part in blocks], dim=1)

    def extreme(self, uniform: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
        """The smallest or largest value of every feature; of a categorical, any known code."""
        return self._each(lambda block, part: block.extreme(part), uniform.split(self.features, 1))

    def per_column(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch column"]:
        """Sum the features of each column."""
        if self.scalar:
            return features
        columns = int(self.owner[-1]) + 1
        return features.new_zeros(len(features), columns).index_add(1, self.owner, features)

    def images(self) -> list[tuple[tuple[int, ...], slice, slice]]:
        """Shape, encoder inputs and decoder outputs of each image column."""
        spans = zip(self.shapes, _spans(self.inputs), _spans(self.outputs), strict=True)
        return [(shape, inputs, outputs) for shape, inputs, outputs in spans if shape]

    def _split(self, outputs: Tensor) -> Sequence[Tensor]:
        """The outputs of each block, none too large to compute with."""
        return torch.split(bounded(outputs, -LARGEST, LARGEST), self.outputs, 1)

    def _each(self, of: Callable[[Likelihood, Tensor], Tensor], parts: Sequence[Tensor]) -> Tensor:
        return _joined([of(block, part) for block, part in zip(self._all(), parts, strict=True)])

    def _seen(self, observed: Tensor | None) -> Sequence[Tensor | None]:
        """Which cells of each block are there."""
        return [None] * len(self.blocks) if observed is None else observed.split(self.features, 1)

    def _all(self) -> list[Likelihood]:
        return [block for block in self.blocks if isinstance(block, Likelihood)]

    def _constant(self, name: str, tensor: Tensor) -> Tensor:
        self.register_buffer(name, tensor, persistent=False)
        return tensor


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Side by side; a part alone is not copied."""
    return torch.cat(list(parts), dim=1) if len(parts) > 1 else parts[0]


def _runs(columns: Sequence[Column]) -> list[tuple[Column, list[Column]]]:
    """Neighbours that one block can hold."""

    def kind(column: Column) -> tuple[Any, ...]:
        return column.likelihood, column.group, column.components, column.shape and column.name, column.embedding > 0

    runs = [list(run) for _, run in groupby(columns, key=kind)]
    return [(run[0], run) for run in runs]


def _spans(sizes: Sequence[int]) -> list[slice]:
    edges = [sum(sizes[:index]) for index in range(len(sizes) + 1)]
    return [slice(*edge) for edge in pairwise(edges)]
