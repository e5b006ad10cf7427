"""The bodies of encoder and decoder: what stands between a row and its latent code.

`Encoder` maps a row's embedding to hidden features, `Decoder` a latent code to the parameters of p(x | z). Every layer
treats each row by itself (layer, never batch normalisation), so a row's code depends on no other row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae.config import Network
from vae.likelihoods import Columns
from vae.linear import Linear

ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}
Size = tuple[int, int]
Layer = TypeVar("Layer", Linear, nn.Conv2d, nn.ConvTranspose2d)


class Encoder(nn.Module):
    """Embedding `[batch, input]` -> hidden features `[batch, width]`; images pass through convolutions first."""

    def __init__(self, network: Network, columns: Columns) -> None:
        super().__init__()
        images = columns.images() if network.body == "convolution" else []
        self.stems = nn.ModuleList(ImageEncoder(network, shape, span.stop - span.start) for shape, span, _ in images)
        self.spans = [inputs for _, inputs, _ in images]
        self.rest = _rest(self.spans, columns.width)
        seen = len(self.rest) + sum(stem.features for stem in self.stems if isinstance(stem, ImageEncoder))
        self.body = body(network, (seen, *network.hidden))
        self.width = network.hidden[-1] if network.hidden else seen

    def forward(self, inputs: Float[Tensor, "batch input"]) -> Float[Tensor, "batch hidden"]:
        if self.stems:
            images = [stem(inputs[:, span]) for stem, span in zip(self.stems, self.spans, strict=True)]
            inputs = torch.cat([*images, inputs[:, self.rest]], 1)
        hidden: Tensor = self.body(inputs)
        return hidden


class Decoder(nn.Module):
    """Latent code `[batch, latent]` -> parameters of p(x | z), `[batch, output]`; the encoder's mirror.

    The output bias starts at the data's marginal distribution.
    """

    def __init__(self, network: Network, columns: Columns) -> None:
        super().__init__()
        images = columns.images() if network.body == "convolution" else []
        bias = columns.bias()
        self.spans = [outputs for _, _, outputs in images]
        self.stems = nn.ModuleList(ImageDecoder(network, shape, bias[span]) for shape, _, span in images)
        self.rest = _rest(self.spans, len(bias))
        self.sizes = [len(self.rest), *[it.features for it in self.stems if isinstance(it, ImageDecoder)]]
        self.body = body(network, (network.latent, *reversed(network.hidden)))
        self.head = linear(network.hidden[0] if network.hidden else network.latent, sum(self.sizes))
        with torch.no_grad():
            self.head.bias[: len(self.rest)] = bias[self.rest]

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch output"]:
        flat: Tensor = self.head(self.body(z))
        if not self.stems:
            return flat
        rest, *seeds = flat.split(self.sizes, 1)
        outputs: Tensor = rest.new_empty(len(z), len(self.rest) + sum(span.stop - span.start for span in self.spans))
        outputs[:, self.rest] = rest
        for stem, span, seed in zip(self.stems, self.spans, seeds, strict=True):
            outputs[:, span] = stem(seed)
        return outputs


class Residual(nn.Module):
    """x + W' f(W norm(x)), with W' zero at first: the block begins as the identity (He et al. 2016, pre-activation)."""

    def __init__(self, width: int, *, activation: str) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), linear(width, width), ACTIVATIONS[activation]())
        self.outer = linear(width, width)
        nn.init.zeros_(self.outer.weight)

    def forward(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        out: Tensor = x + self.outer(self.inner(x))
        return out


class ImageEncoder(nn.Module):
    """Pixels `[batch, H*W*C]` -> features, by 3 x 3 convolutions that halve height and width, rounded up.

    A pixel of categories has as many channels as inputs, one per code.
    """

    def __init__(self, network: Network, shape: Sequence[int], inputs: int) -> None:
        super().__init__()
        self.shape = (shape[0], shape[1], inputs // (shape[0] * shape[1]))
        layers: list[nn.Module] = []
        for before, after in pairwise((self.shape[2], *network.channels)):
            layers += [_glorot(nn.Conv2d(before, after, 3, stride=2, padding=1)), ACTIVATIONS[network.activation]()]
        self.layers = nn.Sequential(*layers)
        height, width = halved(self.shape, len(network.channels))[-1]
        self.features = network.channels[-1] * height * width

    def forward(self, pixels: Float[Tensor, "batch pixel"]) -> Float[Tensor, "batch feature"]:
        features: Tensor = self.layers(pixels.view(len(pixels), *self.shape).permute(0, 3, 1, 2))
        return features.flatten(1)


class ImageDecoder(nn.Module):
    """Features -> parameters per pixel and channel, by transposed convolutions that undo `ImageEncoder`'s halvings."""

    def __init__(self, network: Network, shape: Sequence[int], bias: Float[Tensor, " output"]) -> None:
        super().__init__()
        self.sizes = halved(shape, len(network.channels))
        self.features = network.channels[-1] * self.sizes[-1][0] * self.sizes[-1][1]
        self.channels = network.channels[-1]
        widths = (*reversed(network.channels), bias.numel() // (shape[0] * shape[1]))
        layers: list[nn.Module] = []
        for (before, after), target in zip(pairwise(widths), reversed(self.sizes[:-1]), strict=True):
            odd = ((target[0] + 1) % 2, (target[1] + 1) % 2)
            up = nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=odd)
            layers += [ACTIVATIONS[network.activation](), _glorot(up)]
        self.layers = nn.Sequential(*layers)
        self.bias = nn.Parameter(bias.clone())

    def forward(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch output"]:
        image: Tensor = self.layers(features.view(len(features), self.channels, *self.sizes[-1]))
        return image.permute(0, 2, 3, 1).flatten(1) + self.bias


def body(network: Network, widths: Sequence[int]) -> nn.Sequential:
    """Hidden layers of the given widths, `widths[0]` in, of the kind that the settings name."""
    if network.body == "residual":
        return residual(widths, activation=network.activation)
    return mlp(widths, activation=network.activation)


def mlp(widths: Sequence[int], *, activation: str) -> nn.Sequential:
    """Linear layers, an activation after each."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def residual(widths: Sequence[int], *, activation: str) -> nn.Sequential:
    """A residual block per width, after a linear layer where the width changes; normalised at the end."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [linear(inputs, outputs)] if inputs != outputs or not layers else []
        layers += [Residual(outputs, activation=activation)]
    return nn.Sequential(*layers, *([nn.LayerNorm(widths[-1])] if layers else []))


def linear(inputs: int, outputs: int) -> Linear:
    """A linear layer `[batch, inputs] -> [batch, outputs]` with Glorot (2010) uniform weights and zero biases."""
    return _glorot(Linear(inputs, outputs))


def halved(shape: Sequence[int], times: int) -> list[Size]:
    """Height and width after 0, 1, ... halvings, rounded up.

    >>> halved((28, 5, 3), 2)
    [(28, 5), (14, 3), (7, 2)]
    """
    sizes = [(shape[0], shape[1])]
    for _ in range(times):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def _glorot(layer: Layer) -> Layer:
    nn.init.xavier_uniform_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _rest(spans: Sequence[slice], size: int) -> list[int]:
    """Positions that no span covers."""
    covered = {position for span in spans for position in range(span.start, span.stop)}
    return [position for position in range(size) if position not in covered]
