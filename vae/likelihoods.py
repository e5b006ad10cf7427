"""p(x | z), column by column: one class per distribution, and `Columns`, their product.

Shapes: batch = rows, feature = numbers of a row, column = columns of the table, output = decoder outputs,
input = encoder inputs. Every log-probability is in nats, per row and feature, in the data's original units.

A new distribution is one class here and one line in `LIKELIHOODS` (plus its name in `config.LikelihoodName`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from vae.config import Column, LikelihoodName


class Likelihood(nn.Module, ABC):
    """The distribution of a run of neighbouring columns of one kind; their features are independent given z."""

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.features = sum(column.width for column in columns)
        self.outputs = self.features
        self.inputs = self.features

    @abstractmethod
    def embed(self, values: Float[Tensor, "batch feature"], observed: Bool[Tensor, "batch feature"]) -> Tensor:
        """What the encoder is shown: `[batch, input]`, zero where a cell is missing."""

    @abstractmethod
    def bias(self) -> Float[Tensor, " output"]:
        """Decoder outputs under which this distribution is the data's marginal."""

    @abstractmethod
    def log_prob(
        self, outputs: Float[Tensor, "batch output"], values: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch feature"]:
        """log p(value | outputs), nats per original unit."""

    @abstractmethod
    def mean(self, outputs: Float[Tensor, "batch output"]) -> Float[Tensor, "batch feature"]:
        """Best guess as a value: the mean; for categories, which have none, the most probable known code."""

    @abstractmethod
    def sample(
        self, outputs: Float[Tensor, "batch output"], generator: Generator | None = None
    ) -> Float[Tensor, "batch feature"]:
        """One draw per feature."""


class Gaussian(Likelihood):
    r"""Normal with a learned scale: log p(x) = -((x - m) / s)^2 / 2 - log s - log(2 pi) / 2 - log(unit).

    The scale s is one parameter per column (shared by the pixels of an image) and never below the column's floor
    (Rybkin et al. 2021, sigma-VAE). With s fixed at 1, -log p(x) is half the squared error plus a constant.

    >>> height = Gaussian([Column(name="height", likelihood="gaussian", scale=10.0)])
    >>> height.embed(torch.tensor([[0.5]]), torch.tensor([[False]]))
    tensor([[0.]])
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        widths = torch.tensor([column.width for column in columns])
        self.log_scale = nn.Parameter(torch.zeros(len(columns)))
        self.register_buffer("owner", torch.repeat_interleave(widths), persistent=False)
        self.register_buffer("floor", torch.tensor([column.floor for column in columns]), persistent=False)
        self.register_buffer("log_unit", torch.tensor([math.log(column.scale) for column in columns]), persistent=False)
        self.owner: Tensor
        self.floor: Tensor
        self.log_unit: Tensor

    def scale(self) -> Float[Tensor, " feature"]:
        """Standard deviation of each feature, in standardised units."""
        return (self.floor + self.log_scale.exp())[self.owner]

    def embed(self, values: Tensor, observed: Tensor) -> Tensor:
        return torch.where(observed, values, 0.0)

    def bias(self) -> Tensor:
        return torch.zeros(self.outputs)

    def log_prob(self, outputs: Tensor, values: Tensor) -> Tensor:
        scale = self.scale()
        constant = scale.log() + self.log_unit[self.owner] + 0.5 * math.log(2 * math.pi)
        return -0.5 * ((values - outputs) / scale) ** 2 - constant

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        noise = torch.randn(outputs.shape, generator=generator, device=outputs.device, dtype=outputs.dtype)
        return outputs + self.scale() * noise


class Bernoulli(Likelihood):
    """Two values, 0 and 1: log p(x) = x log r + (1 - x) log(1 - r), with r the logistic of the output."""

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        rates = [torch.tensor((column.rates or (0.5,))[0]).expand(column.width) for column in columns]
        self.register_buffer("rates", torch.cat(rates), persistent=False)
        self.rates: Tensor

    def embed(self, values: Tensor, observed: Tensor) -> Tensor:
        return torch.where(observed, 2 * values - 1, 0.0)

    def bias(self) -> Tensor:
        return torch.logit(self.rates, eps=1e-3)

    def log_prob(self, outputs: Tensor, values: Tensor) -> Tensor:
        return -functional.binary_cross_entropy_with_logits(outputs, values, reduction="none")

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.bernoulli(outputs.sigmoid(), generator=generator)


class Categorical(Likelihood):
    """Codes 0..K-1 by softmax; code 0 is reserved for categories never seen in training.

    Columns with different numbers of codes lie side by side in one tensor; `owner` says whose each output is.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        codes = torch.tensor([column.codes for column in columns for _ in range(column.width)])
        self.outputs = self.inputs = int(codes.sum())
        rates = [torch.tensor(column.rates or _uniform(column.codes)).repeat(column.width) for column in columns]
        starts = codes.cumsum(0) - codes
        self.register_buffer("rates", torch.cat(rates), persistent=False)
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("owner", torch.repeat_interleave(codes), persistent=False)
        unknown = torch.zeros(self.outputs).index_fill(0, starts, -math.inf)
        self.register_buffer("unknown", unknown, persistent=False)
        self.rates: Tensor
        self.starts: Tensor
        self.owner: Tensor
        self.unknown: Tensor

    def embed(self, values: Tensor, observed: Tensor) -> Tensor:
        hot = torch.zeros(len(values), self.inputs, dtype=values.dtype, device=values.device)
        return hot.scatter(1, values.long() + self.starts, observed.to(values.dtype))

    def bias(self) -> Tensor:
        return self.rates.clamp_min(1e-4).log()

    def log_prob(self, outputs: Tensor, values: Tensor) -> Tensor:
        return outputs.gather(1, values.long() + self.starts) - self._logsumexp(outputs)

    def mean(self, outputs: Tensor) -> Tensor:
        return self._argmax(outputs + self.unknown)

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        uniform = torch.rand(outputs.shape, generator=generator, device=outputs.device, dtype=outputs.dtype)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return self._argmax(outputs + self.unknown + gumbel)

    def _highest(self, outputs: Tensor) -> Float[Tensor, "batch feature"]:
        index = self.owner.expand(len(outputs), -1)
        lowest = torch.full((len(outputs), self.features), -math.inf, dtype=outputs.dtype, device=outputs.device)
        return lowest.scatter_reduce(1, index, outputs, "amax")

    def _logsumexp(self, outputs: Tensor) -> Float[Tensor, "batch feature"]:
        highest = self._highest(outputs.detach())
        terms = (outputs - highest[:, self.owner]).exp()
        return highest + torch.zeros_like(highest).index_add(1, self.owner, terms).log()

    def _argmax(self, outputs: Tensor) -> Float[Tensor, "batch feature"]:
        position = torch.arange(self.outputs, device=outputs.device)
        best = torch.where(outputs == self._highest(outputs)[:, self.owner], position, -1)
        index = self.owner.expand(len(outputs), -1)
        first = torch.full((len(outputs), self.features), -1, device=outputs.device)
        return (first.scatter_reduce(1, index, best, "amax") - self.starts).to(outputs.dtype)


def _uniform(codes: int) -> tuple[float, ...]:
    return (1 / codes,) * codes


LIKELIHOODS: Final[dict[LikelihoodName, type[Likelihood]]] = {
    "gaussian": Gaussian,
    "bernoulli": Bernoulli,
    "categorical": Categorical,
}


class Columns(nn.Module):
    """The product of the likelihoods of all columns: log p(x | z) = sum over observed features of log p(x_f | z).

    Neighbouring columns of one kind are handled as one block, so a table sorted by likelihood costs a few tensor
    operations however many columns it has.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        runs = [(kind, list(run)) for kind, run in groupby(columns, key=lambda column: column.likelihood)]
        self.blocks = nn.ModuleList(LIKELIHOODS[kind](run) for kind, run in runs)
        self.features = [_likelihood(block).features for block in self.blocks]
        self.outputs = [_likelihood(block).outputs for block in self.blocks]
        widths = torch.tensor([column.width for column in columns])
        nullable = torch.tensor([column.nullable for column in columns])
        self.register_buffer("owner", torch.repeat_interleave(widths), persistent=False)
        self.register_buffer("told", nullable[torch.repeat_interleave(widths)].nonzero().flatten(), persistent=False)
        self.owner: Tensor
        self.told: Tensor
        self.inputs = sum(_likelihood(block).inputs for block in self.blocks) + len(self.told)

    def embed(
        self, values: Float[Tensor, "batch feature"], observed: Bool[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch input"]:
        """The encoder's input: every block's embedding, then which of the nullable features are there."""
        values = torch.where(observed, values, 0.0)
        split = zip(self.blocks, values.split(self.features, 1), observed.split(self.features, 1), strict=True)
        blocks = [_likelihood(block).embed(value, seen) for block, value, seen in split]
        return torch.cat([*blocks, observed[:, self.told].to(values.dtype)], dim=1)

    def bias(self) -> Float[Tensor, " output"]:
        """Decoder outputs under which every column has its marginal distribution."""
        return torch.cat([_likelihood(block).bias() for block in self.blocks])

    def log_prob(
        self,
        outputs: Float[Tensor, "batch output"],
        values: Float[Tensor, "batch feature"],
        observed: Bool[Tensor, "batch feature"],
    ) -> Float[Tensor, "batch feature"]:
        """log p(x_f | z), nats in original units; exactly zero, with zero gradient, where a cell is missing."""
        values = torch.where(observed, values, 0.0)
        split = zip(self.blocks, outputs.split(self.outputs, 1), values.split(self.features, 1), strict=True)
        blocks = [_likelihood(block).log_prob(output, value) for block, output, value in split]
        return torch.where(observed, torch.cat(blocks, dim=1), 0.0)

    def mean(self, outputs: Float[Tensor, "batch output"]) -> Float[Tensor, "batch feature"]:
        """Best guess of every feature, as a value."""
        return self._each(outputs, lambda block, output: block.mean(output))

    def sample(
        self, outputs: Float[Tensor, "batch output"], generator: Generator | None = None
    ) -> Float[Tensor, "batch feature"]:
        """One draw of every feature, as a value."""
        return self._each(outputs, lambda block, output: block.sample(output, generator))

    def per_column(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch column"]:
        """Sum the features of each column."""
        columns = int(self.owner[-1]) + 1
        return features.new_zeros(len(features), columns).index_add(1, self.owner, features)

    def _each(self, outputs: Tensor, of: Callable[[Likelihood, Tensor], Tensor]) -> Tensor:
        split = zip(self.blocks, outputs.split(self.outputs, 1), strict=True)
        return torch.cat([of(_likelihood(block), output) for block, output in split], dim=1)


def _likelihood(module: nn.Module) -> Likelihood:
    assert isinstance(module, Likelihood)
    return module
