"""The walk: a denoising model whose decoder is the true posterior of the corruption keeps the data's distribution."""

from __future__ import annotations

import math

import pytest
import torch
from exact import gaussian_rows, linear, noise_scale
from family import EVERY, build, network, table
from scipy.stats import ks_2samp
from torch import Tensor

from vae.config import Column, ModelConfig, Network, Objective
from vae.model import VAE
from vae.walkback import compatibility_gap, kolmogorov_smirnov, total_variation, walk

LEVEL = 0.5
GAUSSIAN = Objective(noise="gaussian", noise_level=LEVEL)
SPECTRUM = [2.0, 1.0, 0.5]
ROWS = 4000
CRITICAL = 1.63 * (2 / ROWS) ** 0.5
"""What the Kolmogorov-Smirnov distance of two samples of the same distribution exceeds once in a hundred."""


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that no global state is touched."""
    return torch.Generator().manual_seed(seed)


def denoiser(axes: Tensor) -> VAE:
    """p(x | x~) for rows from N(0, S) plus N(0, s^2 I): mean S (S + s^2 I)^-1 x~, variances l s^2 / (l + s^2).

    Along each eigenvector q(z | x~) has what the decoder's own noise leaves of the variance.
    """
    lengths = torch.tensor(SPECTRUM, dtype=torch.float64)
    variance = lengths * LEVEL**2 / (lengths + LEVEL**2)
    model, sigma = linear(3, 3), 0.3
    assert model.logvar is not None
    with torch.no_grad():
        model.mean.weight.copy_((lengths / (lengths + LEVEL**2))[:, None] * axes.mT)
        model.logvar.weight.zero_()
        model.logvar.bias.copy_((variance - sigma**2).log())
        model.decoder.head.weight.copy_(axes)
        noise_scale(model).log_scale.fill_(math.log(sigma - 0.01))
    return model


def test_distances_are_those_of_statistics() -> None:
    """Kolmogorov-Smirnov is scipy's, with ties and unequal sizes; total variation is half the sum over all codes."""
    for digits in (8, 1, 0):
        one, other = (torch.randn(rows, generator=seeded(rows)).double().round(decimals=digits) for rows in (300, 170))
        expected = ks_2samp(one.numpy(), (other + 0.2).numpy()).statistic
        assert kolmogorov_smirnov(one, other + 0.2) == pytest.approx(expected, abs=1e-6)
    codes = torch.tensor([0, 0, 1, 3.0]), torch.tensor([0, 1, 2, 2, 2.0])
    assert total_variation(*codes) == pytest.approx((0.3 + 0.05 + 0.6 + 0.25) / 2, abs=1e-6)


@pytest.mark.parametrize("distance", [kolmogorov_smirnov, total_variation])
def test_distances_lie_between_none_and_all(distance: object) -> None:
    """0 for a sample and itself, reordered or doubled; 1 for samples that share nothing; the same either way round."""
    assert callable(distance)
    one, other = torch.arange(5.0), torch.arange(5.0) + 10
    assert distance(one, torch.cat([one, one]).flip(0)) == 0
    assert distance(one, other) == pytest.approx(1, abs=1e-6)
    assert distance(one, one + 2) == distance(one + 2, one) == pytest.approx(0.4, abs=1e-6)


def test_the_exact_denoiser_keeps_the_data() -> None:
    """With the true posterior the walk's marginals are the data's, to sampling error, and so is its covariance."""
    values, axes = gaussian_rows(SPECTRUM, rows=ROWS, seed=1)
    seen = torch.ones_like(values, dtype=torch.bool)
    model = denoiser(axes)
    assert compatibility_gap(model, GAUSSIAN, values, seen)["x"] < CRITICAL
    walked = walk(model, GAUSSIAN, values, seen, steps=10, generator=seeded(2))
    covariance, before = (rows.mT @ rows / ROWS for rows in (walked, values))
    assert (covariance - before).norm() < 0.1 * before.norm()


def test_a_mismatched_decoder_does_not() -> None:
    """Halving what the decoder makes of a code, or the noise it is trained for, drives the walk from the data."""
    values, axes = gaussian_rows(SPECTRUM, rows=ROWS, seed=1)
    seen = torch.ones_like(values, dtype=torch.bool)
    model = denoiser(axes)
    louder = Objective(noise="gaussian", noise_level=2 * LEVEL)
    assert compatibility_gap(model, louder, values, seen)["x"] > 2 * CRITICAL
    with torch.no_grad():
        model.decoder.head.weight.mul_(0.5)
    assert compatibility_gap(model, GAUSSIAN, values, seen)["x"] > 3 * CRITICAL


