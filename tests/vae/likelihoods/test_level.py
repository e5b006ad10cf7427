"""Binomial and discretised logistic: SciPy's over all 256 levels of a pixel."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from laws import column, drawn, normal, of, only, outputs_of, repeated, seen, whole
from scipy import stats
from torch import Tensor

from vae.config import LEVELS
from vae.likelihoods import Columns, DiscretisedLogistic

PIXEL = 256
SCALES = (0.0, 0.2, 3.0, 40.0, 1e4)


def logistic(scale: float, *, codes: int = PIXEL) -> Columns:
    """A discretised logistic of this scale, in levels, on top of the least one."""
    likelihood = of(column("discretised_logistic", codes=codes))
    only(likelihood).get_parameter("log_scale").data.fill_(math.log(scale) if scale else -math.inf)
    return likelihood


def log_prob(likelihood: Columns, row: Tensor, codes: int = PIXEL) -> Tensor:
    """log P of every level under one row of outputs."""
    values = whole(codes).values[:, None]
    return likelihood.log_prob(repeated(row, codes), values, seen(values)).detach()[:, 0]


def scipys(likelihood: Columns, row: Tensor, *, codes: int = PIXEL) -> Any:
    """The logistic density that is cut into levels, in SciPy's words."""
    scale = cast(DiscretisedLogistic, only(likelihood)).scale().item()
    return stats.logistic((codes - 1) / 2 * (1 + row.item()), scale)


@pytest.mark.parametrize("codes", [2, 8, PIXEL, 10_001])
def test_binomial_is_scipys(codes: int) -> None:
    """log P, quantile and mean are SciPy's, from probabilities of 1e-9 to all but 1e-9."""
    likelihood = of(column("binomial", codes=codes))
    for logit in (-20.0, -1.5, 0.0, 0.3, 20.0):
        row = torch.full((1, 1), logit, dtype=torch.float64)
        scipy = stats.binom(codes - 1, 1 / (1 + math.exp(-logit)))
        if logit < 1:
            expected = torch.from_numpy(scipy.logpmf(whole(codes).values.numpy()))
            torch.testing.assert_close(log_prob(likelihood, row, codes), expected, rtol=1e-11, atol=1e-10)
        for level in (1e-3, 0.5, 0.999):
            assert likelihood.quantile(row, level).item() == scipy.ppf(level)
        assert likelihood.mean(row).item() == pytest.approx(scipy.mean(), rel=1e-12)


def test_binomial_of_one_throw_is_bernoulli() -> None:
    """With two levels every answer of a binomial is the Bernoulli's."""
    binomial, bernoulli = of(column("binomial", codes=2, width=3)), of(column("bernoulli", width=3))
    outputs = 3 * normal(40, 3, seed=1)
    values = (normal(40, 3, seed=2) > 0).double()
    found, expected = (each.log_prob(outputs, values, seen(values)) for each in (binomial, bernoulli))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(binomial.mean(outputs), bernoulli.mean(outputs), rtol=0, atol=0)
    assert torch.equal(binomial.mode(outputs), bernoulli.mode(outputs))
    assert torch.equal(binomial.quantile(outputs, 0.3), bernoulli.quantile(outputs, 0.3))
    assert torch.equal(binomial.embed(values, seen(values)), bernoulli.embed(values, seen(values)))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("output", [-3.0, -0.99, -0.5, 0.03, 1.0, 1.2])
def test_discretised_logistic_is_scipys(scale: float, output: float) -> None:
    """P(x) is the difference of SciPy's logistic distribution function over each level; the ends take the tails."""
    likelihood, row = logistic(scale), torch.full((1, 1), output, dtype=torch.float64)
    scipy = scipys(likelihood, row)
    edges = whole(PIXEL).values.numpy() + 0.5
    upto, beyond = torch.from_numpy(scipy.cdf(edges[:-1])), torch.from_numpy(scipy.sf(edges[:-1]))
    one = torch.ones(1, dtype=torch.float64)
    from_below = torch.cat([upto, one]) - torch.cat([0 * one, upto])
    from_above = torch.cat([one, beyond]) - torch.cat([beyond, 0 * one])
    expected = torch.where(whole(PIXEL).values < 127.5 * (1 + output), from_below, from_above)
    found = log_prob(likelihood, row).exp()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    assert found.sum().item() == pytest.approx(1, abs=1e-12)
    mean = (found * whole(PIXEL).values).sum().item()
    assert likelihood.mean(row).item() == pytest.approx(mean, rel=1e-10)


