"""The bound: never above log p(x), equal to it at the true posterior, and differentiable as stated."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.func import functional_call

from vae.config import Column, ModelConfig, Network
from vae.likelihoods import Gaussian
from vae.model import VAE, Pass, Posterior
from vae.objectives import elbo

Batch = tuple[Tensor, Tensor, Tensor]


def quadrature(nodes: int) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes and weights: sum(weights * f(nodes)) = E[f(z)] for z standard normal."""
    z, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.from_numpy(z), torch.from_numpy(weights / weights.sum())


def log_evidence(model: VAE, values: Tensor, observed: Tensor, *, nodes: int = 120) -> Tensor:
    """log p(x) of each row of a model with one latent dimension, by quadrature over the prior."""
    z, weights = quadrature(nodes)
    outputs = model.decode(z[:, None])
    per_row = [
        model.columns.log_prob(outputs, row.expand(nodes, -1), seen.expand(nodes, -1)).sum(1)
        for row, seen in zip(values, observed, strict=True)
    ]
    return (torch.stack(per_row) + weights.log()).logsumexp(1)


def repeated(model: VAE, values: Tensor, observed: Tensor, noise: Tensor) -> Tensor:
    """The bound `[row, draw]` of every row at every one of the draws `noise[draw]`."""
    rows, draws = len(values), len(noise)
    tiled = (values.repeat_interleave(draws, 0), observed.repeat_interleave(draws, 0), noise.repeat(rows)[:, None])
    return elbo(model, *tiled).per_row().reshape(rows, draws)


