"""The rival: an exact likelihood, in the units of the table, of every kind of column."""

from __future__ import annotations

import math

import pytest
import torch
from family import EVERY, table
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal, NegativeBinomial, Normal, Poisson

from vae import ppca, rival
from vae.config import Column, ModelConfig, Network
from vae.rival import Rival

REAL = (
    Column(name="price", likelihood="gaussian", width=2, scale=250.0, center=3.0),
    Column(name="income", likelihood="log_normal", center=2.0, scale=0.5),
    Column(name="change", likelihood="student_t", scale=0.125),
)
TABLES = (
    Column(name="sold", likelihood="bernoulli"),
    Column(name="city", likelihood="categorical", codes=4),
    Column(name="size", likelihood="ordinal", codes=3),
    Column(name="stars", likelihood="binomial", codes=6),
    Column(name="pixel", likelihood="discretised_logistic", codes=16),
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal float64."""
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def seen(values: Tensor) -> Tensor:
    """Nothing is missing."""
    return torch.ones_like(values, dtype=torch.bool)


def alone(column: Column, cells: list[float]) -> Rival:
    """Fitted to one column without gaps."""
    values = torch.tensor(cells, dtype=torch.float64)[:, None]
    return rival.fit([column], values, seen(values), latent=1)


def log_prob(found: Rival, cells: Tensor) -> Tensor:
    """Of rows of one feature."""
    return found.log_prob(cells[:, None], seen(cells[:, None]))


def mixed(rows: int = 300) -> tuple[Tensor, Tensor, Rival]:
    """A table of the whole family with gaps, and its fit."""
    values, observed = table(ModelConfig(columns=EVERY, network=Network()), rows)
    return values, observed, rival.fit(EVERY, values, observed, latent=2)


def test_reals_are_a_ppca_in_original_units() -> None:
    """log p(x) = log p(v) - sum log |dx / dv|, where x = center + scale v, or exp of that."""
    values = normal(200, 4) @ normal(4, 4, seed=1)
    found = rival.fit(REAL, values, seen(values), latent=2)
    x = torch.exp(2.0 + 0.5 * values[:, 2])
    units = 2 * math.log(250.0) + (0.5 * x).log() + math.log(0.125)
    expected = ppca.fit(values, latent=2, floor=REAL[0].floor).log_prob(values) - units
    torch.testing.assert_close(found.log_prob(values, seen(values)), expected)


@pytest.mark.parametrize("column", REAL[1:], ids=lambda it: it.likelihood)
def test_densities_integrate_to_one_over_original_units(column: Column) -> None:
    """A log-normal's too, over positive numbers."""
    found = alone(column, normal(50).tolist())
    v = torch.linspace(-30, 30, 20001, dtype=torch.float64)
    x = column.center + column.scale * v
    x = x.exp() if column.likelihood == "log_normal" else x
    assert torch.trapezoid(log_prob(found, v).exp(), x).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("column", TABLES, ids=lambda it: it.likelihood)
def test_tables_are_frequencies_that_sum_to_one(column: Column) -> None:
    """(count + 1) / (rows + codes): no code is impossible, seen or not."""
    codes = column.codes or 2
    found = log_prob(alone(column, [1.0, 1.0, 0.0, 1.0]), torch.arange(codes, dtype=torch.float64)).exp()
    counts = torch.zeros(codes, dtype=torch.float64)
    counts[:2] = torch.tensor([1.0, 3.0])
    torch.testing.assert_close(found, (counts + 1) / (4 + codes))
    assert found.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_counts_are_the_likeliest_negative_binomial(name: str) -> None:
    """It sums to 1 with the mean of the training rows, and no other dispersion of torch's makes them likelier."""
    cells = torch.tensor([0, 3, 1, 9, 2, 0, 14, 5], dtype=torch.float64)
    found = alone(Column(name="x", likelihood=name), cells.tolist())
    support = torch.arange(3000, dtype=torch.float64)
    mass = log_prob(found, support).exp()
    mean = (mass * support).sum()
    assert mass.sum().item() == pytest.approx(1)
    assert mean.item() == pytest.approx(cells.mean().item())
    others = [NegativeBinomial(r, logits=(mean / r).log()).log_prob(cells).sum() for r in torch.logspace(-3, 6, 1000)]
    assert log_prob(found, cells).sum().item() == pytest.approx(max(others).item(), abs=1e-3)


@pytest.mark.parametrize("cells", [[3.0, 3.0, 3.0], [2.0, 3.0, 4.0]])
def test_counts_that_vary_less_are_a_poisson(cells: list[float]) -> None:
    """A negative binomial's variance is no smaller than its mean; constant counts are no division by zero."""
    support = torch.arange(12, dtype=torch.float64)
    found = log_prob(alone(Column(name="x", likelihood="poisson"), cells), support)
    mean = torch.tensor(cells, dtype=torch.float64).mean()
    torch.testing.assert_close(found, Poisson(mean).log_prob(support), rtol=1e-3, atol=1e-3)


def test_counts_that_are_all_zero_stay_a_distribution() -> None:
    """Zeros alone leave other counts unlikely, not impossible."""
    found = log_prob(alone(Column(name="x", likelihood="poisson"), [0.0, 0.0]), torch.arange(3000.0).double())
    assert found.isfinite().all()
    assert found[0].item() > math.log(0.99)
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-3)


