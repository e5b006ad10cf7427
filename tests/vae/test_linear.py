"""The proofs that need no hidden layer: the linear model is pPCA, PCA and the optimal denoiser."""

from __future__ import annotations

import math

import pytest
import torch
from exact import corners, gaussian_rows, linear, log_evidence, noise_scale, optimum
from torch import Tensor
from torch.distributions import MultivariateNormal

from vae import evaluate, fit, importance, ppca
from vae.config import Objective
from vae.model import VAE, Posterior
from vae.noise import draw
from vae.objectives import elbo, iwae, log_weights
from vae.ppca import PPCA

SPECTRUM = [12.0, 4.0, 1.2, 0.3, 0.25, 0.2, 0.15, 0.1]
"""Eigenvalues of a covariance: three directions, and a noise that is not quite isotropic."""


def everywhere(values: Tensor) -> Tensor:
    """All cells observed."""
    return torch.ones_like(values, dtype=torch.bool)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that no global state is touched."""
    return torch.Generator().manual_seed(seed)


def close(actual: Tensor, expected: Tensor, *, atol: float = 1e-11) -> None:
    """Equal, to the digits that float64 leaves."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def exact_elbo(model: VAE, values: Tensor, observed: Tensor) -> Tensor:
    """The ELBO of each row under a linear model, its expectation taken exactly."""
    posterior = model.encode(values, observed)
    return elbo(model, values, observed, posterior, corners(len(values), posterior.mean.shape[1])).per_row()


def train(model: VAE, objective: Objective, values: Tensor, *, steps: int, rate: float, batch: int) -> VAE:
    """Adam with cosine decay on random rows, or on all of them."""
    loss, generator = fit.Loss(model, objective), seeded(1)
    adam = fit.optimizer(model.parameters(), learning_rate=rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        rows = values[torch.randperm(len(values), generator=generator)[:batch]]
        latent = model.config.network.latent
        noise = draw(objective, model.columns, rows=len(rows), latent=latent, generator=generator)
        fit.step(loss, adam, rows, everywhere(rows), noise, share=1 / len(rows))
        decay.step()
    return model


@pytest.fixture(scope="module")
def raw() -> Tensor:
    """Rows in units of their own: a mean and a scale that are not standardised."""
    rows, _ = gaussian_rows(SPECTRUM, rows=500, seed=0)
    return 7 + 2.5 * (rows + torch.linspace(-1, 1, len(SPECTRUM), dtype=torch.float64))


@pytest.fixture(scope="module")
def rival(raw: Tensor) -> PPCA:
    """The maximum of the likelihood, found in the data's own units."""
    return ppca.fit(raw, latent=3)


@pytest.fixture(scope="module")
def model(rival: PPCA) -> VAE:
    """The same as a VAE, which works in standardised units and states its likelihood in the original ones."""
    inside = PPCA((rival.mean - 7) / 2.5, rival.weight / 2.5, rival.variance / 2.5**2)
    return optimum(inside, center=7.0, scale=2.5)


@pytest.fixture(scope="module")
def values(raw: Tensor) -> Tensor:
    """The rows as the model sees them."""
    return (raw - 7) / 2.5


def test_elbo_is_the_likelihood_at_ppcas_optimum(model: VAE, rival: PPCA, raw: Tensor, values: Tensor) -> None:
    """ELBO = log p(x) of pPCA, row by row and in original units: q(z | x) is the exact posterior."""
    close(exact_elbo(model, values, everywhere(values)), rival.log_prob(raw))


@pytest.mark.parametrize("draws", [1, 5, 50])
def test_iwae_is_the_likelihood_for_every_k(draws: int, model: VAE, rival: PPCA, raw: Tensor, values: Tensor) -> None:
    """At the exact posterior L_k = log p(x) whatever k, whatever the draws and whichever gradient is asked for."""
    observed = everywhere(values)
    noise = torch.randn(len(values), draws, 3, generator=seeded(draws), dtype=torch.float64)
    row = (model, values, observed, model.encode(values, observed), noise)
    close(iwae(*row, gradient="dreg"), rival.log_prob(raw))
    close(iwae(*row, gradient="reparameterised"), rival.log_prob(raw))


def test_weights_are_constant_at_ppcas_optimum(model: VAE, values: Tensor) -> None:
    """log w(z) = log p(x) at every z, also far from the posterior's mean: importance sampling without variance."""
    posterior = model.encode(values, everywhere(values))
    noise = 3 * torch.randn(len(values), 50, 3, generator=seeded(2), dtype=torch.float64)
    weights = log_weights(model, values, everywhere(values), posterior.sample(noise), posterior)
    close(weights.amax(1), weights.amin(1))


def test_importance_sampling_is_exact_at_ppcas_optimum(model: VAE, rival: PPCA, raw: Tensor, values: Tensor) -> None:
    """The judge's log p(x) is pPCA's, from three samples as from a thousand; and so is its NLL."""
    observed = everywhere(values)
    for samples in (3, 1000):
        found = importance.log_evidence(model, values, observed, samples=samples, generator=seeded(3))
        close(found, rival.log_prob(raw))
    judged = evaluate.judge(model, [(values, observed)], samples=7)
    assert judged.nll == pytest.approx(-rival.log_prob(raw).mean().item(), abs=1e-11)


def test_quadrature_agrees_with_algebra() -> None:
    """Meta: the integral over z that other proofs compare with is pPCA's closed form, whatever cells are missing."""
    weight = torch.randn(4, 2, generator=seeded(4), dtype=torch.float64)
    rival = PPCA(torch.zeros_like(weight[:, 0]), weight, torch.tensor(2.0, dtype=torch.float64))
    rows = rival.sample(6, generator=seeded(5))
    observed = torch.rand(rows.shape, generator=seeded(6)) > 0.3
    observed[0], observed[1] = False, True
    close(log_evidence(optimum(rival), rows, observed, nodes=81), rival.log_prob(rows, observed))


def test_ppcas_optimum_is_stationary(model: VAE, values: Tensor) -> None:
    """There the gradient of the mean ELBO vanishes in every parameter, the noise's scale included."""
    bound = exact_elbo(model, values, everywhere(values)).mean()
    for slope in torch.autograd.grad(bound, list(model.parameters())):
        close(slope, torch.zeros_like(slope), atol=1e-11)


def test_rotated_latents_cost_a_diagonal_posterior_its_angle(rival: PPCA, raw: Tensor) -> None:
    """W R has pPCA's likelihood, but its best diagonal q loses (sum_i log M_ii - log |M|) / 2 exactly."""
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=seeded(7), dtype=torch.float64))
    turned = PPCA(rival.mean, rival.weight @ rotation, rival.variance)
    precision = turned.weight.mT @ turned.weight + rival.variance * torch.eye(3, dtype=torch.float64)
    loss = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    assert loss > 0.1
    close(turned.log_prob(raw), rival.log_prob(raw), atol=1e-10)
    close(exact_elbo(optimum(turned), raw, everywhere(raw)), rival.log_prob(raw) - loss, atol=1e-10)


