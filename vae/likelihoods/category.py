"""Distributions over codes: Bernoulli for two, categorical for many, ordinal for ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from vae.config import Column
from vae.likelihoods.likelihood import Likelihood, present

RATE_FLOOR = 1e-3
"""A marginal probability counts as no less where the output bias starts (Burda et al. 2016 clip alike)."""
CLOSEST = 1e-4
"""Least distance of an ordinal's cutpoints."""


class Bernoulli(Likelihood, name="bernoulli"):
    """Two values, 0 and 1: log p(x) = x log r + (1 - x) log(1 - r), with r the logistic of the output."""

    def guess(self, column: Column) -> float:
        return 0.5

    def embed(self, values: Tensor, observed: Tensor | None) -> Tensor:
        return present(2 * values - 1, observed)

    def bias(self) -> Tensor:
        return torch.logit(self.means, eps=RATE_FLOOR)

    def log_prob(self, outputs: Tensor, values: Tensor, observed: Tensor | None) -> Tensor:
        return -functional.binary_cross_entropy_with_logits(outputs, values, reduction="none")

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def deviation(self, outputs: Tensor) -> Tensor:
        return (outputs.sigmoid() * (-outputs).sigmoid()).sqrt()

    def mode(self, outputs: Tensor) -> Tensor:
        return (outputs > 0).to(outputs.dtype)

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.bernoulli(outputs.sigmoid(), generator=generator)

    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        return ((-outputs).sigmoid() < level).to(outputs.dtype)

    def extreme(self, uniform: Tensor) -> Tensor:
        return (uniform >= 0.5).to(uniform.dtype)


class Categorical(Likelihood, name="categorical"):
    """Codes 0..K-1 by softmax; code 0 is reserved for categories never seen in training.

    Columns with different numbers of codes lie side by side in one tensor; `owner` says whose each output is. The
    encoder is shown them one-hot or, of columns with an `embedding`, as a vector per code (Guo and Berkhahn 2016).
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        self.codes = self.constant("codes", torch.tensor([it.codes for it in columns for _ in range(it.width)]))
        self.outputs = self.inputs = int(self.codes.sum())
        self.vectors = nn.ModuleList(_vectors(column) for column in columns if column.embedding)
        if self.vectors:
            self.inputs = sum(column.embedding * column.width for column in columns)
        rates = [torch.tensor(_rates(column)).repeat(column.width) for column in columns]
        self.rates = self.constant("rates", torch.cat(rates))
        self.starts = self.constant("starts", self.codes.cumsum(0) - self.codes)
        self.owner = self.constant("owner", torch.repeat_interleave(self.codes))
        self.unknown = self.constant("unknown", torch.zeros(self.outputs).index_fill(0, self.starts, -math.inf))

    def embed(self, values: Tensor, observed: Tensor | None) -> Tensor:
        """One-hot, or each code's vector."""
        if self.vectors:
            there = torch.ones_like(values, dtype=torch.bool) if observed is None else observed
            codes = zip(self.vectors, values.long().split(self.widths, 1), there.split(self.widths, 1), strict=True)
            return torch.cat([(of(code) * seen[:, :, None]).flatten(1) for of, code, seen in codes], 1)
        hot = torch.zeros(len(values), self.inputs, dtype=values.dtype, device=values.device)
        code = values.long() + self.starts
        return hot.scatter(1, code, 1.0) if observed is None else hot.scatter(1, code, observed.to(values.dtype))

    def bias(self) -> Tensor:
        return self.rates.clamp_min(1e-4).log()

    def log_prob(self, outputs: Tensor, values: Tensor, observed: Tensor | None) -> Tensor:
        return outputs.gather(1, values.long() + self.starts) - self._logsumexp(outputs)

    def mean(self, outputs: Tensor) -> Tensor:
        return self.mode(outputs)

    def deviation(self, outputs: Tensor) -> Tensor:
        return outputs.new_full((len(outputs), self.features), math.nan)

    def mode(self, outputs: Tensor) -> Tensor:
        return self._argmax(outputs + self.unknown)

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        uniform = torch.rand(outputs.shape, generator=generator, device=outputs.device, dtype=outputs.dtype)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        return self._argmax(outputs + self.unknown + gumbel)

    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        """By the order of the codes, for what that is worth; the unknown code, which has none, left out."""
        known = outputs + self.unknown
        mass = (known.double() - self._logsumexp(known)[:, self.owner]).exp().cumsum(1)
        before = torch.cat([mass.new_zeros(len(mass), 1), mass], 1)[:, self.starts]
        short = (mass - before[:, self.owner] < level - 1e-9).to(outputs.dtype)
        count = outputs.new_zeros(len(outputs), self.features).index_add(1, self.owner, short)
        return torch.minimum(count, (self.codes - 1).to(count.dtype))

    def extreme(self, uniform: Tensor) -> Tensor:
        """Codes are not ordered, so any known one, by chance."""
        return 1 + (uniform * (self.codes - 1)).floor()

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


