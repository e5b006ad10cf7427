"""p(x | z): every distribution is one, missing cells do not exist, and columns are independent given z."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from vae.config import Column
from vae.likelihoods import Columns, Gaussian
from vae.model import VAE

Batch = tuple[Tensor, Tensor, Tensor]
INTERLEAVED = (
    Column(name="a", likelihood="gaussian", scale=3.0, floor=0.3),
    Column(name="b", likelihood="categorical", codes=4, nullable=True),
    Column(name="c", likelihood="categorical", codes=2, width=2),
    Column(name="d", likelihood="gaussian", width=2, scale=0.2),
    Column(name="e", likelihood="gaussian", scale=7.0, nullable=True),
    Column(name="f", likelihood="bernoulli", width=3),
    Column(name="g", likelihood="categorical", codes=3),
    Column(name="h", likelihood="bernoulli"),
)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that no global state is touched."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal float64."""
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def of(*columns: Column) -> Columns:
    """The likelihood of these columns in float64, each Gaussian with a learned scale of its own."""
    likelihood = Columns(columns).double()
    with torch.no_grad():
        for index, parameter in enumerate(likelihood.parameters()):
            parameter.add_(0.3 * normal(*parameter.shape, seed=100 + index))
    return likelihood


def all_seen(values: Tensor) -> Tensor:
    """A mask under which nothing is missing."""
    return torch.ones_like(values, dtype=torch.bool)


def random_values(columns: tuple[Column, ...], rows: int, *, seed: int) -> Tensor:
    """Values that these columns may hold, unknown codes included."""
    generator, parts = seeded(seed), []
    for column in columns:
        shape = (rows, column.width)
        if column.likelihood == "gaussian":
            parts.append(torch.randn(shape, generator=generator, dtype=torch.float64))
        else:
            parts.append(torch.randint(0, column.codes or 2, shape, generator=generator).double())
    return torch.cat(parts, 1)


@pytest.mark.parametrize("unit", [1.0, 250.0, 1e-3])
def test_gaussian_is_a_density_in_original_units(unit: float) -> None:
    """exp(log_prob) integrates to 1 over x in the data's own units, whatever the standardisation."""
    likelihood = of(Column(name="x", likelihood="gaussian", scale=unit))
    x = torch.linspace(-30 * unit, 30 * unit, 4001, dtype=torch.float64)[:, None]
    values = (x - 2 * unit) / unit
    outputs = torch.full_like(values, 0.7)
    density = likelihood.log_prob(outputs, values, all_seen(values)).exp()
    assert torch.trapezoid(density[:, 0], x[:, 0]).item() == pytest.approx(1, abs=1e-6)


def test_gaussian_is_torchs_normal() -> None:
    """log_prob is that of a Normal around the output, minus the log of the unit."""
    column = Column(name="x", likelihood="gaussian", width=3, scale=12.5, floor=0.2)
    likelihood = of(column)
    outputs, values = normal(6, 3, seed=1), normal(6, 3, seed=2)
    (block,) = likelihood.blocks
    assert isinstance(block, Gaussian)
    expected = Normal(outputs, block.scale()).log_prob(values) - math.log(12.5)
    torch.testing.assert_close(likelihood.log_prob(outputs, values, all_seen(values)), expected, rtol=1e-6, atol=1e-6)


def test_gaussian_scale_is_shared_and_never_below_the_floor() -> None:
    """The features of a column have one scale, and it cannot fall below the floor however it is trained."""
    likelihood = Gaussian(
        [
            Column(name="x", likelihood="gaussian", width=2, floor=0.25),
            Column(name="y", likelihood="gaussian", floor=0.5),
        ]
    )
    with torch.no_grad():
        likelihood.log_scale.fill_(-200.0)
    torch.testing.assert_close(likelihood.scale(), torch.tensor([0.25, 0.25, 0.5]), rtol=0, atol=0)


