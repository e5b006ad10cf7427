"""Mixtures: torch's, feature by feature; the joint one over a group, whose missing cells are integrated out."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from laws import column, drawn, normal, of, only, outputs_of, repeated, seen
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from vae.likelihoods import Columns, Gaussian, JointMixture, Mixture

JACOBIAN = math.log(2.5)


def joint(features: int, components: int = 3) -> Columns:
    """A joint mixture over one group of columns."""
    return of(*(column("joint_mixture", name=f"x{f}", components=components) for f in range(features)))


def density_of(likelihood: Columns, outputs: Tensor) -> MixtureSameFamily:
    """The same joint density over standardised values in torch's words, its covariances written out."""
    log_weight, mean, scale, slope = cast(JointMixture, only(likelihood)).parts(outputs)
    shape = torch.eye(slope.shape[2], dtype=torch.float64) + slope[..., None] * slope[..., None, :]
    covariance = scale[..., None] * shape * scale[..., None, :]
    return MixtureSameFamily(Categorical(logits=log_weight), MultivariateNormal(mean, covariance))


def plane(steps: int = 401, *, reach: float = 14.0) -> tuple[Tensor, float]:
    """Standardised points of a square grid, and the area of each."""
    axis = torch.linspace(-reach, reach, steps, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), (axis[1] - axis[0]).item() ** 2


def test_one_component_is_a_gaussian_of_that_scale() -> None:
    """A mixture of one is a Gaussian whose scale the decoder chooses: log p, quantiles and mode."""
    mixture, gaussian = of(column("mixture", components=1)), of(column("gaussian"))
    scale = cast(Gaussian, only(gaussian)).scale().detach()
    means, values = normal(30, 1, seed=1), 3 * normal(30, 1, seed=2)
    outputs = torch.cat([torch.zeros_like(means), means, (scale - 0.25).log().expand(30, 1)], 1)
    found, expected = mixture.log_prob(outputs, values, seen(values)), gaussian.log_prob(means, values, seen(values))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixture.quantile(outputs, 0.9), gaussian.quantile(means, 0.9), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixture.mode(outputs), means, rtol=1e-12, atol=1e-12)


