"""Models with warped, periodic and embedded columns: all that a model does, with what its columns may now be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from family import MEMBERS, build, frozen, network, table
from torch import Tensor

from vae import checkpoint, explore, judge
from vae.config import Column, ModelConfig, Network, Objective
from vae.fit import Loss
from vae.likelihoods import Columns

LINES = {"warp": "knots", "scores": (-1.5, 0.0, 1.0), "knots": (-4.0, -0.5, 1.5)}
BENT = (
    Column(name="price", likelihood="gaussian", warp="log1p", center=2.0, scale=0.5, nullable=True),
    Column(name="debt", likelihood="gaussian", center=9.0, scale=250.0, **LINES),
    Column(name="when", likelihood="student_t", center=1.7e9, scale=1e6, periods=(86_400.0, 604_800.0), nullable=True),
    Column(name="wage", likelihood="mixture", components=2, **LINES),
    Column(name="north", likelihood="joint_mixture", group="place", components=2, **LINES),
    Column(name="east", likelihood="joint_mixture", group="place", components=2, nullable=True),
    Column(name="city", likelihood="categorical", codes=4, nullable=True),
    Column(name="street", likelihood="categorical", codes=90, embedding=5, nullable=True),
    Column(name="shop", likelihood="categorical", codes=70, embedding=3),
    Column(name="tiles", likelihood="categorical", width=4, shape=(2, 2, 1), codes=6, embedding=2),
)
"""Ten columns, 13 features; the encoder sees 8 numbers, 4 one-hot, 4 waves, 16 of vectors, 4 flags."""
NETWORKS: dict[str, dict[str, Any]] = {
    "residual": {"body": "residual"},
    "convolution": {"body": "convolution", "channels": (2,)},
}


def model_of(settings: dict[str, Any], *, dtype: torch.dtype = torch.float64) -> Any:
    """A small model of BENT, every parameter a little off where it begins."""
    return build(ModelConfig(columns=BENT, network=network(**settings)), shake=0.1, dtype=dtype)


def test_the_encoder_sees_what_each_column_shows() -> None:
    """Numbers with their waves block by block, one-hot codes, vectors, flags: zero where a cell is missing."""
    model = model_of({})
    values, observed = table(model.config, 30)
    shown = model.columns.embed(values, observed)
    assert shown.shape == (30, model.columns.width) == (30, 6 + 4 + 4 + 5 + 3 + 8 + 5)
    assert not model.columns.embed(values, torch.zeros_like(observed)).any()
    assert shown.abs().max() < 10


@pytest.mark.parametrize("case", [*MEMBERS, *NETWORKS])
def test_every_member_takes_bent_columns(case: str) -> None:
    """Finite loss, and a finite gradient on every parameter, vectors among them: with every objective and body."""
    settings, objective = MEMBERS.get(case) or (NETWORKS[case], Objective())
    model = model_of(settings)
    values, observed = table(model.config, 12)
    Loss(model, objective)(values, observed, frozen(model, objective, 12)).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert all(vectors.weight.grad.any() for block in model.columns.blocks for vectors in getattr(block, "vectors", ()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_bent_model_comes_back_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    """Knots, periods and vectors are in the checkpoint's two files; the answers are equal."""
    model = model_of({}, dtype=dtype).eval()
    checkpoint.save(model, tmp_path)
    checkpoint.seal(tmp_path)
    again = checkpoint.load(tmp_path)
    assert again.config == model.config
    values, observed = table(model.config, 20)
    values = values.to(dtype)
    first, second = (it.encode(values, observed) for it in (model, again))
    assert torch.equal(first.mean, second.mean)
    answers = [it.columns.units(it.reconstruct(first.mean)) for it in (model, again)]
    assert torch.equal(*answers)


def test_an_unknown_code_begins_as_nothing() -> None:
    """The vector of code 0 is zero at first, and every other is about one in size."""
    (block,) = Columns(BENT[7:8]).blocks
    vectors = block.vectors[0].weight
    assert not vectors[0].any()
    assert vectors[1:].std().item() == pytest.approx(1, abs=0.15)


def test_vectors_do_not_change_the_likelihood() -> None:
    """log p, draws and modes of a categorical are those of its one-hot twin."""
    embedded, plain = Columns(BENT[7:8]), Columns([Column(name="street", likelihood="categorical", codes=90)])
    outputs, codes = torch.randn(20, 90), torch.randint(90, (20, 1)).float()
    seen = torch.ones_like(codes, dtype=torch.bool)
    assert torch.equal(embedded.log_prob(outputs, codes, seen), plain.log_prob(outputs, codes, seen))
    assert torch.equal(embedded.mode(outputs), plain.mode(outputs))


def test_a_bent_model_is_judged_and_filled() -> None:
    """All figures are finite, errors in original units included; draws of missing cells keep the observed ones."""
    model = model_of({}, dtype=torch.float32)
    values, observed = table(model.config, 30)
    judged = judge(model, [(values.float(), observed)], samples=5)
    assert math.isfinite(judged.nll)
    filled = explore.impute(model, values.float(), observed, draws=3, generator=torch.Generator().manual_seed(0))
    kept: Tensor = filled.draws[0][observed]
    assert torch.equal(kept, values.float()[observed])
    assert model.columns.units(filled.quantile(0.5)).isfinite().all()


def test_a_plain_network_learns_a_bent_column() -> None:
    """With knots at the quantiles of an exponential, whose score is normal, -log p nears the entropy, 1 nat."""
    scores = torch.linspace(-3, 3, 61, dtype=torch.float64)
    knots = -torch.special.log_ndtr(-scores)
    column = Column(
        name="x", likelihood="gaussian", warp="knots", scores=tuple(scores.tolist()), knots=tuple(knots.tolist())
    )
    model = build(ModelConfig(columns=(column,), network=Network(latent=1, hidden=())))
    x = torch.empty(4000, 1, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(0))
    found = model.columns.blocks[0]
    values = found.warps.parts[0]._value(x)
    found.log_scale.data.fill_(math.log(1 - found.floor.item()))
    log_prob = model.columns.log_prob(torch.zeros_like(values), values, torch.ones_like(values, dtype=torch.bool))
    assert -log_prob.mean().item() == pytest.approx(x.mean().item(), abs=0.01)
    torch.testing.assert_close(model.columns.units(values), x, rtol=1e-6, atol=1e-6)
