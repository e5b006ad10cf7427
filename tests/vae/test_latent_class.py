"""Latent classes: exact mixtures of independent columns, and their EM."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from family import EVERY, table
from sklearn.mixture import GaussianMixture
from torch import Generator, Tensor
from torch.distributions import Normal, Poisson

from vae import latent_class
from vae.config import COUNTS, REALS, Column, ModelConfig, Network
from vae.latent_class import LatentClass

WIDE = (
    Column(name="x", likelihood="gaussian", width=3, scale=2.0),
    Column(name="y", likelihood="student_t", scale=0.5),
)


def seen(values: Tensor) -> Tensor:
    """Nothing is missing."""
    return torch.ones_like(values, dtype=torch.bool)


def owners(columns: tuple[Column, ...]) -> list[Column]:
    """The column of each feature."""
    return [column for column in columns for _ in range(column.width)]


def mixed(rows: int = 200) -> tuple[Tensor, Tensor]:
    """Rows of the whole family, a third of the nullable cells missing."""
    return table(ModelConfig(columns=EVERY, network=Network()), rows)


def clusters(rows: int = 600) -> Tensor:
    """Two clouds over the four features of WIDE, the second twice as likely and at 3."""
    generator = Generator().manual_seed(0)
    second = torch.rand(rows, 1, generator=generator, dtype=torch.float64) < 2 / 3
    return torch.randn(rows, 4, generator=generator, dtype=torch.float64) * 0.5 + 3 * second


def only(feature: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the whole family in which nothing but one feature is there."""
    rows = torch.zeros(len(values), len(owners(EVERY)), dtype=torch.float64)
    rows[:, feature] = values
    mask = torch.zeros_like(rows, dtype=torch.bool)
    mask[:, feature] = True
    return rows, mask