def test_mixture_is_torchs() -> None:
    """log p, mean and variance of draws are those of torch's MixtureSameFamily, per original unit."""
    likelihood = of(column("mixture", width=2, components=4))
    outputs, values = outputs_of(likelihood, 25, seed=3), 2 * normal(25, 2, seed=4)
    log_weight, mean, scale = cast(Mixture, only(likelihood)).marginals(outputs)
    torchs = MixtureSameFamily(Categorical(logits=log_weight), Normal(mean, scale))
    found = likelihood.log_prob(outputs, values, seen(values))
    torch.testing.assert_close(found, torchs.log_prob(values) - JACOBIAN, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(likelihood.mean(outputs), torchs.mean, rtol=1e-12, atol=1e-12)
    draws = drawn(likelihood, repeated(outputs[:1], 20_000), seed=5)
    torch.testing.assert_close(draws.var(0), torchs.variance[0], rtol=0.07, atol=0)


@pytest.mark.parametrize("kind", ["mixture", "joint_mixture"])
def test_quantile_inverts_the_sum_of_normals(kind: str) -> None:
    """The weighted sum of the components' distribution functions at the quantile is the level."""
    likelihood = of(column(kind, width=2))
    outputs = outputs_of(likelihood, 25, seed=6)
    log_weight, mean, scale = cast(Mixture, only(likelihood)).marginals(outputs)
    for level in (1e-6, 1e-3, 0.5, 0.999, 1 - 1e-6):
        below = torch.special.ndtr((likelihood.quantile(outputs, level)[..., None] - mean) / scale)
        reached = (log_weight.exp() * below).sum(2)
        torch.testing.assert_close(reached, torch.full_like(reached, level), rtol=1e-8, atol=1e-14)


def test_mode_of_a_mixture_is_its_highest_peak() -> None:
    """On 600 random mixtures of five components, many with several peaks, no point of a fine grid is higher."""
    likelihood = of(column("mixture", components=5))
    outputs = 1.5 * outputs_of(likelihood, 600, seed=7)
    axis = torch.linspace(-8, 8, 1601, dtype=torch.float64)[:, None]
    highest = torch.stack([likelihood.log_prob(outputs, x.expand(600, 1), seen(x.expand(600, 1))) for x in axis])
    modes = likelihood.mode(outputs)
    found = likelihood.log_prob(outputs, modes, seen(modes))
    assert (highest.amax(0) - found).max().item() < 1e-5


def test_joint_of_one_component_is_a_multivariate_normal() -> None:
    """With one component the features' log-probabilities sum to SciPy's multivariate normal in original units."""
    likelihood = joint(3, components=1)
    outputs, values = outputs_of(likelihood, 12, seed=8), normal(12, 3, seed=9)
    found = likelihood.log_prob(outputs, values, seen(values)).sum(1)
    gaussian = density_of(likelihood, outputs).component_distribution
    x = likelihood.units(values)
    for row in range(12):
        mean, covariance = gaussian.mean[row, 0], 2.5**2 * gaussian.covariance_matrix[row, 0]
        expected = stats.multivariate_normal(likelihood.units(mean[None])[0].numpy(), covariance.numpy())
        assert found[row].item() == pytest.approx(expected.logpdf(x[row].numpy()), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("features", [1, 2, 5])
def test_chain_of_features_is_the_joint_density(features: int) -> None:
    """log p(x_1) + log p(x_2 | x_1) + ... is the density of torch's mixture of multivariate normals."""
    likelihood = joint(features)
    outputs, values = outputs_of(likelihood, 30, seed=10), 2 * normal(30, features, seed=11)
    expected = density_of(likelihood, outputs).log_prob(values) - features * JACOBIAN
    found = likelihood.log_prob(outputs, values, seen(values)).sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("slope", [0.0, 0.8, -3.0, 30.0])
def test_joint_integrates_to_one_at_any_correlation(slope: float) -> None:
    """Over the plane, in original units, exp(log p) integrates to 1, from no correlation to one of 0.999."""
    likelihood = joint(2, components=2)
    row = outputs_of(likelihood, 1, seed=12)
    row[0, 6:10] = -1.5
    row[0, 10:] = torch.tensor([slope, slope, slope, -slope / 2])
    points, area = plane(601, reach=4.0 + 7 * math.hypot(1, slope) * (0.25 + math.exp(-1.5)))
    log_prob = likelihood.log_prob(repeated(row, len(points)), points, seen(points)).detach().sum(1)
    assert (log_prob.exp().sum() * area * 2.5**2).item() == pytest.approx(1, abs=1e-9)


def test_any_covariance_of_two_columns_is_a_component() -> None:
    """Slopes and scales exist for every correlation up to 0.998 and every pair of deviations above the floors."""
    likelihood = of(*(column("joint_mixture", name=name, components=1, floor=0.01) for name in "ab"))
    for correlation in (0.0, 0.3, -0.9, 0.998):
        slope = math.sqrt(abs(correlation) / (1 - abs(correlation)))
        sign = math.copysign(1.0, correlation)
        raw = [math.log(deviation / math.hypot(1, slope) - 0.01) for deviation in (3.0, 40.0)]
        outputs = torch.tensor([[0.0, 0, 0, *raw, slope, sign * slope]], dtype=torch.float64)
        found = density_of(likelihood, outputs).component_distribution.covariance_matrix[0, 0]
        expected = torch.tensor([[9, correlation * 120], [correlation * 120, 1600]], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_missing_cell_is_integrated_out() -> None:
    """log p with a cell missing is the log of the integral of p over that cell, whichever of the two it is."""
    likelihood = joint(2)
    row, axis = outputs_of(likelihood, 1, seed=13), torch.linspace(-300, 300, 6001, dtype=torch.float64)
    for missing in (0, 1):
        values = torch.full((6001, 2), 0.6, dtype=torch.float64)
        values[:, missing] = axis
        there = seen(values)
        there[:, missing] = False
        both = likelihood.log_prob(repeated(row, 6001), values, seen(values)).sum(1).exp().sum() * 0.1 * 2.5
        one = likelihood.log_prob(row, values[:1], there[:1]).sum().exp()
        assert one.item() == pytest.approx(both.item(), rel=1e-11)


def test_any_missing_cells_leave_the_marginal_density() -> None:
    """With any of five cells missing, log p is that of torch's mixture over the rest of mean and covariance."""
    likelihood = joint(5)
    outputs, values = outputs_of(likelihood, 32, seed=14), normal(32, 5, seed=15)
    there = torch.tensor([[bool(row >> feature & 1) for feature in range(5)] for row in range(32)])
    found = likelihood.log_prob(outputs, values, there).sum(1)
    for row in range(1, 32):
        rest = there[row].nonzero().flatten()
        whole = density_of(likelihood, outputs[row : row + 1])
        gaussian = whole.component_distribution
        part = MultivariateNormal(gaussian.mean[..., rest], gaussian.covariance_matrix[..., rest[:, None], rest])
        expected = MixtureSameFamily(whole.mixture_distribution, part).log_prob(values[row, rest])
        assert found[row].item() == pytest.approx(expected.item() - len(rest) * JACOBIAN, rel=1e-11, abs=1e-11)
    assert found[0].item() == 0


def test_moments_are_given_what_is_observed() -> None:
    """Mean and deviation of a missing cell are those of p(x, rest) / p(rest), added up over x."""
    likelihood = joint(3)
    row, axis = outputs_of(likelihood, 1, seed=13), torch.linspace(-40, 40, 8001, dtype=torch.float64)
    for missing in range(3):
        values = torch.tensor([0.6, -1.3, 0.2], dtype=torch.float64).repeat(8001, 1)
        values[:, missing] = axis
        mass = likelihood.log_prob(repeated(row, 8001), values, seen(values)).sum(1).exp().detach()
        x, share = likelihood.units(values)[:, missing], mass / mass.sum()
        there = seen(values[:1])
        there[:, missing] = False
        mean, deviation = likelihood.moments(row, values[:1], there)
        assert likelihood.units(mean)[0, missing].item() == pytest.approx((x * share).sum().item(), rel=1e-7)
        spread = ((x - (x * share).sum()) ** 2 * share).sum().sqrt()
        assert deviation[0, missing].item() == pytest.approx(spread.item(), rel=1e-7)


def test_each_feature_is_conditional_on_those_before() -> None:
    """The second feature's exp(log p) integrates to 1 over it, given any value of the first."""
    likelihood = joint(2)
    row, axis = outputs_of(likelihood, 1, seed=16), torch.linspace(-25, 25, 2001, dtype=torch.float64)
    for first in (-2.0, 0.0, 1.5):
        values = torch.stack([torch.full_like(axis, first), axis], 1)
        second = likelihood.log_prob(repeated(row, 2001), values, seen(values))[:, 1]
        assert (second.exp().sum() * 0.025 * 2.5).item() == pytest.approx(1, abs=1e-10)


def test_order_of_the_group_does_not_matter() -> None:
    """Reversing the features, and their parameters with them, changes no joint log-probability."""
    likelihood = joint(4)
    outputs, values = outputs_of(likelihood, 20, seed=17), normal(20, 4, seed=18)
    there = normal(20, 4, seed=19) > -0.7
    weights, rest = outputs[:, :3], outputs[:, 3:].view(20, 3, 3, 4).flip(3).reshape(20, -1)
    reverse = likelihood.log_prob(torch.cat([weights, rest], 1), values.flip(1), there.flip(1)).sum(1)
    torch.testing.assert_close(likelihood.log_prob(outputs, values, there).sum(1), reverse, rtol=1e-11, atol=1e-11)


def test_joint_samples_have_mean_and_covariance() -> None:
    """20,000 draws have the mixture's means and its covariances, within 5 standard errors."""
    likelihood = joint(3)
    row = outputs_of(likelihood, 1, seed=20)
    draws = drawn(likelihood, repeated(row, 20_000), seed=21)
    density = density_of(likelihood, row)
    weight, gaussian = density.mixture_distribution.probs[0], density.component_distribution
    mean = (weight[:, None] * gaussian.mean[0]).sum(0)
    apart = gaussian.mean[0] - mean
    covariance = (weight[:, None, None] * (gaussian.covariance_matrix[0] + apart[:, :, None] * apart[:, None])).sum(0)
    assert ((draws.mean(0) - mean).abs() < 5 * (covariance.diag() / 20_000).sqrt()).all()
    torch.testing.assert_close(likelihood.mean(row)[0], mean, rtol=1e-12, atol=1e-12)
    deviations = draws - draws.mean(0)
    products = deviations[:, :, None] * deviations[:, None]
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / 20_000**0.5).all()


def test_joint_mode_is_as_probable_as_any_point_but_for_its_weight() -> None:
    """No point of the plane is more than K times as probable as the mode, and no component's mean is more so."""
    likelihood = joint(2)
    points, _ = plane(81, reach=5.0)
    for row in outputs_of(likelihood, 10, seed=22):
        mode = likelihood.mode(row[None])
        at = likelihood.log_prob(row[None], mode, seen(mode)).sum().item()
        anywhere = likelihood.log_prob(repeated(row[None], len(points)), points, seen(points)).sum(1).max().item()
        _, means, _, _ = cast(JointMixture, only(likelihood)).parts(row[None])
        centers = likelihood.log_prob(repeated(row[None], 3), means[0], seen(means[0])).sum(1).max().item()
        assert anywhere <= at + math.log(3)
        assert centers <= at + 1e-12


@pytest.mark.parametrize("kind", ["mixture", "joint_mixture"])
def test_bias_has_the_mean_of_the_data_and_components_apart(kind: str) -> None:
    """Training starts from the mean of each feature, no two components being twins."""
    for components in (1, 2, 5):
        likelihood = of(column(kind, width=2, means=(0.5, -3.0), components=components))
        start = likelihood.bias().double()[None]
        torch.testing.assert_close(likelihood.mean(start), torch.tensor([[0.5, -3.0]], dtype=torch.float64))
        _, mean, _ = cast(Mixture, only(likelihood)).marginals(start)
        assert len(mean[0, 0].unique()) == components


@pytest.mark.parametrize("kind", ["mixture", "joint_mixture"])
def test_scales_never_fall_below_the_floor(kind: str) -> None:
    """Whatever the decoder says, no component is narrower than the resolution of the data."""
    likelihood = of(column(kind, width=2, floor=0.5))
    outputs = -1e6 * normal(20, sum(likelihood.outputs), seed=23).abs()
    _, _, scale = cast(Mixture, only(likelihood)).marginals(outputs)
    assert (scale >= 0.5).all()
