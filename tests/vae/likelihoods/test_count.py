"""Poisson and negative binomial: SciPy's, far into the tail, and one the limit of the other."""

from __future__ import annotations

import math
from typing import Any, cast

import mpmath
import pytest
import torch
from laws import column, drawn, of, only, repeated, seen, whole
from scipy import stats
from torch import Tensor

from vae.config import COUNTS
from vae.likelihoods import Columns, NegativeBinomial

MEANS = (1e-6, 0.03, 1.0, 7.5, 400.0, 1e5, 1e8)


def dispersed(likelihood: Columns, dispersion: float) -> Columns:
    """The same with this dispersion, where it has one."""
    for parameter in likelihood.parameters():
        parameter.data.fill_(math.log(dispersion))
    return likelihood


def scipys(kind: str, mean: float, dispersion: float) -> Any:
    """The same distribution in SciPy's words."""
    return stats.poisson(mean) if kind == "poisson" else stats.nbinom(dispersion, dispersion / (dispersion + mean))


def output(mean: float) -> Tensor:
    """The decoder output under which a count has this mean."""
    return torch.tensor([[math.log(mean)]], dtype=torch.float64)


def log_prob(likelihood: Columns, row: Tensor, counts: Tensor) -> Tensor:
    """log P of many counts under one row of outputs."""
    return likelihood.log_prob(repeated(row, len(counts)), counts[:, None], seen(counts[:, None])).detach()[:, 0]