@pytest.mark.parametrize("batch", [1000, 200])
def test_training_reaches_ppca(batch: int) -> None:
    """From scratch, a linear VAE comes to pPCA's held-out likelihood, noise and principal axes: no rotation is left."""
    rows, axes = gaussian_rows(SPECTRUM, rows=1000, seed=8)
    held_out = torch.randn(1000, 8, generator=seeded(9), dtype=torch.float64) @ (
        torch.tensor(SPECTRUM).double().sqrt()[:, None] * axes.mT
    )
    rival = ppca.fit(rows, latent=3)
    model = train(linear(8, 3), Objective(), rows, steps=2500, rate=0.05, batch=batch)
    reached, best = exact_elbo(model, held_out, everywhere(held_out)).mean(), rival.log_prob(held_out).mean()
    assert reached.item() == pytest.approx(best.item(), rel=1e-3)
    assert exact_elbo(model, rows, everywhere(rows)).mean() <= rival.log_prob(rows).mean()
    weight = model.decoder.head.weight.detach()
    lengths, order = weight.norm(dim=0).sort(descending=True)
    cosines = (weight[:, order] / lengths * axes[:, :3]).sum(0).abs()
    assert (cosines > 1 - 1e-3).all()
    assert (lengths**2).tolist() == pytest.approx((rival.weight**2).sum(0).tolist(), rel=0.05)
    assert noise_scale(model).scale()[0].item() == pytest.approx(rival.variance.sqrt().item(), rel=0.01)