def test_the_gap_grows_with_the_walk() -> None:
    """A denoiser that forgets a little per step is the further from the data the longer it walks; no step, no gap."""
    values, axes = gaussian_rows(SPECTRUM, rows=ROWS, seed=1)
    seen, model = torch.ones_like(values, dtype=torch.bool), denoiser(axes)
    with torch.no_grad():
        model.decoder.head.weight.mul_(0.9)
    none, one, ten = (compatibility_gap(model, GAUSSIAN, values, seen, steps=steps)["x"] for steps in (0, 1, 10))
    assert none == 0
    assert CRITICAL < 1.5 * one < ten


def test_codes_and_missing_cells_are_walked_and_compared() -> None:
    """A decoder that draws codes at their rates keeps them, though cells are missing; one that favours one does not."""
    rates = (0.0, 0.2, 0.5, 0.3)
    columns = (
        Column(name="kind", likelihood="categorical", codes=4, rates=rates, nullable=True),
        Column(name="sold", likelihood="bernoulli", means=(0.3,)),
    )
    model = build(ModelConfig(columns=columns, network=Network(latent=1, hidden=())))
    with torch.no_grad():
        model.decoder.head.weight.zero_()
    tenth = torch.arange(ROWS, dtype=torch.float64) % 10
    kind, sold = 1 + (tenth >= 2).double() + (tenth >= 7).double(), (tenth < 3).double()
    seen = torch.ones(ROWS, 2, dtype=torch.bool)
    seen[: ROWS // 2, 0] = False
    values = torch.stack([kind, sold], 1).where(seen, math.nan)
    masking = Objective(noise="masking", noise_level=0.3)
    kept = compatibility_gap(model, masking, values, seen)
    assert list(kept) == ["kind", "sold"]
    assert max(kept.values()) < 0.03
    with torch.no_grad():
        model.decoder.head.bias[1] += 1
    moved = compatibility_gap(model, masking, values, seen)
    assert moved["kind"] > 0.15
    assert moved["sold"] == pytest.approx(kept["sold"], abs=0.03)


@pytest.mark.parametrize("kind", ["gaussian", "masking", "salt_and_pepper"])
@pytest.mark.parametrize("encoder", ["stochastic", "deterministic"])
def test_every_kind_of_column_and_noise_can_be_walked(kind: str, encoder: str) -> None:
    """After a step nothing is missing and all is finite; gaps are between 0 and 1, named like their columns."""
    objective = Objective(noise=kind, noise_level=0.2)
    model = build(ModelConfig(columns=EVERY, network=network(encoder=encoder)), seed=1, shake=0.2)
    values, observed = table(model.config, 30)
    values = values.where(observed, math.nan)
    walked = walk(model, objective, values, observed, steps=2, generator=seeded(5))
    assert walked.shape == values.shape
    assert walked.isfinite().all()
    gaps = compatibility_gap(model, objective, values, observed, steps=2)
    assert list(gaps) == [column.name for column in EVERY]
    assert all(0 <= gap <= 1 for gap in gaps.values())


def test_the_first_step_fills_what_is_missing() -> None:
    """Two steps are one step from where one step led, every cell of which the encoder is shown as there."""
    model = build(ModelConfig(columns=EVERY, network=network()), seed=1, shake=0.2)
    values, observed = table(model.config, 30)
    two = walk(model, GAUSSIAN, values, observed, steps=2, generator=seeded(6))
    generator = seeded(6)
    first = walk(model, GAUSSIAN, values, observed, steps=1, generator=generator)
    second = walk(model, GAUSSIAN, first, torch.ones_like(observed), steps=1, generator=generator)
    assert torch.equal(two, second)


def test_a_column_without_cells_has_no_gap() -> None:
    """Where nothing is observed there is nothing to compare with, so the column is left out."""
    model = build(ModelConfig(columns=EVERY, network=network()), seed=1, shake=0.2)
    values, observed = table(model.config, 10)
    observed = torch.cat([torch.zeros_like(observed[:, :1]), observed[:, 1:]], 1)
    gaps = compatibility_gap(model, GAUSSIAN, values, observed, steps=1)
    assert list(gaps) == [column.name for column in EVERY[1:]]


def test_the_walk_is_repeatable_by_its_seed() -> None:
    """The same seed, the same gaps, to the bit; another seed, others; torch's own generator stays as it was."""
    values, axes = gaussian_rows(SPECTRUM, rows=200, seed=1)
    seen, model = torch.ones_like(values, dtype=torch.bool), denoiser(axes)
    before = torch.get_rng_state()
    one, again, other = (compatibility_gap(model, GAUSSIAN, values, seen, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_without_noise_is_refused() -> None:
    """Without a corruption there is no chain to speak of."""
    model = linear(2, 1)
    values = torch.zeros(3, 2, dtype=torch.float64)
    expected = r"^noise = 'none': only a denoising model has an encoder-decoder compatibility to measure$"
    with pytest.raises(ValueError, match=expected):
        compatibility_gap(model, Objective(), values, values == 0)
