"""Bernoulli, categorical and ordinal: softmaxes and cumulative logits, the unknown code, marginals at the start."""

from __future__ import annotations

from itertools import product
from typing import cast

import pytest
import torch
from laws import column, drawn, normal, of, only, outputs_of, repeated, seen, support, whole
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from vae.config import Column
from vae.likelihoods import Columns, Ordinal

SIDE_BY_SIDE = (
    column("categorical", name="a", codes=2),
    column("categorical", name="b", codes=5),
    column("categorical", name="c", codes=3, width=2),
    column("categorical", name="d", codes=7),
)
CODES = (2, 5, 3, 3, 7)


def codes_of(codes: tuple[int, ...], rows: int) -> Tensor:
    """Any codes, unknown ones included."""
    generator = torch.Generator().manual_seed(5)
    return torch.cat([torch.randint(0, most, (rows, 1), generator=generator) for most in codes], 1).double()


def masses(likelihood: Columns, row: Tensor, codes: int) -> Tensor:
    """P of every code under one row of outputs."""
    values = whole(codes).values[:, None]
    return likelihood.log_prob(repeated(row, codes), values, seen(values)).detach()[:, 0].exp()


def test_bernoulli_is_torchs() -> None:
    """log P is torch's, P(1) the logistic of the output, and P(0) + P(1) = 1, from -30 to 30."""
    likelihood = of(column("bernoulli", width=5))
    outputs = torch.tensor([[-30.0, -2.0, 0.0, 3.0, 30.0]], dtype=torch.float64)
    zeros, ones = torch.zeros_like(outputs), torch.ones_like(outputs)
    no, yes = (likelihood.log_prob(outputs, value, seen(value)) for value in (zeros, ones))
    torch.testing.assert_close(no.exp() + yes.exp(), ones, rtol=0, atol=2e-15)
    torch.testing.assert_close(yes.exp(), outputs.sigmoid(), rtol=1e-13, atol=0)
    torch.testing.assert_close(no, Bernoulli(logits=outputs).log_prob(zeros), rtol=1e-13, atol=0)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_categories_side_by_side_are_separate_softmaxes(size: float) -> None:
    """Columns with different numbers of codes in one block equal a log_softmax of each, for huge outputs too."""
    likelihood = of(*SIDE_BY_SIDE)
    assert len(likelihood.blocks) == 1
    outputs, values = size * normal(9, sum(CODES), seed=4), codes_of(CODES, 9)
    each = [Categorical(logits=part) for part in outputs.split(CODES, 1)]
    expected = torch.stack([one.log_prob(values[:, f].long()) for f, one in enumerate(each)], 1)
    torch.testing.assert_close(likelihood.log_prob(outputs, values, seen(values)), expected, rtol=1e-12, atol=1e-12)


def test_category_gradient_is_that_of_log_softmax() -> None:
    """The gradient of a block of categories is the one-hot code minus the softmax."""
    outputs = normal(1, 7, seed=6).requires_grad_()
    values = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    likelihood = of(column("categorical", codes=3), column("categorical", name="y", codes=4))
    likelihood.log_prob(outputs, values, seen(values)).sum().backward()
    hot = torch.tensor([[0.0, 0, 1, 1, 0, 0, 0]], dtype=torch.float64)
    soft = torch.cat([part.softmax(1) for part in outputs.detach().split([3, 4], 1)], 1)
    torch.testing.assert_close(outputs.grad, hot - soft, rtol=1e-13, atol=1e-13)


def test_unknown_code_has_probability_and_is_never_returned() -> None:
    """Code 0 is one of those that sum to 1; but no mean, mode, quantile or draw says so, however likely it is."""
    likelihood = of(column("categorical", codes=2), column("categorical", name="y", codes=5, width=2))
    outputs = normal(2_000, 12, seed=9)
    outputs[:, [0, 2, 7]] += 50
    zeros = torch.zeros(2_000, 3, dtype=torch.float64)
    assert (likelihood.log_prob(outputs, zeros, seen(zeros)) > -1e-10).all()
    draws = drawn(likelihood, outputs, seed=10)
    quantiles = [likelihood.quantile(outputs, level) for level in (1e-3, 0.5, 0.999)]
    for values in (likelihood.mean(outputs), likelihood.mode(outputs), draws, *quantiles):
        assert (values >= 1).all()
        assert (values <= torch.tensor([1, 4, 4])).all()
        assert (values == values.round()).all()


