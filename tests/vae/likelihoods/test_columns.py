"""The product of all columns: blocks, order, missing cells, and what the encoder is told."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from laws import KINDS, column, drawn, normal, of, outputs_of, seeded, seen

from vae.config import Column
from vae.likelihoods import Columns

ALL = tuple(
    column(
        kind,
        name=f"{kind} {turn}",
        width=1 + turn,
        nullable=bool(turn),
        **({"group": kind[:5] + str(turn)} if kind == "joint_mixture" else {}),
    )
    for turn in range(2)
    for kind in KINDS
)
"""Every kind twice, interleaved."""


def test_every_kind_interleaved_is_the_sum_of_its_blocks() -> None:
    """Whatever lies side by side, each block's log p, mean, mode, quantile, units and draws are its own."""
    whole = of(*ALL)
    outputs = outputs_of(whole, 15, seed=1)
    values = drawn(whole, outputs, seed=2)
    observed = torch.rand(values.shape, generator=seeded(3)) > 0.3
    parts = zip(
        whole.blocks,
        outputs.split(whole.outputs, 1),
        values.split(whole.features, 1),
        observed.split(whole.features, 1),
        strict=True,
    )
    log_prob, mean, mode, quantile, units = [], [], [], [], []
    for block, output, value, there in parts:
        log_prob.append(torch.where(there, block.log_prob(output, value, there), 0.0))
        mean.append(block.mean(output))
        mode.append(block.mode(output))
        quantile.append(block.quantile(output, 0.3))
        units.append(block.units(value))
    assert torch.equal(whole.log_prob(outputs, values, observed), torch.cat(log_prob, 1))
    assert torch.equal(whole.mean(outputs), torch.cat(mean, 1))
    assert torch.equal(whole.mode(outputs), torch.cat(mode, 1))
    assert torch.equal(whole.quantile(outputs, 0.3), torch.cat(quantile, 1))
    assert torch.equal(whole.units(values), torch.cat(units, 1))
    assert torch.equal(whole.bias(), torch.cat([block.bias() for block in whole.blocks]))


def test_order_of_the_columns_does_not_matter() -> None:
    """Any order, and so any division into blocks, gives every column the same log-probability."""
    columns = (
        column("gaussian", name="a"),
        column("gaussian", name="b", scale=0.5, width=2),
        column("ordinal", name="c", codes=4),
        column("ordinal", name="d", codes=6),
    )
    outputs, values = [normal(20, each.width, seed=index) for index, each in enumerate(columns)], []
    for index, each in enumerate(columns):
        top = each.codes or 9
        values.append(normal(20, each.width, seed=10 + index).abs().floor().clamp_max(top - 1))
    found = []
    for order in permutations(range(4)):
        likelihood = Columns([columns[index] for index in order]).double()
        ordered = torch.cat([values[index] for index in order], 1)
        log_prob = likelihood.log_prob(torch.cat([outputs[index] for index in order], 1), ordered, seen(ordered))
        per_column = likelihood.per_column(log_prob)
        found.append(torch.stack([per_column[:, order.index(index)] for index in range(4)], 1))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-13, atol=1e-13)


def test_neighbours_of_one_kind_are_one_block() -> None:
    """Sorting a table by likelihood leaves one block per kind, however many columns it has; groups stay apart."""
    assert len(Columns(ALL).blocks) == len(ALL)
    by_kind = sorted(ALL, key=lambda each: each.likelihood)
    assert len(Columns(by_kind).blocks) == len(KINDS) + 1
    different = [column("mixture", name="a", components=2), column("mixture", name="b", components=3)]
    assert len(Columns(different).blocks) == 2


def test_missing_cells_elsewhere_change_nothing() -> None:
    """Of columns that are independent given z, one's log p is equal to the bit whatever else is missing."""
    columns = [each for each in ALL if each.likelihood != "joint_mixture"]
    likelihood = of(*columns)
    outputs = outputs_of(likelihood, 20, seed=4)
    values = drawn(likelihood, outputs, seed=5)
    observed = torch.rand(values.shape, generator=seeded(6)) > 0.5
    full = likelihood.log_prob(outputs, values, seen(values))
    assert torch.equal(likelihood.log_prob(outputs, values, observed), torch.where(observed, full, 0.0))