def test_bernoulli_sums_to_one() -> None:
    """P(0) + P(1) = 1 for every output, and P(1) is the logistic of the output."""
    likelihood = of(Column(name="x", likelihood="bernoulli", width=5))
    outputs = torch.tensor([[-30.0, -2.0, 0.0, 3.0, 30.0]], dtype=torch.float64)
    zeros, ones = torch.zeros_like(outputs), torch.ones_like(outputs)
    no, yes = (likelihood.log_prob(outputs, value, all_seen(value)).exp() for value in (zeros, ones))
    torch.testing.assert_close(no + yes, ones, rtol=0, atol=1e-14)
    torch.testing.assert_close(yes, outputs.sigmoid())


def test_categorical_sums_to_one_with_the_unknown_code() -> None:
    """The probabilities of codes 0..K-1 sum to 1; the unknown code 0 is one of them."""
    likelihood = of(Column(name="x", likelihood="categorical", codes=5))
    outputs = 4 * normal(1, 5, seed=3).expand(5, -1)
    values = torch.arange(5, dtype=torch.float64)[:, None]
    chance = likelihood.log_prob(outputs, values, all_seen(values)).exp()
    assert chance.sum().item() == pytest.approx(1, abs=1e-14)
    assert chance[0].item() > 0


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_categories_side_by_side_are_separate_softmaxes(size: float) -> None:
    """Columns with different numbers of codes in one block equal a log_softmax of each, for huge outputs too."""
    codes = (2, 5, 3, 3, 7)
    columns = (
        Column(name="a", likelihood="categorical", codes=2),
        Column(name="b", likelihood="categorical", codes=5),
        Column(name="c", likelihood="categorical", codes=3, width=2),
        Column(name="d", likelihood="categorical", codes=7),
    )
    likelihood = of(*columns)
    assert len(likelihood.blocks) == 1
    outputs, values = size * normal(9, sum(codes), seed=4), random_values(columns, 9, seed=5)
    softmaxes = [part.log_softmax(1) for part in outputs.split(codes, 1)]
    expected = torch.cat([each.gather(1, values[:, [f]].long()) for f, each in enumerate(softmaxes)], 1)
    torch.testing.assert_close(likelihood.log_prob(outputs, values, all_seen(values)), expected, rtol=1e-12, atol=1e-12)


def test_category_gradient_is_that_of_log_softmax() -> None:
    """The gradient of a block of categories is the one-hot code minus the softmax."""
    columns = (Column(name="a", likelihood="categorical", codes=3), Column(name="b", likelihood="categorical", codes=4))
    outputs = normal(1, 7, seed=6).requires_grad_()
    values = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    of(*columns).log_prob(outputs, values, all_seen(values)).sum().backward()
    hot = torch.tensor([[0.0, 0, 1, 1, 0, 0, 0]], dtype=torch.float64)
    soft = torch.cat([part.softmax(1) for part in outputs.detach().split([3, 4], 1)], 1)
    torch.testing.assert_close(outputs.grad, hot - soft)


def test_numeric_samples_match_the_mean() -> None:
    """Draws of Gaussian and Bernoulli features average to `mean` and spread by the model's scale."""
    likelihood = of(
        Column(name="x", likelihood="gaussian", width=2, scale=40.0), Column(name="y", likelihood="bernoulli", width=2)
    )
    outputs = torch.tensor([[1.5, -3.0, 1.0, -2.0]], dtype=torch.float64).expand(20_000, -1)
    draws = likelihood.sample(outputs, seeded(7))
    mean = likelihood.mean(outputs)[0]
    rate = mean[2:]
    block = likelihood.blocks[0]
    assert isinstance(block, Gaussian)
    spread = torch.cat([block.scale().detach(), (rate * (1 - rate)).sqrt()])
    assert ((draws.mean(0) - mean).abs() < 5 * spread / 20_000**0.5).all()
    torch.testing.assert_close(draws.std(0), spread, rtol=0.05, atol=0)
    assert set(draws[:, 2:].unique().tolist()) == {0.0, 1.0}