def test_columns_may_stand_in_any_order() -> None:
    """pPCA among counts and codes: whose feature is whose does not depend on what lies beside it."""
    values, observed, found = mixed()
    names = [column.name for column in EVERY]
    parts = dict(zip(names, values.split([it.width for it in EVERY], 1), strict=True))
    masks = dict(zip(names, observed.split([it.width for it in EVERY], 1), strict=True))
    turned = EVERY[::-1]
    x, mask = (torch.cat([part[it.name] for it in turned], 1) for part in (parts, masks))
    again = rival.fit(turned, x, mask, latent=2).log_prob(x, mask)
    torch.testing.assert_close(again, found.log_prob(values, observed), rtol=1e-4, atol=1e-3)


def test_a_row_is_the_product_of_ppca_and_independent_features() -> None:
    """Each feature that is no real adds its own log-probability, and nothing else."""
    values, observed, found = mixed()
    whole = found.log_prob(values, observed)
    total = found.log_prob(values, observed & found.real)
    for feature in (~found.real).nonzero().flatten().tolist():
        only = torch.zeros_like(observed)
        only[:, feature] = observed[:, feature]
        total += found.log_prob(values, only)
    torch.testing.assert_close(total, whole)


def test_missing_cells_are_left_out_whatever_they_hold() -> None:
    """The margin of a code is the sum over its values, that of a real the integral; of nothing it is 1."""
    values, observed, found = mixed()
    torch.testing.assert_close(
        found.log_prob(torch.where(observed, values, math.nan), observed), found.log_prob(values, observed)
    )
    assert not found.log_prob(values, torch.zeros_like(observed)).any()
    row, there = values[:1], torch.ones_like(observed[:1])
    for feature, support in ((1, torch.arange(4.0)), (0, torch.linspace(-30, 30, 4001))):
        without = there.clone()
        without[0, feature] = False
        rows = row.repeat(len(support), 1)
        rows[:, feature] = support
        each = found.log_prob(rows, there.expand_as(rows)).exp()
        unit = EVERY[0].scale if feature == 0 else 1.0
        margin = each.sum() if feature else torch.trapezoid(each, support.double() * unit)
        assert margin.log().item() == pytest.approx(found.log_prob(row, without).item(), rel=1e-6)


