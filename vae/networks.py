"""The bodies of encoder and decoder: what stands between a row and its latent code."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from torch import nn

ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


def mlp(widths: Sequence[int], *, activation: str) -> nn.Sequential:
    """Linear layers of the given widths, `widths[0]` in, an activation after each; Glorot weights, zero biases."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer `[batch, inputs] -> [batch, outputs]` with Glorot (2010) uniform weights and zero biases."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