def test_category_samples_match_their_probabilities() -> None:
    """Codes are drawn as often as the softmax over the known codes says, side by side in one block."""
    likelihood = of(
        Column(name="x", likelihood="categorical", codes=4), Column(name="y", likelihood="categorical", codes=3)
    )
    outputs = torch.tensor([[2.0, 0.5, -1.0, 1.0, 3.0, 0.0, 1.0]], dtype=torch.float64)
    draws = likelihood.sample(outputs.expand(20_000, -1), seeded(8)).long()
    for feature, known in enumerate((outputs[0, 1:4], outputs[0, 5:7])):
        share = torch.bincount(draws[:, feature], minlength=len(known) + 1)[1:] / 20_000
        torch.testing.assert_close(share.double(), known.softmax(0), rtol=0, atol=5 * 0.5 / 20_000**0.5)


def test_unknown_code_is_never_returned() -> None:
    """Neither mean nor sample ever says 'unknown', not even when code 0 is by far the likeliest."""
    likelihood = of(
        Column(name="x", likelihood="categorical", codes=2),
        Column(name="y", likelihood="categorical", codes=5, width=2),
    )
    outputs = normal(2_000, 12, seed=9)
    outputs[:, [0, 2, 7]] += 50
    top = torch.tensor([1, 4, 4])
    for values in (likelihood.mean(outputs), likelihood.sample(outputs, seeded(10))):
        assert (values >= 1).all()
        assert (values <= top).all()
        assert (values == values.round()).all()


def test_category_mean_is_the_likeliest_known_code() -> None:
    """The best guess of a category is the argmax over its own known codes."""
    columns = (Column(name="x", likelihood="categorical", codes=3), Column(name="y", likelihood="categorical", codes=6))
    outputs = normal(50, 9, seed=11)
    expected = torch.stack([outputs[:, 1:3].argmax(1) + 1, outputs[:, 4:].argmax(1) + 1], 1)
    torch.testing.assert_close(of(*columns).mean(outputs), expected.double(), rtol=0, atol=0)


def test_samples_are_reproducible() -> None:
    """Equal generators give equal draws; different ones do not."""
    likelihood = of(*INTERLEAVED)
    outputs = normal(20, sum(likelihood.outputs), seed=12)
    first, again, other = (likelihood.sample(outputs, seeded(seed)) for seed in (13, 13, 14))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bias_gives_the_marginal_rates() -> None:
    """At the output bias every column has its marginal distribution: the rates it was told, or equal shares."""
    columns = (
        Column(name="a", likelihood="categorical", codes=3, rates=(0.05, 0.15, 0.8), width=2),
        Column(name="b", likelihood="bernoulli", rates=(0.07,), width=2),
        Column(name="c", likelihood="bernoulli"),
        Column(name="d", likelihood="categorical", codes=4),
        Column(name="e", likelihood="gaussian"),
    )
    likelihood = of(*columns)
    outputs = likelihood.bias().double()[None].expand(4, -1)
    values = torch.tensor([[code % 3] * 2 + [code % 2] * 3 + [code, 0] for code in range(4)], dtype=torch.float64)
    chance = likelihood.log_prob(outputs, values, all_seen(values)).exp()
    third, half = [0.05, 0.15, 0.8, 0.05], [0.93, 0.07, 0.93, 0.07]
    expected = torch.tensor([third, third, half, half, [0.5] * 4, [0.25] * 4], dtype=torch.float64).T
    torch.testing.assert_close(chance[:, :6], expected, rtol=1e-5, atol=1e-5)
    assert likelihood.mean(outputs)[0, 6].item() == 0


def test_bias_is_finite_at_the_ends() -> None:
    """Rates of exactly 0 and 1, as a constant column has, start from large but finite outputs."""
    columns = (
        Column(name="a", likelihood="bernoulli", rates=(0.0,)),
        Column(name="b", likelihood="bernoulli", rates=(1.0,)),
        Column(name="c", likelihood="categorical", codes=3, rates=(0.0, 1.0, 0.0)),
    )
    bias = Columns(columns).bias()
    assert bias.isfinite().all()
    assert bias[0] < -5
    assert bias[1] > 5
    assert bias[2:].argmax() == 1


