"""The laws of every distribution in the register; a class that joins it is held to them without a line here."""

from __future__ import annotations

import math
import sys
from functools import cache
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import (
    CONTINUOUS,
    DISCRETE,
    KINDS,
    cdf,
    column,
    drawn,
    normal,
    of,
    only,
    outputs_of,
    repeated,
    seeded,
    seen,
    support,
)
from scipy import stats
from torch import Tensor

from vae.config import CATEGORIES, COUNTS, LEVELS, REALS, Column, LikelihoodName
from vae.likelihoods import LIKELIHOODS, Columns, Gaussian

LEVEL = (1e-3, 0.05, 0.3, 0.5, 0.8, 0.95, 0.999)
DRAWS = 20_000
UNMEANT = ("categorical",)
"""Has no mean: its codes are not numbers."""
every = pytest.mark.parametrize("kind", KINDS)


def test_the_laws_are_of_all_likelihoods() -> None:
    """Meta: the register, the names in the settings and the parametrisation of the laws are one and the same set."""
    assert set(KINDS) == set(LIKELIHOODS) == set(get_args(LikelihoodName))
    assert set(KINDS) == {*REALS, *COUNTS, *LEVELS, *CATEGORIES} == {*CONTINUOUS, *DISCRETE}
    laws = [law for name, law in vars(sys.modules[__name__]).items() if name.startswith("test_every")]
    assert len(laws) > 15
    for law in laws:
        (over,) = (mark.args[1] for mark in law.pytestmark if mark.name == "parametrize" and mark.args[0] == "kind")
        assert set(over) in (set(KINDS), set(KINDS) - set(UNMEANT)), law.__name__


def total(kind: str, seed: int) -> float:
    """Sum or integral of p(x) over the support, at some outputs."""
    likelihood = of(column(kind))
    return support(likelihood, kind).mass(likelihood, outputs_of(likelihood, 1, seed=seed)).sum().item()


@every
@pytest.mark.parametrize("seed", range(3))
def test_every_distribution_sums_to_one(kind: str, seed: int) -> None:
    """p(x) sums, or integrates over x in original units, to 1."""
    assert total(kind, seed) == pytest.approx(1, abs=1e-11)