def test_enough_dimensions_are_the_gaussian_with_a_full_covariance() -> None:
    """As many latent dimensions as reals, or more: mean and covariance of the rows themselves."""
    values = normal(100, 4) @ normal(4, 4, seed=1)
    columns = [Column(name="x", likelihood="gaussian", width=4)]
    found = rival.fit(columns, values, seen(values), latent=9).log_prob(values, seen(values))
    exact = MultivariateNormal(values.mean(0), torch.cov(values.T, correction=0))
    torch.testing.assert_close(found, exact.log_prob(values))


COUNTED = (Column(name="x", likelihood="binomial", codes=4), Column(name="y", likelihood="bernoulli"))
MASS = torch.tensor([[0.1, 0.05], [0.3, 0.05], [0.1, 0.2], [0.02, 0.18]], dtype=torch.float64)
"""P(x, y)."""


def drawn(rows: int, *, seed: int) -> Tensor:
    """Rows of (x, y)."""
    code = torch.multinomial(MASS.flatten(), rows, replacement=True, generator=Generator().manual_seed(seed))
    return torch.stack([code // 2, code % 2], 1).double()


@pytest.mark.parametrize("latent", [1, 2])
def test_a_dequantised_density_is_a_bound_on_the_probability(latent: int) -> None:
    """E_u log q(x + u) <= log P_q(x), and the mean of that is no better than the true pmf's (Theis et al. 2016)."""
    rows = drawn(20_000, seed=1)
    noisy = rival.dequantise(COUNTED, rows, generator=Generator().manual_seed(2))
    found = rival.fit(COUNTED, noisy, seen(noisy), latent=latent, dequantised=True)
    codes = (rows[:, 0] * 2 + rows[:, 1]).long()
    density, truth = found.log_prob(noisy, seen(noisy)), MASS.flatten().log()[codes]
    assert density.mean() < truth.mean()
    assert density.mean() > truth.mean() - 1
    for code in range(8):
        mass = density[codes == code].exp().mean()
        assert density[codes == code].mean() <= mass.log()


def test_a_dequantised_feature_has_a_normal_of_its_moments() -> None:
    """Zeros and ones with noise: variance p (1 - p) + 1/12, well below the distance of two codes."""
    rows = drawn(50_000, seed=3)[:, 1:]
    noisy = rival.dequantise(COUNTED[1:], rows, generator=Generator().manual_seed(4))
    found = rival.fit(COUNTED[1:], noisy, seen(noisy), latent=1, dequantised=True)
    expected = Normal(noisy.mean(), noisy.std(correction=0)).log_prob(noisy)[:, 0]
    torch.testing.assert_close(found.log_prob(noisy, seen(noisy)), expected)
    assert noisy.var().item() == pytest.approx(0.48 * 0.52 + 1 / 12, rel=0.02)


def test_noise_is_added_to_whole_numbers_only() -> None:
    """Reals have none to gain, and a categorical's codes no order; the generator decides."""
    values, _, _ = mixed(20)
    noisy, again = (rival.dequantise(EVERY, values, generator=Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(noisy, again)
    owners = [column for column in EVERY for _ in range(column.width)]
    for feature, column in enumerate(owners):
        added = noisy[:, feature] - values[:, feature]
        if column.likelihood in ("poisson", "negative_binomial", "binomial", "discretised_logistic", "bernoulli"):
            assert ((added >= 0) & (added < 1)).all()
            assert added.std() > 0.1
        elif column.likelihood != "ordinal":
            assert not added.any(), column.name


def test_what_hardly_varies_is_finite() -> None:
    """One row, constant columns, a column that nobody has: no NaN, and no infinite surprise."""
    values, observed = table(ModelConfig(columns=EVERY, network=Network()), 40)
    strange = values.clone()
    strange[:, :8] = strange[0, :8]
    gone = observed.clone()
    gone[:, ::2] = False
    for rows, mask in ((values[:1], observed[:1]), (strange, observed), (values, gone)):
        found = rival.fit(EVERY, rows, mask, latent=2)
        assert found.log_prob(values, observed).isfinite().all()
