"""The incomplete beta function: SciPy's, its symmetries, its ends."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from laws import normal
from scipy import special, stats
from torch import Tensor

from vae.likelihoods.likelihood import smallest
from vae.likelihoods.special import betainc, betaincinv, log_beta


def triples(largest: float, *, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, x) with a and b from a thousandth to `largest`, x anywhere and where the function rises."""
    random = np.random.default_rng(seed)
    a, b = 10 ** random.uniform(-3, np.log10(largest), (2, 500))
    anywhere, level = random.random((2, 500))
    rising = special.betaincinv(a, b, level)
    return a, b, np.where(random.random(500) < 0.4, anywhere, rising).clip(1e-300, 1 - 1e-16)


def ours(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Ours, of arrays."""
    return betainc(*(torch.from_numpy(part.copy()) for part in (a, b, x))).numpy()


@pytest.mark.parametrize(("largest", "error"), [(1e2, 1e-13), (1e3, 2e-13), (1e4, 2e-12), (1e6, 2e-10)])
def test_betainc_is_scipys(largest: float, error: float) -> None:
    """Over ten orders of magnitude of a, b and x the function is SciPy's, as closely as the docstring says."""
    a, b, x = triples(largest, seed=int(largest))
    np.testing.assert_allclose(ours(a, b, x), special.betainc(a, b, x), rtol=0, atol=error)


def test_betainc_is_relatively_exact_where_it_is_small() -> None:
    """Far in the lower tail, where the function is 1e-200, its digits are right too."""
    a, b, x = np.array([50.0, 300.0, 2.0]), np.array([3.0, 7.0, 900.0]), np.array([1e-4, 0.2, 1e-90])
    np.testing.assert_allclose(ours(a, b, x), special.betainc(a, b, x), rtol=1e-11)


def test_betainc_is_symmetric() -> None:
    """I_x(a, b) = 1 - I_{1-x}(b, a)."""
    a, b, x = triples(1e3, seed=1)
    x = np.round(x * 2**40).clip(1, 2**40 - 1) / 2**40  # so that 1 - x is exact
    np.testing.assert_allclose(ours(a, b, x), 1 - ours(b, a, 1 - x), rtol=0, atol=2e-12)


def test_betainc_of_one_is_a_power() -> None:
    """I_x(a, 1) = x^a, and I_x(1, b) = 1 - (1 - x)^b."""
    a, _, x = triples(1e3, seed=2)
    one = np.ones_like(a)
    np.testing.assert_allclose(ours(a, one, x), x**a, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(ours(one, a, x), -np.expm1(a * np.log1p(-x)), rtol=0, atol=1e-12)


def test_betainc_ends_at_zero_and_one() -> None:
    """I_0 = 0 and I_1 = 1 exactly, and between them it never falls."""
    a, b, _ = triples(1e4, seed=3)
    assert (ours(a, b, np.zeros_like(a)) == 0).all()
    assert (ours(a, b, np.ones_like(a)) == 1).all()
    x = torch.linspace(0, 1, 2001, dtype=torch.float64)
    rising = betainc(torch.full_like(x, 7.5), torch.full_like(x, 0.3), x)
    assert (rising.diff() >= -1e-15).all()


def _log_beta(a: mpmath.mpf, b: mpmath.mpf) -> mpmath.mpf:
    return mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)


def test_log_beta_is_exact() -> None:
    """log B(a, b) is that of arithmetic with 50 digits to 1e-13 of its size, from a thousandth to 1e15."""
    a, b = 10 ** np.random.default_rng(4).uniform(-3, 15, (2, 500))
    b[:150] = a[:150] * np.linspace(0.5, 2, 150)
    with mpmath.workdps(50):
        expected = np.array([float(_log_beta(*map(mpmath.mpf, pair))) for pair in zip(a, b, strict=True)])
    found = log_beta(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert (np.abs(found - expected) / np.abs(expected).clip(1)).max() < 1e-13
    assert np.array_equal(log_beta(torch.from_numpy(b), torch.from_numpy(a)).numpy(), found)


def test_log_beta_of_two_large_numbers_is_not_a_difference() -> None:
    """B(1, b) = 1 / b and B(2, b) = 1 / (b (b + 1)), also where log G(b) is 1e17."""
    b = torch.logspace(-3, 15, 200, dtype=torch.float64)
    one = torch.ones_like(b)
    torch.testing.assert_close(log_beta(one, b), -b.log(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(log_beta(2 * one, b), -b.log() - (b + 1).log(), rtol=1e-13, atol=1e-13)


def test_log_beta_has_its_gradient() -> None:
    """Gradients are those of finite differences, on both sides of where Stirling's series takes over."""
    a = torch.tensor([0.3, 7.0, 49.0, 51.0, 400.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([2.0, 60.0, 1e-2, 3.0, 500.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_beta, (a, b))


@pytest.mark.parametrize("level", [1e-9, 0.1, 0.9])
def test_betaincinv_is_the_inverse(level: float) -> None:
    """I_x(a, b) of the x that is found is the level, and x is SciPy's."""
    a, b, _ = triples(1e3, seed=5)
    kept = special.betaincinv(a, b, level) < 0.999
    a, b = a[kept], b[kept]
    x = betaincinv(torch.from_numpy(a), torch.from_numpy(b), level).numpy()
    far = x > 1e-20
    np.testing.assert_allclose(ours(a, b, x)[far], level, rtol=1e-8)
    np.testing.assert_allclose(x, special.betaincinv(a, b, level), rtol=1e-7, atol=1e-29)


def test_betainc_keeps_shapes() -> None:
    """Any shape goes in and comes out, of no elements too."""
    for shape in ((), (0,), (3, 1, 2)):
        half = torch.full(shape, 0.5, dtype=torch.float64)
        assert betainc(half, half, half).shape == shape


@pytest.mark.parametrize("level", [1e-6, 1e-3, 0.5, 0.999, 1 - 1e-6])
def test_smallest_is_the_smallest(level: float) -> None:
    """Bisection ends where the level is reached and was not before, from a guess too small, too large or right."""
    mean = torch.tensor([[1e-6, 0.1, 3.0, 700.0, 1e5, 3e8]], dtype=torch.float64)

    def cdf(count: Tensor) -> Tensor:
        return torch.from_numpy(stats.poisson.cdf(count.numpy(), mean.numpy()))

    for start in (mean, torch.zeros_like(mean), torch.full_like(mean, 1e9), 5 + 3 * normal(1, 6, seed=4).abs()):
        found = smallest(cdf, level, start=start)
        assert (cdf(found) >= level).all()
        assert (cdf(found - 1) < level).all()
        assert not found.signbit().any()