def test_gradient_reaches_only_the_outputs_of_observed_cells() -> None:
    """With one column missing, exactly its outputs have zero gradient."""
    columns = (
        column("gaussian", name="a"),
        column("categorical", name="b", codes=3),
        column("categorical", name="c", codes=4),
        column("bernoulli", name="d"),
        column("mixture", name="e", components=2),
    )
    likelihood = of(*columns)
    of_output = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4, 4])
    for missing in range(5):
        outputs = normal(1, 15, seed=7).requires_grad_()
        observed = torch.arange(5)[None] != missing
        likelihood.log_prob(outputs, torch.ones(1, 5, dtype=torch.float64), observed).sum().backward()
        assert outputs.grad is not None
        assert torch.equal(outputs.grad[0] != 0, of_output != missing)


def test_embedding_is_every_kind_and_then_what_is_there() -> None:
    """The encoder sees each block's embedding, then 1 or 0 for each nullable feature; zeros where all is missing."""
    likelihood = of(
        column("gaussian", name="a"), column("bernoulli", name="b"), column("categorical", codes=3, nullable=True)
    )
    values = torch.tensor([[1.5, 0, 2], [2.5, 1, 0], [9, 1, 1]], dtype=torch.float64)
    observed = torch.tensor([[True] * 3, [True] * 3, [False] * 3])
    expected = [[1.5, -1, 0, 0, 1, 1], [2.5, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0]]
    assert likelihood.embed(values, observed).tolist() == expected
    assert likelihood.width == 6


def test_embedding_tells_apart_missing_and_zero() -> None:
    """A nullable column's missing cell and its observed zero are different inputs to the encoder."""
    likelihood = of(column("gaussian", nullable=True))
    zero = torch.zeros(1, 1, dtype=torch.float64)
    there, missing = (likelihood.embed(zero, torch.tensor([[there]])) for there in (True, False))
    assert there.tolist() == [[0, 1]]
    assert missing.tolist() == [[0, 0]]


def test_per_column_sums_features() -> None:
    """`per_column` adds up the features of each column and nothing else."""
    likelihood, features = of(*ALL), normal(5, sum(each.width for each in ALL), seed=8)
    expected = torch.stack([part.sum(1) for part in features.split([each.width for each in ALL], 1)], 1)
    torch.testing.assert_close(likelihood.per_column(features), expected, rtol=1e-14, atol=1e-14)


def test_images_are_blocks_with_their_own_inputs_and_outputs() -> None:
    """Each image says where its pixels lie among encoder inputs and decoder outputs; other columns say nothing."""
    likelihood = Columns(
        [
            column("categorical", name="label", codes=3),
            column("binomial", name="front", codes=256, width=12, shape=(2, 3, 2)),
            column("binomial", name="back", codes=256, width=4, shape=(2, 2, 1)),
            column("mixture", name="depth", components=2, width=4, shape=(2, 2, 1)),
        ]
    )
    assert likelihood.images() == [
        ((2, 3, 2), slice(3, 15), slice(3, 15)),
        ((2, 2, 1), slice(15, 19), slice(15, 19)),
        ((2, 2, 1), slice(19, 23), slice(19, 43)),
    ]


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 2.0])
def test_quantile_refuses_a_level_that_is_none(level: float) -> None:
    """Quantiles are asked for strictly between 0 and 1."""
    likelihood = of(column("gaussian"))
    with pytest.raises(ValueError, match=rf"^level = {level:g}: a quantile's level lies between 0 and 1$"):
        likelihood.quantile(normal(1, 1, seed=9), level)


def test_buffers_follow_and_parameters_are_learned() -> None:
    """Every kind's learned parameters are finite and have a gradient on ordinary rows."""
    likelihood = of(*ALL)
    outputs = outputs_of(likelihood, 40, seed=10)
    values = drawn(likelihood, outputs, seed=11)
    likelihood.log_prob(outputs, values, seen(values)).sum().backward()
    for name, parameter in likelihood.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any() or parameter.numel() == 0, name


def test_a_column_is_plain_data() -> None:
    """Building the same columns twice gives equal starting points: nothing is drawn at random."""
    first, again = Columns(ALL), Columns([Column(**vars(each)) for each in ALL])
    assert torch.equal(first.bias(), again.bias())
    for mine, theirs in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