def test_missing_cells_have_no_likelihood() -> None:
    """log_prob is exactly zero where a cell is missing, and elsewhere as if nothing were missing."""
    likelihood, values = of(*INTERLEAVED), random_values(INTERLEAVED, 30, seed=15)
    outputs = normal(30, sum(likelihood.outputs), seed=16)
    observed = torch.rand(values.shape, generator=seeded(17)) > 0.5
    partial = likelihood.log_prob(outputs, values, observed)
    full = likelihood.log_prob(outputs, values, all_seen(values))
    assert torch.equal(partial, torch.where(observed, full, torch.zeros_like(full)))


def test_missing_cells_have_no_gradient() -> None:
    """A wholly missing row leaves exactly zero gradient on outputs and scales, whatever its cells hold."""
    likelihood = of(*INTERLEAVED)
    values = torch.full((3, sum(column.width for column in INTERLEAVED)), math.nan, dtype=torch.float64)
    outputs = normal(3, sum(likelihood.outputs), seed=18).requires_grad_()
    likelihood.log_prob(outputs, values, torch.zeros_like(values, dtype=torch.bool)).sum().backward()
    for gradient in (outputs.grad, *(parameter.grad for parameter in likelihood.parameters())):
        assert gradient is not None
        assert torch.count_nonzero(gradient) == 0


def test_gradient_reaches_only_the_outputs_of_observed_cells() -> None:
    """With one column missing, exactly its outputs have zero gradient."""
    columns = (
        Column(name="a", likelihood="gaussian"),
        Column(name="b", likelihood="categorical", codes=3),
        Column(name="c", likelihood="categorical", codes=4),
        Column(name="d", likelihood="bernoulli"),
    )
    likelihood = of(*columns)
    of_output = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 3])
    for missing in range(4):
        outputs = normal(1, 9, seed=19).requires_grad_()
        observed = torch.arange(4)[None] != missing
        likelihood.log_prob(outputs, torch.ones(1, 4, dtype=torch.float64), observed).sum().backward()
        assert outputs.grad is not None
        assert torch.equal(outputs.grad[0] != 0, of_output != missing)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30, -1.0])
def test_content_of_missing_cells_changes_nothing(garbage: float) -> None:
    """Whatever lies in a missing cell, embedding and log_prob are equal to the bit."""
    likelihood, values = of(*INTERLEAVED), random_values(INTERLEAVED, 20, seed=20)
    outputs = normal(20, sum(likelihood.outputs), seed=21)
    observed = torch.rand(values.shape, generator=seeded(22)) > 0.4
    spoilt = torch.where(observed, values, garbage)
    assert torch.equal(likelihood.embed(spoilt, observed), likelihood.embed(values, observed))
    assert torch.equal(likelihood.log_prob(outputs, spoilt, observed), likelihood.log_prob(outputs, values, observed))