def test_active_units_are_the_eigenvalues_above_the_noise() -> None:
    """A latent is used iff its eigenvalue exceeds sigma^2, here fixed: Var(E[z_i | x]) = max(0, 1 - sigma^2 / l_i)."""
    spectrum, sigma = [1.5, 0.75, 0.425, 0.15, 0.075, 0.025], 0.5
    rows, _ = gaussian_rows(spectrum, rows=1000, seed=10)
    model = train(linear(6, 5, sigma=sigma), Objective(draws=4), rows, steps=1500, rate=0.03, batch=1000)
    judged = evaluate.judge(model, [(rows, everywhere(rows))], samples=0)
    expected = [max(0.0, 1 - sigma**2 / each) for each in spectrum[:5]]
    assert sorted(judged.variance_per_latent, reverse=True) == pytest.approx(expected, abs=0.01)
    assert judged.active_units == sum(each > sigma**2 for each in spectrum) == 3
    assert judged.verdict == "2 of 5 latent dimensions unused"


def test_masked_elbo_is_ppcas_masked_likelihood() -> None:
    """With the exact posterior given the observed cells, ELBO = IWAE_k = log N(x_o; m_o, W_o W_o' + sigma^2 I)."""
    raw, _ = gaussian_rows(SPECTRUM, rows=200, seed=11)
    rival = ppca.fit(raw, latent=1)
    observed = torch.rand(raw.shape, generator=seeded(12)) > 0.5
    observed[0] = False
    model = optimum(rival)
    mean, covariance = rival.posterior(raw, observed)
    row = (model, raw.where(observed, math.nan), observed, Posterior(mean, covariance[:, 0].log()))
    expected = rival.log_prob(raw, observed)
    close(elbo(*row, corners(200, 1)).per_row(), expected)
    close(iwae(*row, torch.randn(200, 5, 1, generator=seeded(13), dtype=torch.float64)), expected)
    assert (exact_elbo(model, raw, observed) <= expected + 1e-11).all()


def test_denoiser_is_the_optimal_linear_one() -> None:
    """A deterministic linear autoencoder, trained on noisy inputs, becomes m + S (S + s^2 I)^-1 (x~ - m), within 2 %.

    Then (r(x) - x) / s^2 is the slope of the log-density of the noisy rows (Alain and Bengio 2014), within 3 %.
    """
    rows, _ = gaussian_rows([4.0, 2.0, 1.0, 0.25], rows=1000, seed=14)
    mean, s = torch.tensor([1.0, -0.5, 0.0, 0.3], dtype=torch.float64), 0.7
    covariance = rows.mT @ rows / len(rows)
    objective = Objective(noise="gaussian", noise_level=s)
    model = linear(4, 4, encoder="deterministic", sigma=1.0)
    model = train(model, objective, rows + mean, steps=1500, rate=0.03, batch=1000)
    noisy = covariance + s**2 * torch.eye(4, dtype=torch.float64)
    points = torch.cat([mean[None], mean + torch.eye(4, dtype=torch.float64)])
    reached = model.reconstruct(model.encode(points, everywhere(points)).mean).detach()
    expected = mean + (points - mean) @ torch.linalg.solve(noisy, covariance)
    assert (reached - expected).norm() < 0.02 * (expected - mean).norm()
    smoothed = points.clone().requires_grad_()
    (score,) = torch.autograd.grad(MultivariateNormal(mean, noisy).log_prob(smoothed).sum(), smoothed)
    assert ((reached - points) / s**2 - score).norm() < 0.03 * score.norm()


def test_reconstruction_error_is_what_pca_discards() -> None:
    """A linear autoencoder's squared error is the sum of the eigenvalues it leaves out (Baldi and Hornik 1989)."""
    spectrum = [4.0, 2.0, 1.0, 0.5, 0.25]
    rows, axes = gaussian_rows(spectrum, rows=1000, seed=15)
    model = linear(5, 2, encoder="deterministic", sigma=1.0)
    train(model, Objective(), rows, steps=1000, rate=0.03, batch=1000)
    judged = evaluate.judge(model, [(rows, everywhere(rows))])
    error = judged.error_per_column["x"]
    assert error is not None
    assert 5 * error**2 == pytest.approx(sum(spectrum[2:]), rel=1e-6)
    spanned, _ = torch.linalg.qr(model.decoder.head.weight.detach())
    cosines = torch.linalg.svdvals(spanned.mT @ axes[:, :2])
    close(cosines, torch.ones(2, dtype=torch.float64), atol=1e-6)