class Ordinal(Likelihood, name="ordinal"):
    """Ranks 0..K-1 by cumulative logits: P(X <= k) = S(c_k - output), S the logistic (McCullagh 1980).

    The cutpoints c_0 < ... < c_{K-2} are learned, one set per column; the decoder only shifts them.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        self.highest = self.constant("highest", self.spread(float(column.codes - 1) for column in columns))
        self.owner = self.constant("owner", torch.repeat_interleave(torch.tensor(self.widths)))
        cuts = [_cuts(column) for column in columns]
        longest = max(map(len, cuts))
        self.first = nn.Parameter(torch.stack([cut[0] for cut in cuts]))
        gaps = [functional.pad(cut.diff(), (0, longest - len(cut)), value=1.0) for cut in cuts]
        self.gaps = nn.Parameter((torch.stack(gaps) - CLOSEST).clamp_min(1e-6).expm1().log())

    def steps(self) -> Float[Tensor, "feature step"]:
        """c_{k+1} - c_k of each feature."""
        return (CLOSEST + functional.softplus(self.gaps))[self.owner]

    def cutpoints(self) -> Float[Tensor, "feature cut"]:
        """c_k of each feature; those beyond a column's own are not used."""
        first = self.first[self.owner, None]
        return torch.cat([first, first + self.steps().cumsum(1)], 1)

    def embed(self, values: Tensor, observed: Tensor | None) -> Tensor:
        return present(2 * values / self.highest - 1, observed)

    def bias(self) -> Tensor:
        return torch.zeros(self.outputs)

    def log_prob(self, outputs: Tensor, values: Tensor, observed: Tensor | None) -> Tensor:
        cuts, rank, last = self.cutpoints(), values.long(), self.highest.long() - 1
        before = (rank - 1).clamp_min(0)
        below = functional.logsigmoid(_at(cuts, rank.minimum(last)) - outputs)
        above = functional.logsigmoid(outputs - _at(cuts, before))
        step = _at(functional.pad(self.steps(), (0, 1), value=1.0), before)
        inner = below + above + torch.log(-torch.expm1(-step))
        return torch.where(rank <= 0, below, torch.where(rank > last, above, inner))

    def mean(self, outputs: Tensor) -> Tensor:
        """The mean rank."""
        return ((-self._upward(outputs)).sigmoid() * self._own()).sum(2)

    def deviation(self, outputs: Tensor) -> Tensor:
        """Of the rank, by E[X^2] = sum_k (2k + 1) P(X > k)."""
        above = (-self._upward(outputs)).sigmoid() * self._own()
        odd = 2 * torch.arange(above.shape[2], dtype=above.dtype, device=above.device) + 1
        return ((odd * above).sum(2) - above.sum(2) ** 2).clamp_min(0).sqrt()

    def mode(self, outputs: Tensor) -> Tensor:
        ranks = torch.arange(int(self.highest.max()) + 1, device=outputs.device, dtype=outputs.dtype)
        seen = torch.ones_like(outputs, dtype=torch.bool)
        each = [self.log_prob(outputs, rank.minimum(self.highest).expand(outputs.shape), seen) for rank in ranks]
        return torch.stack(each).argmax(0).to(outputs.dtype)

    def sample(self, outputs: Tensor, generator: Generator | None = None) -> Tensor:
        uniform = torch.rand(outputs.shape, generator=generator, device=outputs.device, dtype=outputs.dtype)
        return self._rank(outputs, uniform)

    def quantile(self, outputs: Tensor, level: float) -> Tensor:
        return self._rank(outputs, torch.full_like(outputs, level))

    def extreme(self, uniform: Tensor) -> Tensor:
        return torch.where(uniform < 0.5, 0.0, self.highest)

    def _upward(self, outputs: Tensor) -> Float[Tensor, "batch feature cut"]:
        """logit P(X <= k)."""
        return self.cutpoints() - outputs[:, :, None]

    def _own(self) -> Float[Tensor, "feature cut"]:
        """1 for the cutpoints that a feature has, 0 for the padding."""
        cut = torch.arange(int(self.highest.max()), device=self.highest.device)
        return (cut < self.highest[:, None]).to(self.first.dtype)

    def _rank(self, outputs: Tensor, uniform: Tensor) -> Tensor:
        """The smallest k with P(X <= k) >= uniform."""
        return ((self._upward(outputs).sigmoid() < uniform[:, :, None]) * self._own()).sum(2)


def _vectors(column: Column) -> nn.Embedding:
    """A vector per code, about one in size; the unknown code's, which training rows hardly have, begins at zero."""
    vectors = nn.Embedding(column.codes, column.embedding)
    with torch.no_grad():
        vectors.weight[0] = 0.0
    return vectors


def _rates(column: Column) -> tuple[float, ...]:
    return column.rates or (1 / column.codes,) * column.codes


def _cuts(column: Column) -> Float[Tensor, " cut"]:
    """Cutpoints under which the ranks have their marginal probabilities where the output is 0."""
    rates = torch.tensor(_rates(column)).clamp_min(RATE_FLOOR)
    return torch.logit(rates.cumsum(0)[:-1] / rates.sum(), eps=1e-6)


def _at(cuts: Float[Tensor, "feature cut"], rank: Tensor) -> Float[Tensor, "batch feature"]:
    return cuts.expand(len(rank), -1, -1).gather(2, rank[:, :, None])[:, :, 0]