def test_one_class_is_the_independence_of_all_columns() -> None:
    """Normal reals in original units, Poisson counts, frequencies with one more of each code: torch's own."""
    values, observed = mixed()
    found = latent_class.fit(EVERY, values, observed, classes=1).log_prob(values, observed)
    expected = torch.zeros(len(values), dtype=torch.float64)
    for feature, column in enumerate(owners(EVERY)):
        x, there = values[:, feature], observed[:, feature]
        cells = x[there]
        if column.likelihood in REALS:
            units = column.center + column.scale * x if column.likelihood == "log_normal" else 0.0
            each = Normal(cells.mean(), cells.std(correction=0)).log_prob(x) - math.log(column.scale) - units
        elif column.likelihood in COUNTS:
            each = Poisson(cells.mean()).log_prob(x)
        else:
            counts = torch.bincount(cells.long(), minlength=column.codes or 2).double() + 1
            each = (counts / counts.sum()).log()[x.long()]
        expected += torch.where(there, each, 0.0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("feature", range(len(owners(EVERY))))
def test_every_margin_is_a_distribution(feature: int) -> None:
    """It sums, or integrates over original units, to 1: of a table with fewer codes than its neighbours, too."""
    values, observed = mixed(60)
    found = latent_class.fit(EVERY, values, observed, classes=3, seed=1)
    column = owners(EVERY)[feature]
    if column.likelihood in REALS:
        v = torch.linspace(-20, 20, 20001, dtype=torch.float64)
        x = column.center + column.scale * v
        mass = torch.trapezoid(
            found.log_prob(*only(feature, v)).exp(), x.exp() if column.likelihood == "log_normal" else x
        )
    else:
        most = 300 if column.likelihood in COUNTS else column.codes or 2
        mass = found.log_prob(*only(feature, torch.arange(most, dtype=torch.float64))).exp().sum()
    assert mass.item() == pytest.approx(1, abs=1e-6)


def goal(model: LatentClass, values: Tensor, observed: Tensor) -> float:
    """What EM climbs: the log-likelihood, and the logarithm of the tables' prior, a K-th of each code per class."""
    rates = model.log_rates[model.log_rates.isfinite()].sum() / len(model.log_weight)
    return float(model.log_prob(values, observed).sum() + rates)


@pytest.mark.parametrize("seed", range(3))
def test_em_never_climbs_down(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Each step is at least as likely as the one before, missing cells and all."""
    values, observed = mixed()
    path = []
    for steps in range(0, 24, 2):
        monkeypatch.setattr(latent_class, "ITERATIONS", steps)
        path.append(goal(latent_class.fit(EVERY, values, observed, classes=3, seed=seed), values, observed))
    assert all(after >= before - 1e-6 for before, after in pairwise(path)), path
    assert path[-1] > path[0] + 10


def test_a_planted_mixture_is_found() -> None:
    """Weights, means and spreads of two clouds, in standardised units; a row knows its cloud."""
    values = clusters()
    found = latent_class.fit(WIDE, values, seen(values), classes=2)
    one, two = found.mean[:, 0].argsort().tolist()
    assert found.log_weight.exp()[[one, two]].tolist() == pytest.approx([1 / 3, 2 / 3], abs=0.05)
    torch.testing.assert_close(found.mean[one], torch.zeros(4).double(), rtol=0, atol=0.12)
    torch.testing.assert_close(found.mean[two], torch.full((4,), 3.0).double(), rtol=0, atol=0.12)
    torch.testing.assert_close(found.variance, torch.full((2, 4), 0.25).double(), rtol=0, atol=0.06)
    share = found.joint(values, seen(values)).softmax(1)[:, two]
    assert ((share > 0.5) == (values.mean(1) > 1.5)).all()


def test_planted_codes_and_counts_are_found() -> None:
    """Two kinds of rows that differ in what they count and in what they are called."""
    generator = Generator().manual_seed(1)
    kind = torch.rand(800, generator=generator) < 0.4
    visits = torch.poisson(torch.where(kind, 2.0, 12.0), generator=generator)
    city = torch.where(torch.rand(800, generator=generator) < 0.9, torch.where(kind, 1.0, 2.0), 3.0)
    values = torch.stack([visits, city], 1).double()
    columns = (Column(name="visits", likelihood="poisson"), Column(name="city", likelihood="categorical", codes=4))
    found = latent_class.fit(columns, values, seen(values), classes=2)
    few, many = found.mean[:, 0].argsort().tolist()
    assert found.mean[[few, many], 0].tolist() == pytest.approx([2, 12], rel=0.1)
    assert found.log_weight.exp()[few].item() == pytest.approx(0.4, abs=0.05)
    assert found.log_rates[few, 1].exp().tolist() == pytest.approx([0, 0.9, 0, 0.1], abs=0.05)
    assert found.log_rates[many, 1].exp().tolist() == pytest.approx([0, 0, 0.9, 0.1], abs=0.05)


def test_on_reals_it_is_scikit_learns_diagonal_gaussian_mixture() -> None:
    """The same parameters give every row the same density; in original units, less the units' logarithms."""
    values = clusters()
    found = latent_class.fit(WIDE, values, seen(values), classes=3, seed=2)
    theirs = GaussianMixture(3, covariance_type="diag")
    theirs.weights_, theirs.means_ = found.log_weight.exp().numpy(), found.mean.numpy()
    theirs.covariances_ = found.variance.numpy()
    theirs.precisions_cholesky_ = theirs.covariances_**-0.5
    units = 3 * math.log(2.0) + math.log(0.5)
    expected = torch.from_numpy(theirs.score_samples(values.numpy())) - units
    torch.testing.assert_close(found.log_prob(values, seen(values)), expected)


def test_missing_cells_are_summed_over() -> None:
    """A row without a code is the sum over that code, whatever the cell holds; a row of nothing has probability 1."""
    values, observed = mixed()
    found = latent_class.fit(EVERY, values, observed, classes=3)
    holes = torch.where(observed, values, math.nan)
    torch.testing.assert_close(found.log_prob(holes, observed), found.log_prob(values, observed))
    again = latent_class.fit(EVERY, holes, observed, classes=3)
    torch.testing.assert_close(again.log_rates, found.log_rates)
    nothing = found.log_prob(values, torch.zeros_like(observed))
    torch.testing.assert_close(nothing, torch.zeros_like(nothing))
    row, there = values[:1], torch.ones_like(observed[:1])
    without = there.clone()
    without[0, 1] = False
    rows = row.repeat(4, 1)
    rows[:, 1] = torch.arange(4)
    total = found.log_prob(rows, there.expand_as(rows)).logsumexp(0)
    assert total.item() == pytest.approx(found.log_prob(row, without).item())


def test_the_seed_decides() -> None:
    """The same seed is the same model to the bit; the program's own randomness is left alone."""
    values, observed = mixed()
    before = torch.random.get_rng_state()
    one, again, other = (latent_class.fit(EVERY, values, observed, classes=3, seed=it) for it in (4, 4, 5))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.mean, again.mean)
    assert torch.equal(one.log_weight, again.log_weight)
    assert not torch.equal(one.mean, other.mean)


@pytest.mark.parametrize("classes", [1, 4])
def test_what_hardly_varies_is_finite(classes: int) -> None:
    """One row, fewer rows than classes, constant columns, a column that nobody has: no NaN and no log of 0."""
    values, observed = mixed(40)
    constant = values[:1].expand(40, -1)
    gone = observed.clone()
    gone[:, ::2] = False
    for rows, mask in ((values[:1], observed[:1]), (values[:3], observed[:3]), (constant, observed), (values, gone)):
        found = latent_class.fit(EVERY, rows, mask, classes=classes)
        assert found.log_prob(values, observed).isfinite().all()
        assert found.log_prob(rows, mask).isfinite().all()
    assert (found.variance >= found.kinds.floor**2)[:, found.kinds.real].all()


def test_many_rows_are_read_in_parts() -> None:
    """More than one part of 4,096: the same answers as row by row."""
    values = clusters(5000)
    found = latent_class.fit(WIDE, values, seen(values), classes=2)
    whole = found.log_prob(values, seen(values))
    torch.testing.assert_close(found.log_prob(values[4090:4100], seen(values[4090:4100])), whole[4090:4100])
