"""The bodies: where they start, that images keep their places, and that every weight takes part."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from family import EVERY, NETWORKS, build, frozen, network, table
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from vae.config import Column, ModelConfig, Network, Objective
from vae.fit import Loss
from vae.model import VAE
from vae.networks import ACTIVATIONS, ImageDecoder, ImageEncoder, Residual, halved, linear

BODIES = ["mlp", "residual", "convolution"]
SHAPES = [(5, 7, 3), (1, 1, 1), (4, 4, 1), (1, 6, 2), (3, 1, 2)]
IMAGES: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "bernoulli": {},
    "mixture": {"components": 2},
    "categorical": {"codes": 3},
    "discretised_logistic": {"codes": 9},
    "ordinal": {"codes": 4},
    "poisson": {},
}
"""Settings of a column that is an image, by its likelihood; one or more outputs per pixel."""


def image(shape: tuple[int, int, int], likelihood: Any = "gaussian", name: str = "image") -> Column:
    """An image column."""
    return Column(name=name, likelihood=likelihood, width=math.prod(shape), shape=shape, **IMAGES[likelihood])


def convolutional(*columns: Column, channels: tuple[int, ...], **more: Any) -> VAE:
    """A convolutional model, every weight moved off its first value."""
    of = ModelConfig(columns=columns, network=network(body="convolution", channels=channels, **more))
    return build(of, shake=0.3)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("body", BODIES)
def test_the_decoder_starts_at_the_marginals(body: str, activation: str) -> None:
    """At z = 0 an untrained decoder's outputs are the columns' bias to the bit, and the data's means come out."""
    of = ModelConfig(columns=EVERY, network=network(body=body, activation=activation))
    model = build(of, dtype=torch.float32)
    origin = torch.zeros(1, 3)
    outputs, bias = model.decode(origin)[0], model.columns.bias()
    assert torch.equal(outputs, bias)
    guess = dict(zip(_names(model), model.reconstruct(origin)[0].tolist(), strict=True))
    for name, mean in (("price", 0.3), ("visits", 3.0), ("clicks", 1.5), ("stars", 2.0), ("sold", 0.2)):
        assert guess[name] == pytest.approx(mean, rel=1e-6)
    assert guess["city"] == 3
    assert guess["size"] == pytest.approx(0.2 + 2 * 0.3 + 3 * 0.4, rel=1e-5)


@pytest.mark.parametrize("body", BODIES)
def test_untrained_outputs_stay_around_the_marginals(body: str) -> None:
    """Over draws of N(0, I) too: the mean of an odd network's outputs is the bias, within four standard errors."""
    model = build(ModelConfig(columns=EVERY, network=network(body=body, activation="tanh")))
    z = torch.randn(4000, 3, generator=Generator().manual_seed(1), dtype=torch.float64)
    outputs = model.decode(z)
    apart = (outputs.mean(0) - model.columns.bias()).abs()
    assert (apart < 4 * outputs.std(0) / 4000**0.5 + 1e-12).all()


def _names(model: VAE) -> list[str]:
    return [column.name for column in model.config.columns for _ in range(column.width)]


@pytest.mark.parametrize("body", BODIES)
def test_weights_are_glorots(body: str) -> None:
    """Every weight lies within sqrt(6 / (fan in + fan out)) and reaches nine tenths of it; every bias is zero."""
    wide = network(body=body, hidden=(60, 50), channels=(8, 12), latent=20)
    model = build(ModelConfig(columns=EVERY, network=wide))
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
    assert len(layers) >= 7
    for name, layer in layers.items():
        assert layer.bias is not None
        field = layer.weight[0, 0].numel()
        bound = math.sqrt(6 / (field * sum(layer.weight.shape[:2])))
        if name.endswith("outer"):
            assert not layer.weight.any()
        else:
            assert 0.9 * bound < layer.weight.abs().max() <= bound * (1 + 1e-6)
            assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.3)
        assert name == "decoder.head" or not layer.bias.any()


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_a_residual_block_starts_as_the_identity(activation: str) -> None:
    """f(x) = x to the bit, and its Jacobian is the identity, before any training."""
    block = Residual(6, activation=activation).double()
    x = torch.randn(4, 6, generator=Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(block(x), x)
    jacobian = torch.autograd.functional.jacobian(block, x[:1])
    assert torch.equal(jacobian[0, :, 0], torch.eye(6, dtype=torch.float64))


def test_a_residual_block_learns_all_its_weights() -> None:
    """Its outer weights have a gradient at once, its inner ones as soon as the outer are no longer zero."""
    block = Residual(6, activation="tanh").double()
    x = torch.randn(4, 6, generator=Generator().manual_seed(0), dtype=torch.float64)
    (block(x) ** 3).sum().backward()
    assert block.outer.weight.grad is not None
    assert block.outer.weight.grad.all()
    with torch.no_grad():
        block.outer.weight.sub_(0.1 * block.outer.weight.grad)
    block.zero_grad()
    (block(x) ** 3).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in block.parameters())


