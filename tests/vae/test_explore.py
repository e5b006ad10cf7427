"""Looking around: codes on their lines and circles, and imputations from the true conditional distribution."""

from __future__ import annotations

import math

import pytest
import torch
from family import EVERY, NETWORKS, Batch, build, network, table
from torch import Generator, Tensor

from vae.config import CATEGORIES, COUNTS, LEVELS, Column, ModelConfig, Network
from vae.explore import Imputed, impute, interpolation, traversal
from vae.model import VAE


def mirror(latent: int = 3) -> VAE:
    """A model whose reconstruction of a code is that code, float64."""
    columns = tuple(Column(name=f"z{index}", likelihood="gaussian") for index in range(latent))
    model = build(ModelConfig(columns=columns, network=Network(latent=latent, hidden=())))
    with torch.no_grad():
        model.decoder.head.weight.copy_(torch.eye(latent))
    return model


def code(*numbers: float) -> Tensor:
    """One code, float64."""
    return torch.tensor([numbers], dtype=torch.float64)


def test_a_traversal_moves_one_dimension() -> None:
    """Evenly from -extent to extent in that dimension, the others held; the code given is left as it was."""
    z = code(1.0, 2.0, 3.0)
    codes = traversal(mirror(), z, dimension=1, extent=2.0, steps=5)
    assert codes.tolist() == [[1.0, step, 3.0] for step in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    assert z.tolist() == [[1.0, 2.0, 3.0]]


def test_a_traversal_is_of_reconstructions(model: VAE) -> None:
    """Each step is the reconstruction of its code."""
    z = code(0.1, -0.2, 0.3)
    rows = traversal(model, z, dimension=0)
    assert rows.shape == (9, model.config.features)
    torch.testing.assert_close(rows[0], model.reconstruct(code(-3.0, -0.2, 0.3))[0], rtol=1e-12, atol=1e-12)


def test_an_interpolation_walks_the_great_circle() -> None:
    """Between codes of one length: that length all the way, equal angles, both ends included, in their plane."""
    start, end = code(3.0, 0.0, 4.0), code(0.0, 5.0, 0.0)
    codes = interpolation(mirror(), start, end, steps=7)
    torch.testing.assert_close(codes[[0]], start, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(codes[[-1]], end, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(codes.norm(dim=1), torch.full((7,), 5.0).double(), rtol=1e-12, atol=0)
    angles = ((codes[1:] * codes[:-1]).sum(1) / 25).arccos()
    torch.testing.assert_close(angles, torch.full((6,), math.pi / 12, dtype=torch.float64), rtol=1e-9, atol=0)
    assert torch.linalg.matrix_rank(codes, atol=1e-9) == 2


def test_an_interpolation_is_symmetric(model: VAE) -> None:
    """From one end to the other is the way back, reversed, lengths unequal too."""
    start, end = code(0.5, -1.0, 0.2), code(2.0, 1.0, -0.3)
    there, back = interpolation(model, start, end), interpolation(model, end, start)
    torch.testing.assert_close(there, back.flip(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ((0.0, 0.0, 0.0), (1.0, 2.0, 3.0)),
        ((1.0, 0.0, 0.0), (3.0, 0.0, 0.0)),
        ((1.0, 1.0, 0.0), (-1.0, -1.0, 0.0)),
        ((1.0, 2.0, 0.0), (1.0, 2.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ],
)
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_an_interpolation_along_one_line_is_straight(
    start: tuple[float, ...], end: tuple[float, ...], precision: torch.dtype
) -> None:
    """Where the great circle means nothing the straight line is walked, and all is finite."""
    one, other = code(*start).to(precision), code(*end).to(precision)
    codes = interpolation(mirror().to(precision), one, other, steps=3)
    torch.testing.assert_close(codes, torch.cat([one, (one + other) / 2, other]), rtol=1e-5, atol=1e-6)


def test_imputed_draws_are_summarised() -> None:
    """Mean, quantile and mode are over the draws, cell by cell."""
    draws = torch.tensor([[[1.0, 0.0]], [[1.0, 5.0]], [[4.0, 10.0]]])
    imputed = Imputed(draws)
    assert imputed.mean().tolist() == [[2.0, 5.0]]
    assert imputed.quantile(0.5).tolist() == [[1.0, 5.0]]
    assert imputed.quantile(0.25).tolist() == [[1.0, 2.5]]
    assert imputed.mode()[0, 0] == 1.0


@pytest.mark.parametrize("name", list(NETWORKS))
def test_imputation_fills_what_is_missing_and_no_more(name: str) -> None:
    """Observed cells are theirs in every draw, to the bit; missing ones are drawn in the support, none is NaN."""
    model = build(ModelConfig(columns=EVERY, network=network(**NETWORKS[name])), shake=0.2)
    values, observed = table(model.config, 8)
    gappy = torch.where(observed, values, math.nan)
    draws = impute(model, gappy, observed, draws=6, candidates=4, generator=Generator().manual_seed(0)).draws
    assert draws.shape == (6, *values.shape)
    assert torch.equal(draws[:, observed], values[observed].expand(6, -1))
    assert draws.isfinite().all()
    assert (draws.std(0)[~observed] > 0).any()
    whole = torch.tensor([c.likelihood in (*COUNTS, *LEVELS, *CATEGORIES) for c in EVERY for _ in range(c.width)])
    assert torch.equal(draws[:, :, whole], draws[:, :, whole].round())


def test_imputation_is_reproducible(model: VAE, batch: Batch) -> None:
    """Equal generators give equal draws; no rows give no rows; torch's global generator is left alone."""
    values, observed, _ = batch
    before = torch.random.get_rng_state()
    one, other = (
        impute(model, values, observed, draws=2, generator=Generator().manual_seed(3)).draws for _ in range(2)
    )
    assert torch.equal(one, other)
    nothing = impute(model, values[:0], observed[:0], draws=2, generator=Generator().manual_seed(3))
    assert nothing.draws.shape == (2, 0, values.shape[1])
    assert torch.equal(torch.random.get_rng_state(), before)


def factor() -> tuple[VAE, Tensor, Tensor]:
    """x = m + W z + noise with three gaussian columns and one latent dimension: the model, m, and the covariance.

    Its encoder is wrong on purpose: N(0.3, 1.5^2) for every row.
    """
    columns = tuple(Column(name=name, likelihood="gaussian", sigma=0.5) for name in "abc")
    model = build(ModelConfig(columns=columns, network=Network(latent=1, hidden=())))
    assert model.logvar is not None
    weight, mean = torch.tensor([[1.0], [-0.5], [2.0]]).double(), torch.tensor([0.2, -0.1, 0.4]).double()
    with torch.no_grad():
        for head, bias in ((model.mean, 0.3), (model.logvar, 2 * math.log(1.5))):
            head.weight.zero_()
            head.bias.fill_(bias)
        model.decoder.head.weight.copy_(weight)
        model.decoder.head.bias.copy_(mean)
    return model, mean, weight @ weight.T + 0.25 * torch.eye(3).double()


def test_imputations_are_of_the_true_conditional() -> None:
    """In a linear model x_3 given x_1 and x_2 is a known normal: the draws have its mean, variance and 90 % interval,
    within four standard errors, though the encoder is wrong.
    """
    model, mean, covariance = factor()
    rows, seen = 8000, torch.tensor([True, True, False])
    row = torch.tensor([1.1, -0.6, math.nan]).double()
    imputed = impute(
        model,
        row.expand(rows, -1),
        seen.expand(rows, -1),
        draws=1,
        candidates=200,
        generator=Generator().manual_seed(1),
    )
    filled = imputed.draws[0, :, 2]
    gain = covariance[2, :2] @ covariance[:2, :2].inverse()
    centre = float(mean[2] + gain @ (row[:2] - mean[:2]))
    variance = float(covariance[2, 2] - gain @ covariance[:2, 2])
    assert filled.mean().item() == pytest.approx(centre, abs=4 * (variance / rows) ** 0.5)
    assert filled.var().item() == pytest.approx(variance, abs=4 * variance * (2 / rows) ** 0.5)
    for level, reach in ((0.05, -1.6449), (0.95, 1.6449)):
        quantile = Imputed(filled[:, None, None]).quantile(level)
        density = math.exp(-(reach**2) / 2) / math.sqrt(2 * math.pi)
        error = (level * (1 - level) / rows) ** 0.5 / density
        assert (float(quantile) - centre) / variance**0.5 == pytest.approx(reach, abs=4 * error)


def test_one_candidate_is_the_encoders_word() -> None:
    """Meta: without resampling the wrong encoder's draws are wrong, which the test above would see."""
    model, mean, covariance = factor()
    rows, row = 4000, torch.tensor([1.1, -0.6, math.nan]).double()
    seen = torch.tensor([True, True, False]).expand(rows, -1)
    draws = impute(model, row.expand(rows, -1), seen, draws=1, candidates=1, generator=Generator().manual_seed(1)).draws
    gain = covariance[2, :2] @ covariance[:2, :2].inverse()
    assert abs(float(draws[0, :, 2].mean() - mean[2] - gain @ (row[:2] - mean[:2]))) > 0.3


def test_imputation_of_a_group_heeds_its_observed_members() -> None:
    """The missing member of a joint mixture is drawn given the observed one: the exact conditional's moments."""
    columns = tuple(
        Column(name=name, likelihood="joint_mixture", group="g", components=1, nullable=True) for name in "ab"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VAE(ModelConfig(columns=columns, network=Network(latent=1, hidden=()))).double()
    slope = 3.0  # both features are t u + e: covariance 9, variance 10
    with torch.no_grad():
        model.decoder.head.weight.zero_()
        model.decoder.head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, math.log(0.99), math.log(0.99), slope, slope]))
    values = torch.tensor([[3.0, 0.0]], dtype=torch.float64).expand(4_000, -1)
    observed = torch.tensor([[True, False]]).expand(4_000, -1)
    drawn = impute(model, values, observed, draws=1, generator=torch.Generator().manual_seed(1)).draws[0]
    assert (drawn[:, 0] == 3).all()
    assert drawn[:, 1].mean().item() == pytest.approx(2.7, abs=0.1)
    assert drawn[:, 1].var().item() == pytest.approx(1.9, abs=0.15)