def test_category_mode_is_the_likeliest_known_code() -> None:
    """The best guess of a category, which has no mean, is the argmax over its own known codes."""
    likelihood = of(*SIDE_BY_SIDE)
    outputs = normal(50, sum(CODES), seed=11)
    expected = torch.stack([part[:, 1:].argmax(1) + 1 for part in outputs.split(CODES, 1)], 1).double()
    assert torch.equal(likelihood.mode(outputs), expected)
    assert torch.equal(likelihood.mean(outputs), expected)


def test_category_samples_match_their_probabilities() -> None:
    """Codes are drawn as often as the softmax over the known codes says, side by side in one block."""
    likelihood = of(column("categorical", codes=4), column("categorical", name="y", codes=3))
    row = torch.tensor([[2.0, 0.5, -1.0, 1.0, 3.0, 0.0, 1.0]], dtype=torch.float64)
    draws = drawn(likelihood, repeated(row, 20_000), seed=8).long()
    for feature, known in enumerate((row[0, 1:4], row[0, 5:7])):
        share = torch.bincount(draws[:, feature], minlength=len(known) + 1)[1:] / 20_000
        rate = known.softmax(0)
        assert ((share - rate).abs() < 4.5 * (rate * (1 - rate) / 20_000).sqrt()).all()


def test_category_extremes_are_its_known_codes() -> None:
    """Salt and pepper of a category is any known code, all equally often."""
    likelihood = of(column("categorical", codes=5))
    uniform = (torch.arange(4000, dtype=torch.float64)[:, None] + 0.5) / 4000
    assert likelihood.extreme(uniform).long().flatten().bincount().tolist() == [0, 1000, 1000, 1000, 1000]


def ordinal_by_hand(likelihood: Columns, row: Tensor) -> Tensor:
    """P of every rank as plain differences of P(X <= k) = S(c_k - output)."""
    upto = (cast(Ordinal, only(likelihood)).cutpoints()[0] - row[0]).detach().sigmoid()
    return torch.cat([upto, torch.ones(1, dtype=torch.float64)]).diff(prepend=torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("codes", [2, 3, 10, 256])
def test_ordinal_is_a_difference_of_logistics(codes: int) -> None:
    """P(k) is the difference of two logistics, sums to 1, and its mean rank is the sum of k P(k)."""
    likelihood = of(column("ordinal", codes=codes))
    for row in 3 * normal(5, 1, seed=12):
        found = masses(likelihood, row[None], codes)
        torch.testing.assert_close(found, ordinal_by_hand(likelihood, row[None]), rtol=1e-9, atol=1e-14)
        assert found.sum().item() == pytest.approx(1, abs=1e-12)
        mean = (found * whole(codes).values).sum().item()
        assert likelihood.mean(row[None]).item() == pytest.approx(mean, rel=1e-11)
        assert found[int(likelihood.mode(row[None]).item())].item() == pytest.approx(found.max().item())


def test_ordinal_of_two_ranks_is_bernoulli() -> None:
    """With two ranks it is a Bernoulli whose logit is the output minus the cutpoint."""
    ordinal, bernoulli = of(column("ordinal", codes=2)), of(column("bernoulli"))
    outputs, values = normal(30, 1, seed=13), codes_of((2,), 30)
    cut = cast(Ordinal, only(ordinal)).cutpoints()[0].detach()
    found, expected = (
        ordinal.log_prob(outputs, values, seen(values)),
        bernoulli.log_prob(outputs - cut, values, seen(values)),
    )
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_ordinal_rises_with_its_output() -> None:
    """A higher output makes every P(X > k) larger, so the mean rank, and every quantile, rise with it."""
    likelihood = of(column("ordinal", codes=6))
    outputs = torch.linspace(-20, 20, 400, dtype=torch.float64)[:, None]
    assert (likelihood.mean(outputs).diff(dim=0) > 0).all()
    for level in (0.05, 0.5, 0.95):
        assert (likelihood.quantile(outputs, level).diff(dim=0) >= 0).all()


def test_ordinal_cutpoints_stay_in_order() -> None:
    """However they are trained, cutpoints rise, and each column has its own."""
    likelihood = of(column("ordinal", codes=3), column("ordinal", name="y", codes=9, width=2))
    block = cast(Ordinal, only(likelihood))
    with torch.no_grad():
        block.gaps.fill_(-1e6)
    cuts = block.cutpoints().detach()
    assert (cuts.diff(dim=1) >= 0.99e-4).all()
    assert torch.equal(cuts[1], cuts[2])
    assert not torch.equal(cuts[0], cuts[1])


def test_ordinal_log_prob_is_exact_where_the_difference_is_not() -> None:
    """At outputs of 1,000, where every P(X <= k) is 0 or 1, log P is still linear in the output."""
    likelihood = of(column("ordinal", codes=4))
    values = whole(3).values[:, None]
    at, beyond = (
        likelihood.log_prob(torch.full_like(values, output), values, seen(values)) for output in (1000.0, 1001.0)
    )
    torch.testing.assert_close(at - beyond, torch.ones_like(at), rtol=1e-9, atol=0)


RATES = {"categorical": (0.05, 0.15, 0.5, 0.3), "ordinal": (0.05, 0.15, 0.5, 0.3)}


@pytest.mark.parametrize("kind", RATES)
def test_bias_gives_the_marginal_rates(kind: str) -> None:
    """At the output bias every code has the rate it was told, to float32; if none was, an equal share."""
    for rates, expected in ((RATES[kind], RATES[kind]), ((), (0.25,) * 4)):
        likelihood = Columns([column(kind, codes=4, rates=rates)]).double()
        found = masses(likelihood, likelihood.bias()[None].double(), 4)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=3e-7)