def test_widths_run_input_side_first() -> None:
    """Hidden widths run input side first in the encoder, and reversed in the decoder."""
    model = build(ModelConfig(columns=EVERY, network=network(hidden=(7, 5, 4))))
    widths = {
        name: [(layer.in_features, layer.out_features) for layer in body if isinstance(layer, nn.Linear)]
        for name, body in (("encoder", model.encoder.body), ("decoder", model.decoder.body))
    }
    assert widths == {"encoder": [(model.columns.width, 7), (7, 5), (5, 4)], "decoder": [(3, 4), (4, 5), (5, 7)]}
    assert (model.mean.in_features, model.decoder.head.in_features) == (4, 7)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_an_mlp_is_its_formula(activation: str) -> None:
    """An MLP is f(W2 f(W1 x + b1) + b2), with torch's own f."""
    model = build(ModelConfig(columns=EVERY, network=network(activation=activation)), shake=0.2)
    x = torch.randn(5, model.columns.width, generator=Generator().manual_seed(0), dtype=torch.float64)
    function = getattr(torch.nn.functional, activation)
    hidden = x
    for layer in model.encoder.body:
        if isinstance(layer, nn.Linear):
            hidden = function(hidden @ layer.weight.T + layer.bias)
    torch.testing.assert_close(model.encoder(x), hidden, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hidden", [(), (4,), (6, 5, 4), (5, 5)])
@pytest.mark.parametrize("body", BODIES)
def test_any_depth_works(body: str, hidden: tuple[int, ...]) -> None:
    """Any number of hidden layers, none included, maps rows to latents and back to rows."""
    model = build(ModelConfig(columns=EVERY, network=network(body=body, hidden=hidden)))
    rows = model.sample(7, generator=Generator().manual_seed(5))
    q = model.encode(rows, torch.ones_like(rows, dtype=torch.bool))
    assert q.mean.shape == q.logvar.shape == (7, 3)
    assert model.reconstruct(q.mean).shape == rows.shape


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=list(NETWORKS))
def test_every_weight_takes_part(settings: dict[str, Any]) -> None:
    """The loss of some rows has a gradient that is not zero for every parameter: none is dead or forgotten."""
    model = build(ModelConfig(columns=EVERY, network=network(**settings)), shake=0.2)
    values, observed = table(model.config, 40)
    values[0, 0], observed[0, 0] = 1.0, True
    Loss(model, Objective())(values, observed, frozen(model, Objective(), 40)).sum().backward()
    dead = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert dead == []


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 6))
def test_halving_is_rounded_up(height: int, width: int, times: int) -> None:
    """After n halvings a side of s has ceil(s / 2^n) positions."""
    sizes = halved((height, width, 1), times)
    assert sizes == [(-(-height // 2**n), -(-width // 2**n)) for n in range(times + 1)]


@pytest.mark.parametrize("channels", [(2,), (2, 3), (2, 3, 2)])
def test_convolutions_of_every_size(channels: tuple[int, ...]) -> None:
    """Encoder and decoder fit each other for every height and width from 1 to 9, odd or even, with no rows too."""
    of = Network(body="convolution", channels=channels)
    for height in range(1, 10):
        for width in range(1, 10):
            shape = (height, width, 2)
            encoder, decoder = (
                ImageEncoder(of, shape, math.prod(shape)),
                ImageDecoder(of, shape, torch.zeros(math.prod(shape))),
            )
            features = encoder(torch.zeros(3, math.prod(shape)))
            assert features.shape == (3, encoder.features)
            assert encoder.features == decoder.features
            assert decoder(features).shape == (3, math.prod(shape))
            assert decoder(encoder(torch.zeros(0, math.prod(shape)))).shape == (0, math.prod(shape))


@pytest.mark.parametrize("channels", [(2,), (2, 3)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("likelihood", list(IMAGES))
def test_pixels_keep_their_places(likelihood: str, shape: tuple[int, int, int], channels: tuple[int, ...]) -> None:
    """Encoder feature (c, i, j) sees exactly the pixels within 2^n - 1 of (2^n i, 2^n j), whose log p(x) the decoder's
    feature (c, i, j) reaches, and no others: parameters lie where their pixel is, in the order height, width, channel.

    Whatever the number of parameters per pixel, and with other columns on both sides.
    """
    before, after = Column(name="before", likelihood="categorical", codes=3), Column(name="after", likelihood="poisson")
    model = convolutional(before, image(shape, likelihood), after, channels=channels)
    expected = _spots(shape, channels)
    assert torch.equal(_seen(model), expected)
    assert torch.equal(_reached(model), expected)


def test_a_big_image_keeps_its_places() -> None:
    """The same for 28 x 28 pixels."""
    model = convolutional(image((28, 28, 1), "bernoulli"), channels=(2, 2))
    assert torch.equal(_seen(model), _spots((28, 28, 1), (2, 2)))
    assert torch.equal(_reached(model), _spots((28, 28, 1), (2, 2)))


def _spots(shape: tuple[int, int, int], channels: tuple[int, ...]) -> Tensor:
    """Which pixels [height, width, channel] each feature [channel, height, width] should see."""
    reach, (rows, columns) = 2 ** len(channels), halved(shape, len(channels))[-1]
    near = [
        (torch.arange(size) - reach * torch.arange(positions)[:, None]).abs() < reach
        for size, positions in ((shape[0], rows), (shape[1], columns))
    ]
    spots = near[0][:, None, :, None] & near[1][None, :, None, :]
    whole = spots[None, ..., None].expand(channels[-1], -1, -1, -1, -1, shape[2])
    return whole.reshape(channels[-1] * rows * columns, math.prod(shape))


def _seen(model: VAE) -> Tensor:
    """Which pixel's value changes which feature of the encoder's convolutions: [feature, pixel]."""
    start, column = _image(model)
    values, observed = _row(model)
    changed = values.repeat(column.width, 1)
    pixel = torch.arange(column.width)
    changed[pixel, start + pixel] = (changed[pixel, start + pixel] + 1) % (column.codes or 2)
    (span,), (stem,) = model.encoder.spans, model.encoder.stems
    one, other = (
        stem(model.columns.embed(rows, observed.expand(len(rows), -1))[:, span]) for rows in (values, changed)
    )
    return ((one - other).abs() > 1e-9).T


def _reached(model: VAE) -> Tensor:
    """Which feature of the decoder's convolutions changes the log-probability of which pixel: [feature, pixel]."""
    start, column = _image(model)
    values, observed = _row(model)
    (span,), (stem,) = model.decoder.spans, model.decoder.stems
    assert isinstance(stem, ImageDecoder)
    seed = torch.randn(1, stem.features, generator=Generator().manual_seed(1), dtype=torch.float64)
    seeds = torch.cat([seed, seed + 0.5 * torch.eye(stem.features, dtype=torch.float64)])
    outputs = model.columns.bias().repeat(len(seeds), 1)
    outputs[:, span] = stem(seeds)
    fit = model.columns.log_prob(outputs, values.expand(len(seeds), -1), observed.expand(len(seeds), -1))
    changed = (fit[1:] - fit[0]).abs() > 1e-9
    assert changed.sum() == changed[:, start : start + column.width].sum()
    return changed[:, start : start + column.width]


def _image(model: VAE) -> tuple[int, Column]:
    """The first feature of a model's one image, and its column."""
    index = next(index for index, column in enumerate(model.config.columns) if column.shape)
    return sum(column.width for column in model.config.columns[:index]), model.config.columns[index]


def _row(model: VAE) -> tuple[Tensor, Tensor]:
    """One row, complete."""
    values, observed = table(model.config, 1)
    return values, torch.ones_like(observed)


def test_two_images_and_other_columns() -> None:
    """Images of different shapes are convolved apart, other columns not at all; every outcome is in its place."""
    columns = (image((3, 2, 1), "bernoulli", "left"), EVERY[0], EVERY[1], image((2, 5, 2), "categorical", "right"))
    model = convolutional(*columns, channels=(3,))
    assert [len(stem.layers) for stem in model.encoder.stems] == [2, 2]
    values, observed = table(model.config, 6)
    z = model.encode(values, observed).mean
    outputs = model.decode(z)
    for stem, span in zip(model.decoder.stems, model.decoder.spans, strict=True):
        assert isinstance(stem, ImageDecoder)
        assert outputs[:, span].shape[1] == stem.bias.numel()
    rest, *seeds = model.decoder.head(model.decoder.body(z)).split(model.decoder.sizes, 1)
    pieces = [stem(seed) for stem, seed in zip(model.decoder.stems, seeds, strict=True)]
    torch.testing.assert_close(outputs, torch.cat([pieces[0], rest, pieces[1]], 1), rtol=0, atol=0)


def test_an_image_by_itself() -> None:
    """A table may be one image, of one pixel even, and nothing else."""
    for shape in ((1, 1, 1), (28, 28, 1)):
        model = convolutional(image(shape, "bernoulli"), channels=(2, 2), hidden=())
        values, observed = table(model.config, 3)
        assert model.reconstruct(model.encode(values, observed).mean).shape == values.shape


def test_linear_layers_start_at_zero_bias() -> None:
    """`linear` maps [batch, inputs] to [batch, outputs], zero to zero."""
    layer = linear(4, 3)
    assert torch.equal(layer(torch.zeros(2, 4)), torch.zeros(2, 3))