@pytest.mark.parametrize("scale", SCALES)
def test_discretised_logistic_is_exact_in_the_tail(scale: float) -> None:
    """A level a hundred scales from the location has a log-probability that a plain difference would call -inf."""
    likelihood, row = logistic(scale), torch.full((1, 1), -0.2, dtype=torch.float64)
    s = cast(DiscretisedLogistic, only(likelihood)).scale().item()
    apart = whole(PIXEL).values - 102.0
    far = (apart.abs() > 30 * s) & (apart > 0) & (whole(PIXEL).values < PIXEL - 1)
    expected = -(apart - 0.5) / s + math.log(-math.expm1(-1 / s))
    torch.testing.assert_close(log_prob(likelihood, row)[far], expected[far], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("codes", [2, 7, PIXEL])
def test_mode_is_the_most_probable_level(kind: str, codes: int) -> None:
    """No level is more probable than the mode, at the ends too."""
    likelihood = of(column(kind, codes=codes))
    for row in 2 * outputs_of(likelihood, 40, seed=3):
        mass = log_prob(likelihood, row[None], codes)
        assert mass[int(likelihood.mode(row[None]).item())].item() >= mass.max().item() - 1e-12


@pytest.mark.parametrize("kind", LEVELS)
def test_quantile_is_where_the_sum_reaches_the_level(kind: str) -> None:
    """The quantile is the first level at which the sum of P reaches the level asked for."""
    likelihood = of(column(kind, codes=PIXEL))
    for row in outputs_of(likelihood, 10, seed=4):
        upto = log_prob(likelihood, row[None]).exp().cumsum(0)
        for level in (1e-3, 0.2, 0.5, 0.999):
            expected = (upto < level).sum().item()
            assert likelihood.quantile(row[None], level).item() == expected


@pytest.mark.parametrize("kind", LEVELS)
def test_samples_are_the_levels_probabilities(kind: str) -> None:
    """20,000 draws of a pixel: chi-square against all levels expected ten times or more."""
    likelihood = of(column(kind, codes=PIXEL))
    row = torch.full((1, 1), 0.8, dtype=torch.float64)
    expected = 20_000 * log_prob(likelihood, row).exp()
    found = torch.bincount(drawn(likelihood, repeated(row, 20_000), seed=5)[:, 0].long(), minlength=PIXEL)
    kept = expected >= 10
    scaled = expected[kept] * found[kept].sum() / expected[kept].sum()
    assert stats.chisquare(found[kept].numpy(), scaled.numpy()).pvalue > 1e-3


def test_scale_is_bounded() -> None:
    """However it is trained, a scale is at least 0.05 levels, where one level holds all but 1e-4 of a location."""
    likelihood = logistic(0.0)
    assert cast(DiscretisedLogistic, only(likelihood)).scale().item() == pytest.approx(0.05)
    assert log_prob(likelihood, torch.zeros(1, 1, dtype=torch.float64) + 1 / 255).exp().max().item() > 1 - 1e-4


@pytest.mark.parametrize("kind", LEVELS)
def test_bias_has_the_mean_of_the_data(kind: str) -> None:
    """Training starts with the mean level of each feature; in the middle where it is not known."""
    likelihood = Columns([column(kind, width=3, codes=9, means=(0.0, 3.25, 8.0)), column(kind, name="y", codes=5)])
    start = likelihood.double().bias()[None].double()
    (block,) = likelihood.blocks
    found = likelihood.mean(start) if kind == "binomial" else cast(DiscretisedLogistic, block).location(start)
    torch.testing.assert_close(found, torch.tensor([[0.008, 3.25, 7.992, 2]], dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", LEVELS)
def test_embedding_is_between_minus_one_and_one(kind: str) -> None:
    """The encoder sees levels on the scale from -1, the lowest, to 1, the highest."""
    likelihood, values = of(column(kind, codes=5)), whole(5).values[:, None]
    assert likelihood.embed(values, seen(values))[:, 0].tolist() == [-1, -0.5, 0, 0.5, 1]