def test_columns_are_the_sum_of_single_columns() -> None:
    """Interleaved kinds in one `Columns` equal each column alone: log-probability, best guess and bias."""
    whole, values = of(*INTERLEAVED), random_values(INTERLEAVED, 15, seed=23)
    outputs = normal(15, sum(whole.outputs), seed=24)
    observed = torch.rand(values.shape, generator=seeded(25)) > 0.3
    scales = iter(torch.cat([scale.detach() for scale in whole.parameters()]))
    log_probs, means, biases, first_output, first_feature = [], [], [], 0, 0
    for column in INTERLEAVED:
        alone = Columns([column]).double()
        for parameter in alone.parameters():
            parameter.data.fill_(next(scales))
        output = outputs[:, first_output : first_output + sum(alone.outputs)]
        cells = slice(first_feature, first_feature + column.width)
        log_probs.append(alone.log_prob(output, values[:, cells], observed[:, cells]).sum(1))
        means.append(alone.mean(output))
        biases.append(alone.bias())
        first_output, first_feature = first_output + sum(alone.outputs), cells.stop
    log_prob = whole.log_prob(outputs, values, observed)
    torch.testing.assert_close(whole.per_column(log_prob), torch.stack(log_probs, 1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_prob.sum(1), torch.stack(log_probs, 1).sum(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole.mean(outputs), torch.cat(means, 1), rtol=0, atol=0)
    assert torch.equal(whole.bias(), torch.cat(biases))


def test_neighbours_of_one_kind_are_one_block() -> None:
    """Sorting a table by likelihood leaves one block per kind, however many columns it has."""
    kinds = [type(block).__name__ for block in Columns(INTERLEAVED).blocks]
    assert kinds == ["Gaussian", "Categorical", "Gaussian", "Bernoulli", "Categorical", "Bernoulli"]
    assert len(Columns(sorted(INTERLEAVED, key=lambda column: column.likelihood)).blocks) == 3


def test_embedding_is_one_number_sign_or_one_hot() -> None:
    """The encoder sees a number as it is, 0/1 as -1/1, a code as one-hot, and zeros where a cell is missing."""
    columns = (
        Column(name="a", likelihood="gaussian"),
        Column(name="b", likelihood="bernoulli"),
        Column(name="c", likelihood="categorical", codes=3, nullable=True),
    )
    values = torch.tensor([[1.5, 0, 2], [2.5, 1, 0], [9, 1, 1]], dtype=torch.float64)
    observed = torch.tensor([[True] * 3, [True] * 3, [False] * 3])
    expected = [[1.5, -1, 0, 0, 1, 1], [2.5, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0]]
    embedded = of(*columns).embed(values, observed)
    torch.testing.assert_close(embedded, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0)


def test_embedding_tells_apart_missing_and_zero() -> None:
    """A nullable column's missing cell and its observed zero are different inputs to the encoder."""
    likelihood = of(Column(name="a", likelihood="gaussian", nullable=True))
    zero = torch.zeros(1, 1, dtype=torch.float64)
    there, missing = (likelihood.embed(zero, torch.tensor([[seen]])) for seen in (True, False))
    assert there.tolist() == [[0, 1]]
    assert missing.tolist() == [[0, 0]]


def test_per_column_sums_features(model: VAE, batch: Batch) -> None:
    """`per_column` adds up the features of each column and nothing else."""
    values, _, _ = batch
    widths = [column.width for column in model.config.columns]
    expected = torch.stack([part.sum(1) for part in values.split(widths, 1)], 1)
    torch.testing.assert_close(model.columns.per_column(values), expected)


def test_joint_mass_is_one() -> None:
    """Over all joint values of several discrete columns, probabilities sum to 1: features are independent given z."""
    columns = (
        Column(name="a", likelihood="categorical", codes=3, width=2),
        Column(name="b", likelihood="bernoulli"),
        Column(name="c", likelihood="categorical", codes=2),
    )
    likelihood = of(*columns)
    values = torch.tensor(list(product(range(3), range(3), range(2), range(2))), dtype=torch.float64)
    outputs = normal(1, sum(likelihood.outputs), seed=26).expand(len(values), -1)
    mass = likelihood.log_prob(outputs, values, all_seen(values)).sum(1).exp().sum()
    assert mass.item() == pytest.approx(1, abs=1e-13)


def test_no_rows_are_rows_too() -> None:
    """Every operation takes a batch of no rows: a worker may get none."""
    likelihood = of(*INTERLEAVED)
    values = torch.zeros(0, sum(column.width for column in INTERLEAVED), dtype=torch.float64)
    outputs = torch.zeros(0, sum(likelihood.outputs), dtype=torch.float64)
    assert likelihood.embed(values, all_seen(values)).shape == (0, likelihood.inputs)
    assert likelihood.log_prob(outputs, values, all_seen(values)).shape == values.shape
    assert likelihood.mean(outputs).shape == values.shape
    assert likelihood.sample(outputs, seeded(0)).shape == values.shape