COUNTED = (0, 1, 2, 9, 55, 480, 9999, 10**6, 10**8, 10**15)


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("dispersion", [0.3, 1.5, 40.0])
def test_mass_is_scipys(kind: str, dispersion: float) -> None:
    """log P of counts up to ten thousand is SciPy's."""
    likelihood, counts = dispersed(of(column(kind)), dispersion), whole(10_000).values
    for mean in (0.5, 7.5, 400.0):
        expected = torch.from_numpy(scipys(kind, mean, dispersion).logpmf(counts.numpy()))
        torch.testing.assert_close(log_prob(likelihood, output(mean), counts), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("dispersion", [0.01, 1.5, 300.0, 5e4])
def test_mass_is_exact_far_into_the_tail(kind: str, dispersion: float) -> None:
    """Up to counts of 1e15, log P is that of arithmetic with 50 digits, to 1e-14 of count and mean."""
    likelihood, counts = dispersed(of(column(kind)), dispersion), torch.tensor(COUNTED, dtype=torch.float64)
    r = likelihood.blocks[0].dispersion().item() if kind == "negative_binomial" else 0.0
    for mean in MEANS:
        row = output(mean)
        with mpmath.workdps(50):
            expected = [float(exact(count, mpmath.exp(row.item()), mpmath.mpf(r))) for count in COUNTED]
        error = log_prob(likelihood, row, counts) - torch.tensor(expected, dtype=torch.float64)
        assert (error.abs() <= 1e-11 + 1e-14 * (mean + counts * counts.log1p())).all()


def exact(count: int, mean: mpmath.mpf, r: mpmath.mpf) -> mpmath.mpf:
    """log P(X = count) to many digits; r = 0 stands for a Poisson."""
    if not r:
        return count * mpmath.log(mean) - mean - mpmath.loggamma(count + 1)
    choose = mpmath.loggamma(count + r) - mpmath.loggamma(r) - mpmath.loggamma(count + 1)
    return choose + r * mpmath.log(r / (r + mean)) + count * mpmath.log(mean / (r + mean))


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("dispersion", [0.05, 1.5, 5e4])
def test_quantile_is_scipys(kind: str, dispersion: float) -> None:
    """The quantile is SciPy's ppf, for means from a millionth to a hundred million."""
    likelihood = dispersed(of(column(kind, width=len(MEANS))), dispersion)
    outputs = torch.cat([output(mean) for mean in MEANS], 1)
    for level in (1e-3, 0.5, 0.999):
        expected = [scipys(kind, mean, dispersion).ppf(level) for mean in MEANS]
        torch.testing.assert_close(
            likelihood.quantile(outputs, level)[0], torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize("kind", COUNTS)
def test_mass_sums_to_one_far_into_the_tail(kind: str) -> None:
    """Over the first hundred thousand counts P sums to 1, its mean is exp(output), its variance m (+ m^2 / r)."""
    likelihood, grid = dispersed(of(column(kind)), 1.5), whole(100_000)
    for mean in (0.03, 7.5, 900.0):
        mass = grid.mass(likelihood, output(mean))
        assert mass.sum().item() == pytest.approx(1, abs=1e-10)
        assert (mass * grid.values).sum().item() == pytest.approx(mean, rel=1e-9)
        variance = (mass * (grid.values - mean) ** 2).sum().item()
        assert variance == pytest.approx(mean + (mean**2 / 1.5 if kind == "negative_binomial" else 0), rel=1e-9)


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("dispersion", [0.3, 1.5, 300.0])
def test_mode_is_the_most_probable_count(kind: str, dispersion: float) -> None:
    """No count is more probable than the mode, nor its neighbours equally probable without being beside it."""
    likelihood, counts = dispersed(of(column(kind)), dispersion), whole(3000).values
    for mean in (0.03, 0.999, 1.5, 7.25, 400.6):
        found = int(likelihood.mode(output(mean)).item())
        mass = log_prob(likelihood, output(mean), counts)
        assert mass[found].item() >= mass.max().item() - 1e-12


@pytest.mark.parametrize("kind", COUNTS)
def test_samples_are_counts_of_that_mean_and_variance(kind: str) -> None:
    """20,000 draws have SciPy's mean and variance, from rare events to millions, within 5 standard errors."""
    likelihood = dispersed(of(column(kind)), 1.5)
    for mean in (0.03, 7.5, 1e6):
        draws = drawn(likelihood, repeated(output(mean), 20_000), seed=1)[:, 0]
        _, variance, _, excess = (float(moment) for moment in scipys(kind, mean, 1.5).stats("mvsk"))
        assert abs(draws.mean().item() - mean) < 5 * math.sqrt(variance / 20_000)
        assert abs(draws.var().item() / variance - 1) < 5 * math.sqrt((excess + 2) / 20_000)


def test_negative_binomial_becomes_poisson() -> None:
    """With dispersion r, log P is the Poisson's plus (x - (x - m)^2) / -2r, and an error of order 1 / r^2."""
    poisson, negative = of(column("poisson")), of(column("negative_binomial"))
    counts, mean = whole(25).values, 6.5
    for dispersion in (1e3, 1e4, 5e4):
        row = output(mean)
        apart = log_prob(dispersed(negative, dispersion), row, counts) - log_prob(poisson, row, counts)
        first_order = ((counts - mean) ** 2 - counts) / (2 * dispersion)
        assert (apart - first_order).abs().max().item() < 2000 / dispersion**2 + 1e-10


def test_dispersion_is_bounded() -> None:
    """However it is trained, the dispersion stays where the distribution is computable."""
    block = only(of(column("negative_binomial")))
    for push, bound in ((-1e6, math.exp(-7)), (1e6, math.exp(11))):
        block.get_parameter("log_dispersion").data.fill_(push)
        assert cast(NegativeBinomial, block).dispersion().item() == pytest.approx(bound)


@pytest.mark.parametrize("kind", COUNTS)
def test_bias_has_the_mean_of_the_data(kind: str) -> None:
    """Training starts from the mean count of each feature, no less than a thousandth; from 1 where it is not known."""
    likelihood = of(column(kind, width=3, means=(0.0, 0.25, 900.0)), column(kind, name="y"))
    mean = likelihood.mean(likelihood.bias().double()[None])[0]
    torch.testing.assert_close(mean, torch.tensor([1e-3, 0.25, 900, 1], dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", COUNTS)
def test_embedding_is_the_logarithm(kind: str) -> None:
    """The encoder sees log(1 + x), about zero at the mean."""
    likelihood = of(column(kind, means=(7.0,)))
    values = torch.tensor([[0.0], [7.0], [1e15]], dtype=torch.float64)
    expected = torch.tensor([-math.log(8), 0, 15 * math.log(10) - math.log(8)], dtype=torch.float64)
    torch.testing.assert_close(likelihood.embed(values, seen(values))[:, 0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", COUNTS)
def test_noise_is_never_below_zero(kind: str) -> None:
    """Where the smallest count was not said, salt and pepper is still a count."""
    assert of(column(kind)).extreme(torch.zeros(1, 1)).item() == 0
