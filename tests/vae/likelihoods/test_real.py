"""Gaussian, log-normal and Student's t: SciPy's, in original units; squared error and other limits."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from laws import column, drawn, normal, of, only, outputs_of, repeated, seen, stretched
from scipy import stats
from torch import Tensor
from torch.distributions import LogNormal, Normal, StudentT

from vae.config import Column
from vae.likelihoods import Columns, Gaussian
from vae.likelihoods import StudentT as OurStudentT
from vae.likelihoods.real import Scaled

SCALED = ("gaussian", "log_normal", "student_t")
LEVELS = (1e-6, 1e-3, 0.1, 0.3, 0.499999, 0.5, 0.75, 0.9, 0.999, 1 - 1e-6)


def scale_of(likelihood: Columns) -> Tensor:
    """The learned scales, standardised units."""
    return cast(Scaled, only(likelihood)).scale().detach()


def freedom_of(likelihood: Columns) -> Tensor:
    """The learned degrees of freedom."""
    return cast(OurStudentT, only(likelihood)).freedom().detach()


def scipys(likelihood: Columns, of_column: Column, output: float) -> Any:
    """The same distribution in SciPy's words, over x in original units."""
    s, unit, center = scale_of(likelihood)[0].item(), of_column.scale, of_column.center
    if of_column.likelihood == "gaussian":
        return stats.norm(center + unit * output, unit * s)
    if of_column.likelihood == "log_normal":
        return stats.lognorm(unit * s, scale=math.exp(center + unit * output))
    return stats.t(freedom_of(likelihood)[0].item(), center + unit * output, unit * s)


@pytest.mark.parametrize("kind", SCALED)
@pytest.mark.parametrize("unit", [1.0, 256.0, 2.0**-10])
def test_density_is_scipys(kind: str, unit: float) -> None:
    """log p(x) of x in original units is SciPy's, whatever the standardisation."""
    each = column(kind, scale=min(unit, 2.0) if kind == "log_normal" else unit, center=-1.5)
    likelihood, values = of(each), 5 * normal(40, 1, seed=1)
    for output in (-3.0, 0.7):
        x = likelihood.units(values)
        expected = torch.from_numpy(scipys(likelihood, each, output).logpdf(x.numpy()))
        found = likelihood.log_prob(torch.full_like(values, output), values, seen(values))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("kind", SCALED)