def test_a_forgotten_jacobian_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta: a Gaussian that gave its density per standardised unit would integrate to the unit, 2.5."""

    class Forgetful(Gaussian):
        def log_unit(self, values: Tensor) -> Tensor:
            return torch.zeros_like(values)

    monkeypatch.setitem(LIKELIHOODS, "gaussian", Forgetful)
    assert total("gaussian", 0) == pytest.approx(2.5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in UNMEANT])
def test_every_mean_is_the_sum_of_x_times_p(kind: str) -> None:
    """`units(mean)` is the integral or sum of units(x) p(x)."""
    likelihood = of(column(kind))
    row = outputs_of(likelihood, 1, seed=1)
    whole = support(likelihood, kind)
    expected = (likelihood.units(whole.values[:, None])[:, 0] * whole.mass(likelihood, row)).sum()
    mean = likelihood.units(likelihood.mean(row))[0, 0]
    assert mean.item() == pytest.approx(expected.item(), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in UNMEANT])
def test_every_deviation_is_the_root_of_the_variance(kind: str) -> None:
    """`deviation` squared is the integral or sum of (units(x) - E[x])^2 p(x), in original units."""
    likelihood = of(column(kind))
    row = outputs_of(likelihood, 1, seed=1)
    whole = support(likelihood, kind)
    x, mass = likelihood.units(whole.values[:, None])[:, 0], whole.mass(likelihood, row)
    expected = ((x - (x * mass).nansum()) ** 2 * mass).nansum().sqrt()  # infinity times 0
    nothing = torch.zeros_like(likelihood.mean(row))
    mean, deviation = likelihood.moments(row, nothing, nothing.bool())
    assert deviation[0, 0].item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(mean, likelihood.mean(row))


def test_a_deviation_that_is_none() -> None:
    """A t of two or fewer degrees of freedom has an infinite one; codes, which are no numbers, have NaN."""
    heavy = of(column("student_t"))
    with torch.no_grad():
        only(heavy).log_excess.fill_(-0.1)
    nothing = torch.zeros(1, 1, dtype=torch.float64)
    assert heavy.moments(nothing, nothing, nothing.bool())[1].item() == math.inf
    codes = of(column("categorical"))
    assert codes.moments(outputs_of(codes, 1, seed=0), nothing, nothing.bool())[1].isnan().all()


@every
def test_every_mode_is_most_probable(kind: str) -> None:
    """Nowhere is p(x) higher than at the mode: of codes, the known ones; of a joint mixture, but by its weights."""
    likelihood = of(column(kind))
    values = support(likelihood, kind).values[kind == "categorical" :, None]
    slack = math.log(column(kind).components) if kind == "joint_mixture" else 1e-12
    for row in outputs_of(likelihood, 20, seed=2):
        at = likelihood.log_prob(row[None], likelihood.mode(row[None]), seen(row[None, :1])).item()
        highest = likelihood.log_prob(repeated(row, len(values)), values, seen(values)).max().item()
        assert highest <= at + slack


@every
@pytest.mark.parametrize("level", LEVEL)
def test_every_quantile_inverts_the_cdf(kind: str, level: float) -> None:
    """P(X <= quantile) is the level; on whole numbers it is no less, and less one number before."""
    likelihood = of(column(kind))
    for row in outputs_of(likelihood, 3, seed=3):
        if kind == "categorical":
            row[0] = -math.inf  # the unknown code is left out
        quantile = likelihood.quantile(row[None], level)[0, 0]
        if kind in REALS:
            assert cdf(likelihood, kind, row, quantile) == pytest.approx(level, abs=1e-9)
        else:
            assert cdf(likelihood, kind, row, quantile - 1) < level <= cdf(likelihood, kind, row, quantile)


@every
def test_every_quantile_rises_with_its_level(kind: str) -> None:
    """A higher level never has a lower quantile, and the median lies between the extremes."""
    likelihood = of(column(kind))
    outputs = outputs_of(likelihood, 50, seed=4)
    quantiles = torch.stack([likelihood.quantile(outputs, level) for level in LEVEL])
    assert (quantiles.diff(dim=0) >= 0).all()


@every
def test_every_sample_has_its_distribution(kind: str) -> None:
    """Draws fall between quantiles as often as p(x) says: chi-square over all bins expected to hold ten or more."""
    likelihood = of(column(kind))
    row = outputs_of(likelihood, 1, seed=5)
    if kind == "categorical":
        row[0, 0] = -math.inf
    edges = torch.cat([likelihood.quantile(row, level)[:, 0] for level in torch.linspace(0.04, 0.96, 24).tolist()])
    edges = edges.unique()
    upto = torch.tensor([0.0, *(cdf(likelihood, kind, row, edge) for edge in edges), 1.0])
    expected = upto.double().diff() * DRAWS
    draws = drawn(likelihood, repeated(row, DRAWS), seed=6)[:, 0]
    found = torch.bincount(torch.bucketize(draws, edges), minlength=len(expected))
    kept = expected >= 10
    assert found[~kept].sum() <= expected[~kept].sum() + 10
    scaled = expected[kept] * found[kept].sum() / expected[kept].sum()
    if kept.sum() > 1:
        assert stats.chisquare(found[kept].numpy(), scaled.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in UNMEANT])
def test_every_sample_averages_to_the_mean(kind: str) -> None:
    """In original units the average of draws is the mean, within 4.5 standard errors."""
    likelihood = of(column(kind))
    for index, row in enumerate(outputs_of(likelihood, 3, seed=7)):
        draws = likelihood.units(drawn(likelihood, repeated(row, DRAWS), seed=index))
        mean = likelihood.units(likelihood.mean(row[None]))
        assert (draws.mean(0) - mean).abs().item() <= 4.5 * draws.std().item() / DRAWS**0.5


@every
def test_every_sample_repeats_with_its_generator(kind: str) -> None:
    """Equal generators give equal draws, others do not, and the global one is not touched."""
    likelihood = of(column(kind, width=2))
    outputs = outputs_of(likelihood, 40, seed=8)
    state = torch.get_rng_state()
    first, again, other = (drawn(likelihood, outputs, seed=seed) for seed in (13, 13, 14))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def in_support(kind: str, values: Tensor) -> bool:
    """Whether a column of this kind could hold these values."""
    if kind in REALS:
        return bool(values.isfinite().all())
    least, most = kind == "categorical", math.inf if kind in COUNTS else (column(kind).codes or 2) - 1
    return bool(((values == values.round()) & (values >= least) & (values <= most)).all())


@every
def test_every_value_given_back_is_one_that_is_taken(kind: str) -> None:
    """Draws, modes, quantiles, extremes and jittered values lie in the support; never is a code unknown."""
    likelihood = of(column(kind, width=2))
    outputs = 3 * outputs_of(likelihood, 300, seed=9)
    draws = drawn(likelihood, outputs, seed=10)
    uniform = torch.rand(draws.shape, generator=seeded(11), dtype=torch.float64)
    given_back = [
        draws,
        likelihood.mode(outputs),
        likelihood.quantile(outputs, 0.01),
        likelihood.quantile(outputs, 0.9),
    ]
    for values in (*given_back, likelihood.extreme(uniform), likelihood.jitter(draws, normal(300, 2, seed=12))):
        assert in_support(kind, values)


@every
def test_every_noise_respects_its_kind(kind: str) -> None:
    """Jitter moves reals by the noise and leaves whole numbers alone; salt and pepper are both ends."""
    likelihood = of(column(kind, low=0.0, high=4.0))
    values, noise = torch.ones(2, 1, dtype=torch.float64), normal(2, 1, seed=13)
    expected = values + noise if kind in REALS else values
    assert torch.equal(likelihood.jitter(values, noise), expected)
    ends = likelihood.extreme(torch.tensor([[0.0], [1 - 2**-53]], dtype=torch.float64))[:, 0].tolist()
    assert ends == {"categorical": [1, 4], "bernoulli": [0, 1]}.get(kind, [0, 4])


@every
def test_every_unit_rises_with_its_value(kind: str) -> None:
    """`units` is increasing, so that quantiles are the same in either scale; whole numbers are themselves."""
    likelihood = of(column(kind))
    values = torch.arange(5, dtype=torch.float64)[:, None]
    units = likelihood.units(values)
    assert (units.diff(dim=0) > 0).all()
    if kind not in REALS:
        assert torch.equal(units, values)


@every
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30, -1.0])
def test_every_missing_cell_does_not_exist(kind: str, garbage: float) -> None:
    """Whatever lies in missing cells, log p and gradients there are exactly 0, and all else is equal to the bit."""
    likelihood = of(column(kind, width=3, nullable=True), column(kind, name="y"))
    outputs = outputs_of(likelihood, 25, seed=14).requires_grad_()
    values = drawn(likelihood, outputs, seed=15)
    observed = torch.rand(values.shape, generator=seeded(16)) > 0.4
    observed[:3] = False
    spoilt = torch.where(observed, values, garbage)
    assert torch.equal(likelihood.embed(spoilt, observed), likelihood.embed(values, observed))
    log_prob = likelihood.log_prob(outputs, spoilt, observed)
    assert torch.equal(log_prob, likelihood.log_prob(outputs, values, observed))
    assert (log_prob[~observed] == 0).all()
    (gradient,) = torch.autograd.grad(log_prob.sum(), outputs)
    assert gradient.isfinite().all()
    assert (gradient[:3] == 0).all()


@every
def test_every_missing_row_teaches_nothing(kind: str) -> None:
    """Rows of missing cells leave exactly zero gradient on outputs and parameters."""
    likelihood = of(column(kind, width=2))
    values = torch.full((3, 2), math.nan, dtype=torch.float64)
    outputs = outputs_of(likelihood, 3, seed=17).requires_grad_()
    likelihood.log_prob(outputs, values, ~seen(values)).sum().backward()
    for learned in (outputs, *likelihood.parameters()):
        assert learned.grad is not None
        assert (learned.grad == 0).all()


@every
def test_every_embedding_is_small_and_empty_where_nothing_is(kind: str) -> None:
    """The encoder sees finite numbers of moderate size, zero for a missing cell, and distinct ones for others."""
    likelihood = of(column(kind))
    values = drawn(likelihood, outputs_of(likelihood, 200, seed=18), seed=19)
    embedded = likelihood.embed(values, seen(values))
    assert embedded.isfinite().all()
    assert embedded.abs().max() < 100
    assert len(embedded.unique(dim=0)) == len(values.unique())
    assert torch.equal(likelihood.embed(values, ~seen(values)), torch.zeros_like(embedded))


@every
def test_every_gradient_is_the_slope(kind: str) -> None:
    """Gradients of log p by outputs and by parameters are those of finite differences, missing cells included."""
    likelihood = of(column(kind, width=3))
    outputs = outputs_of(likelihood, 3, seed=20).requires_grad_()
    values = drawn(likelihood, outputs, seed=21)
    observed = torch.tensor([[True, True, True], [True, False, True], [False, False, True]])

    def log_prob(outputs: Tensor, *parameters: Tensor) -> Tensor:
        return likelihood.log_prob(outputs, values, observed)

    assert torch.autograd.gradcheck(log_prob, (outputs, *likelihood.parameters()), atol=1e-7, rtol=1e-6)


@every
def test_every_likelihood_is_as_good_in_float32(kind: str) -> None:
    """In single precision log p errs by less than 1e-4 nats, and without bias: less than 5e-6 on average."""
    wide = {"codes": 256} if kind in LEVELS else {}
    single = Columns([column(kind, width=2, **wide)])
    double = Columns([column(kind, width=2, **wide)]).double()
    outputs = (single.bias() + normal(2000, sum(single.outputs), seed=22)).float()
    values = drawn(single, outputs, seed=23)
    error = single.log_prob(outputs, values, seen(values)) - double.log_prob(
        outputs.double(), values.double(), seen(values)
    )
    assert error.abs().max().item() < 1e-4
    assert abs(error.mean().item()) < 5e-6


@every
def test_every_block_is_its_columns(kind: str) -> None:
    """Columns with settings of their own side by side in one block are what each is alone."""
    coded = column(kind).codes
    columns = [
        column(kind, name="a", means=(0.5,), **({"codes": 3} if coded else {})),
        column(kind, name="b", width=2, **({"scale": 0.5, "center": 4.0} if kind in REALS else {})),
        column(kind, name="c", **({"codes": 9} if coded else {"floor": 0.5} if kind in REALS else {})),
    ]
    if kind == "joint_mixture":
        columns = [Column(**{**vars(each), "group": each.name}) for each in columns]
    whole = of(*columns)
    outputs, first_output, first_feature = outputs_of(whole, 30, seed=24), 0, 0
    values = drawn(whole, outputs, seed=25)
    observed = torch.rand(values.shape, generator=seeded(26)) > 0.2
    for index, each in enumerate(columns):
        alone = taken_from(whole, index, each)
        mine = slice(first_output, first_output + sum(alone.outputs))
        cells = slice(first_feature, first_feature + each.width)
        first_output, first_feature = mine.stop, cells.stop
        part, value, there = outputs[:, mine], values[:, cells], observed[:, cells]
        close(whole.log_prob(outputs, values, observed)[:, cells], alone.log_prob(part, value, there))
        close(whole.mean(outputs)[:, cells], alone.mean(part))
        close(whole.mode(outputs)[:, cells], alone.mode(part))
        close(whole.quantile(outputs, 0.7)[:, cells], alone.quantile(part, 0.7))
        close(whole.units(values)[:, cells], alone.units(value))
        close(whole.bias()[mine], alone.bias())


def taken_from(whole: Columns, index: int, column: Column) -> Columns:
    """One column alone, with the parameters that it has in the block it came from."""
    alone = Columns([column]).double()
    for mine, theirs in zip(alone.parameters(), whole.parameters(), strict=True):
        row = theirs.detach()[index : index + 1]
        mine.data.copy_(row[:, : mine.shape[1]] if mine.dim() > 1 else row)
    return alone


def close(found: Tensor, expected: Tensor) -> None:
    """Equal but for the order of float64 additions."""
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@every
def test_every_constant_is_left_out_of_what_is_saved(kind: str) -> None:
    """A checkpoint holds what was learned; what the settings determine follows them, and any change of type."""
    likelihood = Columns([column(kind)])
    assert set(likelihood.state_dict()) == {name for name, _ in likelihood.named_parameters()}
    floating = [buffer for buffer in likelihood.double().buffers() if buffer.is_floating_point()]
    assert {buffer.dtype for buffer in floating} == {torch.float64}


@every
def test_every_likelihood_takes_no_rows(kind: str) -> None:
    """A batch of no rows is a batch: a worker may get none."""
    likelihood = of(column(kind, width=2))
    outputs, values = normal(0, sum(likelihood.outputs), seed=0), normal(0, 2, seed=0)
    assert likelihood.embed(values, seen(values)).shape == (0, likelihood.width)
    for answer in (
        likelihood.log_prob(outputs, values, seen(values)),
        likelihood.mean(outputs),
        likelihood.mode(outputs),
        drawn(likelihood, outputs, seed=0),
        likelihood.quantile(outputs, 0.5),
    ):
        assert answer.shape == (0, 2)


@every
@pytest.mark.parametrize("mean", [0.0, 1.0, 4.0])
def test_every_bias_is_finite_at_the_ends(kind: str, mean: float) -> None:
    """Of a constant column, at either end of the scale, training starts from finite outputs and log-probabilities."""
    mean = min(mean, 1.0) if kind == "bernoulli" else mean
    hot = tuple(float(code == mean) for code in range(5)) if kind in ("categorical", "ordinal") else ()
    likelihood = of(column(kind, means=(mean,), rates=hot))
    value = torch.tensor([[mean]], dtype=torch.float64)
    assert likelihood.bias().isfinite().all()
    assert likelihood.log_prob(likelihood.bias().double()[None], value, seen(value)).isfinite().all()


HUGE = 2.0**127
ANY = st.floats(-HUGE, HUGE, width=32) | st.sampled_from([0.0, 1.0, -1.0, 90.0, -90.0, 1e9, 1e18, -1e18, HUGE, -HUGE])
WHOLE = st.integers(0, 10**15) | st.sampled_from([0, 1, 2**24, 10**15])


def cells(kind: str) -> st.SearchStrategy[float]:
    """Any value that a column of this kind could hold."""
    if kind in REALS:
        return ANY
    return WHOLE if kind in COUNTS else st.integers(0, (column(kind).codes or 2) - 1)


@cache
def single(kind: str) -> Columns:
    """Two features of a kind in float32, the precision of training."""
    return Columns([column(kind, width=2)])


def pushed(kind: str, data: st.DataObject) -> tuple[Columns, Tensor]:
    """Two features of a kind in float32, their parameters pushed far by training, and any outputs."""
    likelihood = single(kind)
    push, width = data.draw(st.sampled_from([0.0, 0.0, 20.0, -20.0, 1e6, -1e6])), sum(likelihood.outputs)
    for parameter in likelihood.parameters():
        parameter.data.fill_(push)
    return likelihood, torch.tensor([data.draw(st.lists(ANY, min_size=width, max_size=width))])


def any_example(examples: int) -> settings:
    """The same examples every time, kept nowhere."""
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


@every
@any_example(50)
@given(data=st.data())
def test_every_answer_is_finite(kind: str, data: st.DataObject) -> None:
    """For any float32 outputs, values and parameters, however extreme, every answer and gradient is finite."""
    likelihood, outputs = pushed(kind, data)
    values = torch.tensor([data.draw(st.lists(cells(kind), min_size=2, max_size=2))]).float()
    log_prob = likelihood.log_prob(outputs.requires_grad_(), values, seen(values))
    gradients = torch.autograd.grad(log_prob.sum(), (outputs, *likelihood.parameters()))
    answers = (likelihood.mean(outputs), likelihood.mode(outputs), drawn(likelihood, outputs, seed=0))
    for answer in (log_prob, likelihood.embed(values, seen(values)), *answers, *gradients):
        assert answer.isfinite().all()


@every
@any_example(8)
@given(data=st.data())
def test_every_quantile_is_finite(kind: str, data: st.DataObject) -> None:
    """Quantiles too are finite whatever the outputs and parameters."""
    likelihood, outputs = pushed(kind, data)
    assert likelihood.quantile(outputs, data.draw(st.sampled_from([1e-3, 0.5, 0.999]))).isfinite().all()