@pytest.mark.parametrize("codes", [2, 40, 1000])
def test_uniform_ordinal_has_uniform_rates(codes: int) -> None:
    """Of many ranks of equal rates, each has probability 1 / K where training starts."""
    likelihood = Columns([column("ordinal", codes=codes)]).double()
    found = masses(likelihood, torch.zeros(1, 1, dtype=torch.float64), codes)
    torch.testing.assert_close(found, torch.full_like(found, 1 / codes), rtol=2e-3, atol=0)


def test_bias_gives_the_mean_of_a_bernoulli() -> None:
    """At the output bias P(1) is the mean of each feature; a half where it is not known."""
    likelihood = of(column("bernoulli", width=2, means=(0.07, 0.9)), column("bernoulli", name="y"))
    expected = torch.tensor([0.07, 0.9, 0.5], dtype=torch.float64)
    torch.testing.assert_close(likelihood.mean(likelihood.bias()[None].double())[0], expected, rtol=1e-6, atol=0)


def test_bias_is_finite_at_the_ends() -> None:
    """Rates of exactly 0 and 1, as a constant column has, start from large but finite outputs."""
    columns = (
        Column(name="a", likelihood="bernoulli", means=(0.0,)),
        Column(name="b", likelihood="bernoulli", means=(1.0,)),
        Column(name="c", likelihood="categorical", codes=3, rates=(0.0, 1.0, 0.0)),
        Column(name="d", likelihood="ordinal", codes=3, rates=(0.0, 1.0, 0.0)),
    )
    bias = Columns(columns).bias()
    assert bias.isfinite().all()
    assert bias[0] < -5
    assert bias[1] > 5
    assert bias[2:5].argmax() == 1
    assert Columns(columns).mode(bias[None])[0].tolist() == [0, 1, 1, 1]


def test_joint_mass_is_one() -> None:
    """Over all joint values of several discrete columns, probabilities sum to 1: features are independent given z."""
    likelihood = of(
        column("categorical", codes=3, width=2),
        column("bernoulli", name="b"),
        column("ordinal", name="c", codes=3),
        column("binomial", name="d", codes=4),
    )
    values = torch.tensor(list(product(range(3), range(3), range(2), range(3), range(4))), dtype=torch.float64)
    outputs = repeated(outputs_of(likelihood, 1, seed=26), len(values))
    mass = likelihood.log_prob(outputs, values, seen(values)).sum(1).exp().sum()
    assert mass.item() == pytest.approx(1, abs=1e-13)


def test_embedding_is_a_sign_a_rank_or_one_hot() -> None:
    """The encoder sees 0 and 1 as -1 and 1, ranks from -1 to 1, and a code as one-hot."""
    likelihood = of(column("bernoulli", name="a"), column("ordinal", name="b"), column("categorical", codes=3))
    values = torch.tensor([[0.0, 1, 2], [1, 4, 0]], dtype=torch.float64)
    expected = [[-1, -0.5, 0, 0, 1], [1, 1, 1, 0, 0]]
    assert likelihood.embed(values, seen(values)).tolist() == expected


def test_support_of_a_category_is_all_its_codes() -> None:
    """Meta: the laws of all likelihoods see codes 0..K-1."""
    assert support(of(column("categorical")), "categorical").values.tolist() == [0, 1, 2, 3, 4]