def test_quantile_is_scipys(kind: str) -> None:
    """`units(quantile)` is SciPy's ppf from the millionth to all but a millionth."""
    each = column(kind)
    likelihood, output = of(each), torch.full((1, 1), 0.7, dtype=torch.float64)
    for level in LEVELS:
        found = likelihood.units(likelihood.quantile(output, level)).item()
        assert found == pytest.approx(scipys(likelihood, each, 0.7).ppf(level), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", SCALED)
def test_samples_are_scipys(kind: str) -> None:
    """20,000 draws pass the Kolmogorov-Smirnov test against SciPy's distribution function, in original units."""
    each = column(kind)
    likelihood = of(each)
    outputs = torch.full((20_000, 1), -1.25, dtype=torch.float64)
    draws = likelihood.units(drawn(likelihood, outputs, seed=2))[:, 0]
    assert stats.kstest(draws.numpy(), scipys(likelihood, each, -1.25).cdf).pvalue > 1e-3


def test_densities_are_torchs() -> None:
    """Many features at once, with scales of their own, are torch's distributions minus the log of the unit."""
    outputs, values = normal(6, 3, seed=3), normal(6, 3, seed=4)
    gaussian, student = (of(column(kind, width=2), column(kind, name="y")) for kind in ("gaussian", "student_t"))
    expected = Normal(outputs, scale_of(gaussian)).log_prob(values) - math.log(2.5)
    torch.testing.assert_close(gaussian.log_prob(outputs, values, seen(values)), expected, rtol=1e-12, atol=1e-12)
    t = StudentT(freedom_of(student), outputs, scale_of(student), validate_args=False)
    found = student.log_prob(outputs, values, seen(values))
    torch.testing.assert_close(found, t.log_prob(values) - math.log(2.5), rtol=1e-12, atol=1e-12)
    logs = of(column("log_normal", scale=1.0, center=0.0, width=3))
    found = logs.log_prob(outputs, values, seen(values))
    expected = LogNormal(outputs, scale_of(logs)).log_prob(values.exp())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("unit", [2.0**-10, 1.0, 3.0])
def test_log_normal_integrates_to_one_over_positive_numbers(unit: float) -> None:
    """The integral of exp(log p) over all x > 0, x itself being the variable, is 1."""
    likelihood = of(column("log_normal", scale=unit, center=0.5))
    log_x = torch.linspace(0.5 - 40 * unit, 0.5 + 40 * unit, 4001, dtype=torch.float64)
    values = ((log_x - 0.5) / unit)[:, None]
    density = likelihood.log_prob(torch.full_like(values, 0.7), values, seen(values))[:, 0].exp()
    assert (density * log_x.exp() * (log_x[1] - log_x[0])).sum().item() == pytest.approx(1, abs=1e-11)


def test_log_normal_has_three_averages() -> None:
    """Mean exp(m + s^2 / 2), median exp(m) and mode exp(m - s^2), in original units, as SciPy has them."""
    each = column("log_normal", scale=0.75, center=2.0)
    likelihood, output = of(each), torch.full((1, 1), 0.3, dtype=torch.float64)
    m, s = 2.0 + 0.75 * 0.3, 0.75 * scale_of(likelihood).item()
    mean, median, mode = (
        likelihood.units(value).item()
        for value in (likelihood.mean(output), likelihood.quantile(output, 0.5), likelihood.mode(output))
    )
    scipy = scipys(likelihood, each, 0.3)
    assert mean == pytest.approx(scipy.mean(), rel=1e-12) == pytest.approx(math.exp(m + s**2 / 2), rel=1e-12)
    assert median == pytest.approx(scipy.median(), rel=1e-12) == pytest.approx(math.exp(m), rel=1e-12)
    assert mode == pytest.approx(math.exp(m - s**2), rel=1e-12)
    assert mode < median < mean


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_fixed_sigma_is_the_squared_error(sigma: float) -> None:
    """With sigma fixed, -log p is (x - m)^2 / (2 sigma^2) plus a constant, and no scale is learned."""
    likelihood = of(column("gaussian", sigma=sigma, width=4, floor=8.0))
    outputs, values = normal(20, 4, seed=5), normal(20, 4, seed=6)
    log_prob = likelihood.log_prob(outputs, values, seen(values))
    rest = log_prob + (values - outputs) ** 2 / (2 * sigma**2)
    torch.testing.assert_close(rest, rest[:1, :1].expand_as(rest), rtol=0, atol=1e-12)
    (learned,) = likelihood.parameters()
    log_prob.sum().backward()
    assert learned.grad is not None
    assert (learned.grad == 0).all()


def test_learned_sigma_is_the_root_mean_square_error() -> None:
    """At the scale that maximises log p, the squared error is the variance: what training converges to."""
    likelihood = Columns([column("gaussian", floor=1e-6)]).double()
    values, outputs = normal(500, 1, seed=7), torch.zeros(500, 1, dtype=torch.float64)
    block = cast(Gaussian, only(likelihood))
    with torch.no_grad():
        block.log_scale.fill_(math.log(values.square().mean().sqrt().item() - 1e-6))
    (slope,) = torch.autograd.grad(likelihood.log_prob(outputs, values, seen(values)).mean(), block.log_scale)
    assert slope.abs().item() < 1e-7


@pytest.mark.parametrize("kind", SCALED)
def test_scale_is_shared_and_never_below_the_floor(kind: str) -> None:
    """The features of a column have one scale, and it cannot fall below the floor however it is trained."""
    likelihood = Columns([column(kind, width=2, floor=0.25), column(kind, name="y", floor=0.5)])
    block = cast(Scaled, only(likelihood))
    with torch.no_grad():
        block.log_scale.fill_(-200.0)
    torch.testing.assert_close(block.scale(), torch.tensor([0.25, 0.25, 0.5]), rtol=0, atol=0)


def test_student_t_becomes_gaussian() -> None:
    """With v degrees of freedom log p is the Gaussian's plus (t^4 - 2 t^2 - 1) / 4v, and an error of order 1 / v^2."""
    student, gaussian = (Columns([column(kind)]).double() for kind in ("student_t", "gaussian"))
    values = torch.linspace(-3, 3, 41, dtype=torch.float64)[:, None] * scale_of(gaussian)
    outputs, t = torch.zeros_like(values), values / scale_of(gaussian)
    for log_excess in (5.0, 6.0, 7.0):
        cast(OurStudentT, only(student)).log_excess.data.fill_(log_excess)
        v = freedom_of(student)
        apart = student.log_prob(outputs, values, seen(values)) - gaussian.log_prob(outputs, values, seen(values))
        first_order = (t**4 - 2 * t**2 - 1) / (4 * v)
        assert (apart.detach() - first_order).abs().max().item() < 150 / v.item() ** 2


@pytest.mark.parametrize("log_excess", [-40.0, -4.0, 0.0, 7.0, 40.0])
def test_student_t_has_any_tail(log_excess: float) -> None:
    """From the heaviest tail, v = 1.02, to the lightest, v = 1,098, p integrates to 1 and is SciPy's."""
    each = column("student_t")
    likelihood = Columns([each]).double()
    cast(OurStudentT, only(likelihood)).log_excess.data.fill_(log_excess)
    assert 1.018 < freedom_of(likelihood).item() < 1098
    row = torch.full((1, 1), 0.5, dtype=torch.float64)
    grid = stretched(likelihood, torch.linspace(-33, 33, 6001, dtype=torch.float64), torch.sinh)
    assert grid.mass(likelihood, row).sum().item() == pytest.approx(1, abs=1e-11)
    scipy = scipys(likelihood, each, 0.5)
    for level in LEVELS:
        found = likelihood.units(likelihood.quantile(row, level)).item()
        assert found == pytest.approx(scipy.ppf(level), rel=1e-9, abs=1e-9)
    draws = likelihood.units(drawn(likelihood, repeated(row, 5000), seed=8))[:, 0]
    assert stats.kstest(draws.numpy(), scipy.cdf).pvalue > 1e-3


def test_an_outlier_pulls_a_student_t_no_further() -> None:
    """The pull |d log p / d m| never exceeds (v + 1) / (2 s sqrt(v)) and vanishes far out; a Gaussian's grows."""
    likelihood = of(column("student_t"))
    v, s = freedom_of(likelihood).item(), scale_of(likelihood).item()
    values = torch.logspace(-3, 9, 2000, dtype=torch.float64)[:, None]
    outputs = torch.zeros_like(values).requires_grad_()
    likelihood.log_prob(outputs, values, seen(values)).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.max().item() == pytest.approx((v + 1) / (2 * s * v**0.5), rel=1e-4)
    assert outputs.grad[-1].item() < 1e-8


@pytest.mark.parametrize("kind", SCALED)
def test_bias_is_the_mean_of_the_data(kind: str) -> None:
    """Training starts from the mean model value of each feature; from the center where it is not known."""
    means = (0.5, -1.25, 3.0)
    likelihood = of(column(kind, width=3, means=means), column(kind, name="y", width=2))
    assert likelihood.bias().tolist() == [*means, 0, 0]
    assert torch.equal(of(column(kind, width=2, means=(0.5,))).bias(), torch.tensor([0.5, 0.5]))
    if kind != "log_normal":
        assert likelihood.mean(likelihood.bias()[None].double())[0].tolist() == [*means, 0, 0]


def test_spread_of_samples_is_the_scale() -> None:
    """20,000 draws of a Gaussian have its standard deviation, feature by feature, within 5 standard errors."""
    likelihood = of(column("gaussian", width=2), column("gaussian", name="y", floor=2.0))
    draws = drawn(likelihood, repeated(outputs_of(likelihood, 1, seed=9), 20_000), seed=10)
    np.testing.assert_allclose(draws.std(0), scale_of(likelihood), rtol=5 / math.sqrt(2 * 20_000))


def test_embedding_of_a_real_is_itself_up_to_a_million() -> None:
    """The encoder sees a standardised number as it is; beyond a million, as a million."""
    likelihood = of(column("gaussian"))
    values = torch.tensor([[-3e38], [-2.5], [0.0], [1e5], [3e38]], dtype=torch.float64)
    assert likelihood.embed(values, seen(values))[:, 0].tolist() == [-1e6, -2.5, 0, 1e5, 1e6]