@pytest.fixture
def narrow(config: ModelConfig) -> VAE:
    """A model with one latent dimension over the columns of `config`, far enough from collapse to matter."""
    generator = torch.Generator().manual_seed(5)
    network = Network(latent=1, hidden=(4,), activation="tanh")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = VAE(ModelConfig(columns=config.columns, network=network)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def test_quadrature_has_converged(narrow: VAE, batch: Batch) -> None:
    """Meta: log p(x) by quadrature no longer depends on the number of nodes."""
    values, observed, _ = batch
    few, many = (log_evidence(narrow, values, observed, nodes=nodes) for nodes in (80, 160))
    torch.testing.assert_close(few, many, rtol=0, atol=1e-8)


def test_bound_is_below_log_evidence(narrow: VAE, batch: Batch) -> None:
    """Averaged over many noise draws, ELBO <= log p(x) for every row, missing cells or not."""
    values, observed, _ = batch
    noise = torch.randn(3_000, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    draws = repeated(narrow, values, observed, noise).detach()
    slack = 4 * draws.std(1) / 3_000**0.5
    assert (draws.mean(1) <= log_evidence(narrow, values, observed) + slack).all()


def test_bound_is_strictly_below_an_inexact_posterior(narrow: VAE, batch: Batch) -> None:
    """With the expectation over noise taken exactly, ELBO < log p(x): this encoder is not the true posterior."""
    values, observed, _ = batch
    noise, weights = quadrature(80)
    exact = (repeated(narrow, values, observed, noise) * weights).sum(1)
    gap = log_evidence(narrow, values, observed) - exact
    assert (gap > 1e-3).all()


def test_gap_is_the_divergence_from_the_true_posterior(narrow: VAE, batch: Batch) -> None:
    """log p(x) - ELBO = KL(q(z | x) || p(z | x)), here integrated on a grid that shares nothing with the model."""
    values, observed, _ = (part[:3] for part in batch)
    noise, weights = quadrature(80)
    gap = log_evidence(narrow, values, observed) - (repeated(narrow, values, observed, noise) * weights).sum(1)
    q = narrow.encode(values, observed)
    z = torch.linspace(-40, 40, 16_001, dtype=torch.float64)
    outputs = narrow.decode(z[:, None])
    for row in range(3):
        seen = (values[row].expand(len(z), -1), observed[row].expand(len(z), -1))
        joint = narrow.columns.log_prob(outputs, *seen).sum(1) + Normal(0.0, 1.0).log_prob(z)
        true = joint - torch.trapezoid(joint.exp(), z).log()
        claimed = Normal(q.mean[row, 0], (0.5 * q.logvar[row, 0]).exp()).log_prob(z)
        divergence = torch.trapezoid(claimed.exp() * (claimed - true), z)
        torch.testing.assert_close(gap[row], divergence, rtol=1e-5, atol=1e-7)


def test_bound_is_tight_at_the_true_posterior() -> None:
    """For a linear-Gaussian model with its exact posterior, ELBO = log N(x; b, w^2 + s^2), in original units."""
    column = Column(name="x", likelihood="gaussian", scale=40.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VAE(ModelConfig(columns=(column,), network=Network(latent=1, hidden=()))).double()
    (block,) = model.columns.blocks
    assert isinstance(block, Gaussian)
    w, b, s = 1.7, -0.4, block.scale().item()
    variance = 1 / (1 + (w / s) ** 2)
    with torch.no_grad():
        model.outputs.weight.fill_(w)
        model.outputs.bias.fill_(b)
        model.mean.weight.fill_(variance * w / s**2)
        model.mean.bias.fill_(-variance * w * b / s**2)
        model.logvar.weight.zero_()
        model.logvar.bias.fill_(math.log(variance))
    values = torch.linspace(-3, 3, 9, dtype=torch.float64)[:, None]
    observed = torch.ones_like(values, dtype=torch.bool)
    noise, weights = quadrature(5)
    exact = (repeated(model, values, observed, noise) * weights).sum(1)
    expected = Normal(b, math.hypot(w, s)).log_prob(values[:, 0]) - math.log(40.0)
    torch.testing.assert_close(exact, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_evidence(model, values, observed), expected, rtol=1e-6, atol=1e-6)


def test_gradient_is_that_of_finite_differences(model: VAE, batch: Batch) -> None:
    """With frozen noise, the gradient of the bound equals finite differences in every parameter."""
    values, observed, noise = (part[:4] for part in batch)
    names, parameters = zip(*model.named_parameters(), strict=True)

    def bound(*parameters: Tensor) -> Tensor:
        def moved(*inputs: Tensor) -> Pass:
            result = functional_call(model, dict(zip(names, parameters, strict=True)), inputs)
            assert isinstance(result, Pass)
            return result

        return elbo(moved, values, observed, noise).per_row(beta=0.7).sum()

    assert torch.autograd.gradcheck(bound, parameters, eps=1e-6, atol=1e-5, rtol=1e-5)


def test_terms_are_kept_apart(model: VAE, batch: Batch) -> None:
    """The terms are the model's own log-likelihood per feature and KL per latent dimension."""
    result = model(*batch)
    terms = elbo(model, *batch)
    assert torch.equal(terms.log_likelihood, result.log_likelihood)
    assert torch.equal(terms.kl, Posterior(result.mean, result.logvar).kl())
    torch.testing.assert_close(terms.per_row(), terms.log_likelihood.sum(1) - terms.kl.sum(1))


def test_beta_weighs_the_divergence(model: VAE, batch: Batch) -> None:
    """The bound is linear in beta, with slope minus the KL: beta = 0 leaves the log-likelihood."""
    terms = elbo(model, *batch)
    torch.testing.assert_close(terms.per_row(beta=0.0), terms.log_likelihood.sum(1))
    torch.testing.assert_close(terms.per_row(beta=1.0) - terms.per_row(beta=4.0), 3 * terms.kl.sum(1))


def test_missing_everything_costs_only_the_divergence(model: VAE, batch: Batch) -> None:
    """A row without any observed cell has log-likelihood exactly zero, so its bound is minus its KL."""
    values, observed, noise = batch
    terms = elbo(model, values, torch.zeros_like(observed), noise)
    assert torch.count_nonzero(terms.log_likelihood) == 0
    torch.testing.assert_close(terms.per_row(), -terms.kl.sum(1))


def test_units_shift_the_bound_by_a_constant(batch: Batch) -> None:
    """Stating a column in units a thousand times smaller lowers the bound by log 1000 per observed cell."""
    values, _, noise = (part[:, :1] for part in batch)
    observed = torch.arange(len(values))[:, None] % 3 > 0
    bounds = []
    for scale in (1.0, 1000.0):
        column = Column(name="x", likelihood="gaussian", scale=scale, nullable=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            model = VAE(ModelConfig(columns=(column,), network=Network(latent=1, hidden=(3,)))).double()
        bounds.append(elbo(model, values, observed, noise).per_row())
    expected = math.log(1000.0) * observed[:, 0].double()
    torch.testing.assert_close(bounds[0] - bounds[1], expected, rtol=1e-6, atol=1e-9)
