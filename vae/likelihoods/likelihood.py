"""What a distribution p(x | z) must be able to do, and the register of those that can.

Shapes: batch = rows, feature = numbers of a row, output = decoder outputs, input = encoder inputs. Values are model
values (see `vae.config.Column`); log-probabilities are in nats, per row and feature, in the data's original units.

A new distribution is one class, `class Logistic(Likelihood, name="logistic")`, and its name in `vae.config`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Final

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from vae.config import Column

LIKELIHOODS: Final[dict[str, type[Likelihood]]] = {}
"""Every distribution by its name."""
ENCODED: Final = 1e6
"""Largest number the encoder is shown; beyond, float32 arithmetic on it would soon be infinite."""
LARGEST: Final = 1e18
"""Decoder outputs and reals beyond count as this large, so that what is computed from them is finite in float32."""
RESIDUAL: Final = 1e15
"""Largest standardised residual; beyond, log-densities saturate at about -5e29 instead of overflowing."""
Observed = Bool[Tensor, "batch feature"] | None
"""Which cells are there; None: all of them, which saves the work of a mask."""


def present(numbers: Tensor, observed: Tensor | None) -> Tensor:
    """The numbers, zero where a cell is missing, whatever lies there."""
    return numbers if observed is None else torch.where(observed, numbers, 0.0)


def bounded(numbers: Tensor, low: float, high: float) -> Tensor:
    """`clamp` with a gradient of one operation instead of four; it is zero at the very bounds, too."""
    return functional.hardtanh(numbers, low, high)


class Likelihood(nn.Module, ABC):
    """The distribution of a run of neighbouring columns of one kind.

    Their features are independent given z, except in a joint mixture.
    """

    saturates: ClassVar[bool] = False
    """Whether `log_prob` is finite however large outputs and values are; else they are bounded before."""

    def __init_subclass__(cls, *, name: str | None = None) -> None:
        super().__init_subclass__()
        if name is not None:
            LIKELIHOODS[name] = cls

    def __init__(self, columns: Sequence[Column], *, outputs_per_feature: int = 1) -> None:
        super().__init__()
        self.widths = [column.width for column in columns]
        self.features = self.inputs = sum(self.widths)
        self.outputs = self.features * outputs_per_feature
        means = [torch.tensor(column.means or (self.guess(column),)).expand(column.width) for column in columns]
        self.means = self.constant("means", torch.cat(means))
        self.low = self.constant("low", self.spread(column.low for column in columns))
        self.high = self.constant("high", self.spread(column.high for column in columns))

    def guess(self, column: Column) -> float:
        """What a feature's mean is taken to be where `Column.means` does not say."""
        return 0.0

    def constant(self, name: str, tensor: Tensor) -> Tensor:
        """Register a tensor that follows the model to its device, but is not saved: the settings determine it."""
        self.register_buffer(name, tensor, persistent=False)
        return tensor

    def spread(self, settings: Iterable[float]) -> Float[Tensor, " feature"]:
        """One setting per column as one number per feature."""
        return torch.tensor(list(settings)).repeat_interleave(torch.tensor(self.widths))

    def embed(self, values: Float[Tensor, "batch feature"], observed: Observed) -> Tensor:
        """What the encoder is shown: `[batch, input]`, about one in size, zero where a cell is missing."""
        return present(values.clamp(-ENCODED, ENCODED), observed)

    @abstractmethod
    def bias(self) -> Float[Tensor, " output"]:
        """Decoder outputs under which this distribution is about the data's marginal."""

    @abstractmethod
    def log_prob(
        self,
        outputs: Float[Tensor, "batch output"],
        values: Float[Tensor, "batch feature"],
        observed: Observed,
    ) -> Float[Tensor, "batch feature"]:
        """log p(value | outputs), nats per original unit. Where a cell is missing: any finite number."""

    @abstractmethod
    def mean(self, outputs: Float[Tensor, "batch output"]) -> Float[Tensor, "batch feature"]:
        """The mean, as a value; for categories, which have none, the most probable known code."""

    @abstractmethod
    def deviation(self, outputs: Float[Tensor, "batch output"]) -> Float[Tensor, "batch feature"]:
        """The standard deviation in the data's original units; infinite where there is none; a categorical's is NaN."""

    def moments(
        self,
        outputs: Float[Tensor, "batch output"],
        values: Float[Tensor, "batch feature"],
        observed: Bool[Tensor, "batch feature"],
    ) -> tuple[Float[Tensor, "batch feature"], Float[Tensor, "batch feature"]]:
        """Mean, as a value, and deviation of what is missing, given the observed where features are not independent."""
        return self.mean(outputs), self.deviation(outputs)

    @abstractmethod
    def mode(self, outputs: Float[Tensor, "batch output"]) -> Float[Tensor, "batch feature"]:
        """The most probable value."""

    @abstractmethod
    def sample(
        self, outputs: Float[Tensor, "batch output"], generator: Generator | None = None
    ) -> Float[Tensor, "batch feature"]:
        """One draw per feature."""

    def complete(
        self,
        outputs: Float[Tensor, "batch output"],
        values: Float[Tensor, "batch feature"],
        observed: Bool[Tensor, "batch feature"],
        generator: Generator | None = None,
    ) -> Float[Tensor, "batch feature"]:
        """The values with a draw in each missing cell, given those observed where features are not independent."""
        return torch.where(observed, values, self.sample(outputs, generator))

    @abstractmethod
    def quantile(self, outputs: Float[Tensor, "batch output"], level: float) -> Float[Tensor, "batch feature"]:
        """The smallest value x with P(X <= x) >= level, 0 < level < 1, of each feature by itself."""

    def units(self, values: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
        """Values in the data's original units."""
        return values

    def jitter(
        self, values: Float[Tensor, "batch feature"], noise: Float[Tensor, "batch feature"]
    ) -> Float[Tensor, "batch feature"]:
        """Values with `noise`, in standardised units, added; unchanged where only whole numbers are values."""
        return values

    def extreme(self, uniform: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
        """Salt or pepper: the smallest or the largest value, by a number uniform on [0, 1)."""
        return torch.where(uniform < 0.5, self.low, self.high)


def smallest(
    cdf: Callable[[Tensor], Tensor], level: float, *, start: Float[Tensor, "batch feature"]
) -> Float[Tensor, "batch feature"]:
    """The smallest whole number k >= 0 with cdf(k) >= level, by bisection; `start` is a guess of its size."""
    low, high = torch.full_like(start, -1.0), start.floor().clamp_min(1.0)
    while (short := cdf(high) < level).any() and high.max() < 1e15:
        low, high = torch.where(short, high, low), torch.where(short, 2 * high, high)
    while (high - low > 1).any():
        middle = low + ((high - low) / 2).ceil()
        enough = cdf(middle) >= level
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high
