"""A linear layer by oneDNN is the linear layer: its outputs, its gradients, and theirs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import vjp

from vae import linear
from vae.linear import Linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def layers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Linear, nn.Linear]:
    """One of ours, by either library, and torch's of the same weights."""
    monkeypatch.setattr(linear, "onednn_is_faster", lambda: request.param)
    torch.manual_seed(0)
    ours, theirs = Linear(96, 64), nn.Linear(96, 64)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def gradients(layer: nn.Linear, x: Tensor) -> list[Tensor]:
    """Of a loss that holds a gradient, with respect to input, weight and bias."""
    x = x.clone().requires_grad_()
    out = layer(x)
    (slope,) = torch.autograd.grad(out.tanh().sum(), x, create_graph=True)
    return [out, *torch.autograd.grad((slope**2).sum() + (out**2).sum(), [x, layer.weight, layer.bias])]


@pytest.mark.parametrize("rows", [1, 7, 256])
def test_outputs_and_gradients(layers: tuple[Linear, nn.Linear], rows: int) -> None:
    """First and second order, up to float32's rounding."""
    x = torch.randn(rows, 96)
    for mine, other in zip(*(gradients(layer, x) for layer in layers), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_pulled_back(layers: tuple[Linear, nn.Linear]) -> None:
    """As the contractive penalty uses it."""
    x, direction = torch.randn(5, 96), torch.randn(5, 64)
    mine, other = (vjp(layer, x)[1](direction)[0] for layer in layers)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_other_inputs_take_the_usual_way(layers: tuple[Linear, nn.Linear]) -> None:
    """No rows, float64, bfloat16 by autocast: to the bit what torch's says."""
    ours, theirs = layers
    assert ours(torch.zeros(0, 96)).shape == (0, 64)
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(3, 96)
        assert torch.equal(ours(x), theirs(x))
    wide = torch.randn(3, 96, dtype=torch.float64)
    assert torch.equal(copy.deepcopy(ours).double()(wide), copy.deepcopy(theirs).double()(wide))


def test_a_row_knows_no_other(layers: tuple[Linear, nn.Linear]) -> None:
    """In a batch of one shape, a row's output is the same to the bit wherever it stands and whatever the others are."""
    row, batch = torch.randn(96), torch.randn(1024, 96)
    outputs = []
    for place in (0, 1, 511, 1023):
        rows = torch.randn(1024, 96) if place else batch
        rows[place] = row
        outputs.append(layers[0](rows)[place])
    assert all(torch.equal(outputs[0], it) for it in outputs[1:])
