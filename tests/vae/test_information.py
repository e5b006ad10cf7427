"""ELBO surgery: the mean KL is information plus prior gap, and both are what they are for a linear model."""

from __future__ import annotations

import math

import pytest
import torch
from exact import gaussian_rows, optimum
from family import EVERY, build, network, table
from torch import Tensor

from vae import fit, ppca
from vae.config import ModelConfig
from vae.information import aggregate, information
from vae.model import VAE, Posterior

SPECTRUM = [3.0, 1.2, 0.4, 0.3, 0.2]
NOISE = 0.3
"""sigma^2 of pPCA with two latents: the mean of the last three eigenvalues."""


def mixed(**settings: object) -> VAE:
    """A model over a column of every kind, off its first weights."""
    return build(ModelConfig(columns=EVERY, network=network(**settings)), seed=1, shake=0.2)


def everywhere(values: Tensor) -> Tensor:
    """All cells observed."""
    return torch.ones_like(values, dtype=torch.bool)


@pytest.fixture(scope="module")
def values() -> Tensor:
    """Rows of a Gaussian."""
    return gaussian_rows(SPECTRUM, rows=2000, seed=0)[0]


@pytest.fixture(scope="module")
def linear(values: Tensor) -> VAE:
    """The linear model that fits them best."""
    return optimum(ppca.fit(values, latent=2))


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp"])
def test_mean_divergence_is_information_and_gap(prior: str) -> None:
    """E KL(q(z | x) || p(z)) = I(x; z) + KL(q(z) || p(z)): exactly, the KL being estimated by the same draws."""
    model = mixed(prior=prior)
    values, observed = table(model.config, 40)
    if prior == "mixture":
        fit.fit_prior(model, values, observed, seed=1)
    found = information(model, values, observed, draws=3, seed=7)
    q = model.encode(values, observed)
    z = q.sample(torch.randn(40, 3, 3, generator=torch.Generator().manual_seed(7)))
    divergence = (q.log_prob(z).sum(2) - model.prior().log_prob(z)).mean().item()
    assert found.mutual_information + found.prior_gap == pytest.approx(divergence, abs=1e-12)
    assert found.rows == 40


def test_parts_add_up_to_the_closed_form(values: Tensor, linear: VAE) -> None:
    """With many draws information and gap add up to the KL in closed form, within its sampling error."""
    found = information(linear, values[:300], everywhere(values[:300]), draws=200)
    closed = linear.encode(values[:300], everywhere(values[:300])).kl().sum(1).mean().item()
    assert found.mutual_information + found.prior_gap == pytest.approx(closed, abs=4 / 60_000**0.5)


def test_information_of_a_linear_model_is_known(values: Tensor, linear: VAE) -> None:
    """I(x; z) = sum_i log(l_i / sigma^2) / 2 over its latents, and its codes together lack nothing of the prior."""
    found = information(linear, values, everywhere(values))
    expected = sum(math.log(each / NOISE) / 2 for each in SPECTRUM[:2])
    assert found.mutual_information == pytest.approx(expected, abs=0.02)
    assert found.prior_gap == pytest.approx(0, abs=0.02)


def test_a_wrong_prior_widens_the_gap(values: Tensor, linear: VAE) -> None:
    """Codes shifted by d from the prior know as much as before, and are d^2 / 2 nats further from it."""
    found = information(linear, values, everywhere(values), draws=1)
    shifted = optimum(ppca.fit(values, latent=2))
    with torch.no_grad():
        shifted.mean.bias.add_(torch.tensor([2.0, 0.0]))
    other = information(shifted, values, everywhere(values), draws=1)
    assert other.mutual_information == pytest.approx(found.mutual_information, abs=1e-9)
    assert other.prior_gap - found.prior_gap == pytest.approx(2.0, abs=0.1)


def test_a_collapsed_posterior_knows_nothing(values: Tensor) -> None:
    """If q(z | x) is the prior whatever x, information and gap are zero, to rounding."""
    model = optimum(ppca.fit(values, latent=2))
    with torch.no_grad():
        for parameter in (*model.mean.parameters(), *model.logvar.parameters()):
            parameter.zero_()
    found = information(model, values[:200], everywhere(values[:200]))
    assert found.mutual_information == pytest.approx(0, abs=1e-12)
    assert found.prior_gap == pytest.approx(0, abs=1e-12)


def test_rows_cannot_be_told_apart_better_than_by_name(values: Tensor) -> None:
    """I(x; z) <= log(rows), and all but equal to it where hardly two codes overlap."""
    model = optimum(ppca.fit(values, latent=2))
    with torch.no_grad():
        model.logvar.bias.fill_(-16)
    found = information(model, values[:50], everywhere(values[:50]))
    assert found.mutual_information <= math.log(50)
    assert found.mutual_information == pytest.approx(math.log(50), abs=1e-3)


def test_the_aggregate_is_the_mean_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """q(z) = mean_n q(z | x_n), whatever the number of pairs held in memory at a time; one row's is its own."""
    means, z = (torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows)).double() for rows in (7, 11))
    posterior = Posterior(means, means.flip(0))
    each = [Posterior(posterior.mean[i : i + 1], posterior.logvar[i : i + 1]).log_prob(z[None]) for i in range(7)]
    expected = torch.cat(each).sum(2).exp().mean(0).log()
    for pairs in (1, 50, 10**6):
        monkeypatch.setattr("vae.information.PAIRS", pairs)
        torch.testing.assert_close(aggregate(posterior, z), expected, rtol=0, atol=1e-12)


def test_information_is_repeatable_by_its_seed(values: Tensor, linear: VAE) -> None:
    """The same seed, the same figures, to the bit; another seed, others; torch's own generator stays as it was."""
    before = torch.get_rng_state()
    one, again, other = (information(linear, values[:50], everywhere(values[:50]), seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert torch.equal(torch.get_rng_state(), before)


def test_a_deterministic_encoder_is_refused() -> None:
    """Its codes are points, about which nothing finite can be said."""
    model = mixed(encoder="deterministic")
    with pytest.raises(ValueError, match=r"^a deterministic encoder has no finite mutual information$"):
        information(model, *table(model.config, 3))
