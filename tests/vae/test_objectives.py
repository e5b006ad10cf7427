"""The bounds: never above log p(x), equal to it at the true posterior, and with the gradients that are claimed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from exact import log_evidence, normal
from family import EVERY, build, frozen, network, table
from torch import Tensor
from torch.distributions import Normal
from torch.func import functional_call

from vae.config import Column, ModelConfig, Network, Objective
from vae.fit import Loss
from vae.importance import log_evidence as sampled_evidence
from vae.model import VAE, Posterior
from vae.noise import Noise, corrupt
from vae.objectives import Elbo, elbo, iwae, kl, log_weights
from vae.prior import Prior

Rows = tuple[Tensor, Tensor]
ROWS = 6
NODES = {1: 241, 2: 161}
"""Nodes per latent dimension at which quadrature has converged."""


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that no global state is touched."""
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int) -> Tensor:
    """Standard normal float64."""
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, *, atol: float = 1e-11) -> None:
    """Equal, to the digits that float64 leaves."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def mixed(latent: int, *, prior: str = "normal") -> VAE:
    """A model over a column of every kind whose q(z | x) is wide, so that weights have all their moments."""
    settings = network(latent=latent, prior=prior)
    model = build(ModelConfig(columns=EVERY, network=settings), seed=4, shake=0.2)
    assert model.logvar is not None
    with torch.no_grad():
        model.logvar.weight.mul_(0.1)
        model.logvar.bias.zero_()
    if prior == "mixture":
        log_weight = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
        model.set_prior(Prior(log_weight, 0.6 * randn(3, latent, seed=3), -0.2 * randn(3, latent, seed=4).abs()))
    return model


def rows(model: VAE) -> Rows:
    """Six rows, about a third of their nullable cells missing."""
    return table(model.config, ROWS)


def drawn(model: VAE, *, draws: int, rows: int = ROWS) -> Tensor:
    """Noise for some rows."""
    return randn(rows, draws, model.config.network.latent, seed=draws)


def repeated(posterior: Posterior, times: int) -> Posterior:
    """Each row's, so many times over."""
    return Posterior(posterior.mean.repeat_interleave(times, 0), posterior.logvar.repeat_interleave(times, 0))


def exact_elbo(model: VAE, cells: Rows, posterior: Posterior) -> Tensor:
    """The ELBO of each row, its expectation over q(z | x) taken by quadrature; differentiable."""
    noise, weights = normal(NODES[posterior.mean.shape[1]], posterior.mean.shape[1])
    many = [part.repeat_interleave(len(noise), 0) for part in cells]
    bound = elbo(model, *many, repeated(posterior, len(noise)), noise.repeat(len(cells[0]), 1)[:, None]).per_row()
    return bound.view(-1, len(noise)) @ weights


def slopes(bound: Tensor, model: VAE) -> list[Tensor]:
    """Its gradient in every parameter."""
    return list(torch.autograd.grad(bound, list(model.parameters()), retain_graph=True, materialize_grads=True))


def test_quadrature_has_converged() -> None:
    """Meta: log p(x) depends neither on the number of nodes nor on the rule, be it ours or Gauss-Hermite."""
    for latent in (1, 2):
        model = mixed(latent)
        few, many = (
            log_evidence(model, *rows(model), nodes=nodes) for nodes in (NODES[latent], NODES[latent] * 3 // 2)
        )
        close(few, many, atol=1e-8)
    model = mixed(1)
    z, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(160))
    values, observed = (part[:, None].expand(-1, 160, -1) for part in rows(model))
    outputs = model.decode(z[:, None])
    fits = [model.columns.log_prob(outputs, *row).sum(1) for row in zip(values, observed, strict=True)]
    close(
        (torch.stack(fits) + (weights / weights.sum()).log()).logsumexp(1), log_evidence(model, *rows(model)), atol=1e-6
    )


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp"])
@pytest.mark.parametrize("latent", [1, 2])
def test_the_mean_weight_is_the_evidence(latent: int, prior: str) -> None:
    """E[w] over z ~ q(z | x) is p(x), integrated over q on one side and over p(z) on the other: nothing is left out."""
    model = mixed(latent, prior=prior)
    noise, weights = normal(NODES[latent], latent)
    q = model.encode(*rows(model))
    found = log_weights(model, *rows(model), q.sample(noise.expand(ROWS, -1, -1)), q) + weights.log()
    close(found.logsumexp(1).detach(), log_evidence(model, *rows(model), nodes=NODES[latent]), atol=1e-8)


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp"])
@pytest.mark.parametrize("latent", [1, 2])
def test_elbo_is_below_the_evidence(latent: int, prior: str) -> None:
    """With its expectation exact, ELBO < log p(x) for every row, under every prior: q is not the true posterior."""
    model = mixed(latent, prior=prior)
    bound = exact_elbo(model, rows(model), model.encode(*rows(model))).detach()
    assert (bound < log_evidence(model, *rows(model), nodes=NODES[latent]) - 1e-3).all()


@pytest.mark.parametrize("latent", [1, 2])
def test_bounds_tighten_with_draws(latent: int) -> None:
    """E[L_1] < E[L_5] < E[L_50] < log p(x), on draws of their own for each k, beyond four standard errors."""
    model, sets = mixed(latent), {1: 8000, 5: 4000, 50: 1000}
    means, errors = [], []
    with torch.no_grad():
        for k, times in sets.items():
            many = [part.repeat_interleave(times, 0) for part in rows(model)]
            found = iwae(model, *many, model.encode(*many), drawn(model, draws=k, rows=ROWS * times)).view(ROWS, times)
            means.append(found.mean())
            errors.append((found.var(1) / times).mean().sqrt() / ROWS**0.5)
        means.append(log_evidence(model, *rows(model), nodes=NODES[latent]).mean())
        errors.append(torch.zeros_like(errors[0]))
    for low, high in zip(range(3), range(1, 4), strict=True):
        assert means[high] - means[low] > 4 * torch.hypot(errors[low], errors[high])


@pytest.mark.parametrize("latent", [1, 2])
def test_importance_sampling_reaches_the_evidence(latent: int) -> None:
    """With 20,000 samples the judge's log p(x) is within four standard errors of the integral, which are small."""
    model, samples = mixed(latent), 20_000
    q = model.encode(*rows(model))
    weights = log_weights(model, *rows(model), q.sample(drawn(model, draws=2000)), q).softmax(1).detach()
    error = ((2000 * weights).var(1) / samples).sqrt()
    found = sampled_evidence(model, *rows(model), samples=samples, generator=seeded(1))
    apart = (found - log_evidence(model, *rows(model), nodes=NODES[latent])).abs()
    assert error.max() < 0.05
    assert (apart < 4 * error).all()


def test_gap_is_the_divergence_from_the_true_posterior() -> None:
    """log p(x) - ELBO = KL(q(z | x) || p(z | x)), integrated on a grid that shares nothing with the bound."""
    model = mixed(1)
    q = model.encode(*rows(model))
    gap = log_evidence(model, *rows(model)) - exact_elbo(model, rows(model), q)
    z = torch.linspace(-15, 15, 3001, dtype=torch.float64)
    outputs = model.decode(z[:, None])
    for row, (values, observed) in enumerate(zip(*rows(model), strict=True)):
        fit = model.columns.log_prob(outputs, values.expand(len(z), -1), observed.expand(len(z), -1)).sum(1)
        joint = fit + Normal(0.0, 1.0).log_prob(z)
        true = joint - torch.trapezoid(joint.exp(), z).log()
        claimed = Normal(q.mean[row, 0], (0.5 * q.logvar[row, 0]).exp()).log_prob(z)
        close(gap[row], torch.trapezoid(claimed.exp() * (claimed - true), z), atol=1e-8)


def test_terms_are_kept_apart() -> None:
    """The terms are the mean log-likelihood of each feature over the draws, and the KL of each latent dimension."""
    model = mixed(2)
    q, noise = model.encode(*rows(model)), drawn(model, draws=3)
    terms = elbo(model, *rows(model), q, noise)
    each = [model.columns.log_prob(model.decode(z), *rows(model)) for z in q.sample(noise).unbind(1)]
    close(terms.log_likelihood, torch.stack(each).mean(0))
    close(terms.kl, q.kl())
    close(terms.per_row(), terms.log_likelihood.sum(1) - terms.kl.sum(1))


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp"])
def test_estimated_divergence_is_the_divergence(prior: str) -> None:
    """Over the draws log q - log p is the KL; closed form under N(0, I), one estimated term under another prior."""
    model = mixed(1, prior=prior)
    q, (noise, weights) = model.encode(*rows(model)), normal(NODES[1])
    z = q.sample(noise.expand(ROWS, -1, -1))
    exact = (q.log_prob(z).sum(2) - model.prior().log_prob(z)) @ weights
    if prior == "normal":
        close(kl(model, q, z[:, :1])[:, 0], exact)
    else:
        many = kl(model, repeated(q, len(noise)), z.flatten(0, 1)[:, None])
        assert many.shape == (ROWS * len(noise), 1)
        close(many.view(ROWS, -1) @ weights, exact)
    assert (exact > 0).all()


def test_a_mixture_of_standard_normals_is_the_standard_normal() -> None:
    """Before it is fitted, prior = 'mixture' gives the bound that prior = 'normal' gives."""
    bounds = []
    for prior in ("normal", "mixture"):
        model = build(ModelConfig(columns=EVERY, network=network(prior=prior)), seed=4)
        bounds.append(elbo(model, *rows(model), model.encode(*rows(model)), drawn(model, draws=2)))
    close(bounds[0].kl, bounds[1].kl)
    close(bounds[0].per_row(), bounds[1].per_row())


def test_beta_weighs_the_divergence() -> None:
    """The objective is linear in beta, with slope minus the KL: beta = 0 leaves the log-likelihood."""
    model = mixed(2)
    terms = elbo(model, *rows(model), model.encode(*rows(model)), drawn(model, draws=1))
    close(terms.per_row(beta=0.0), terms.log_likelihood.sum(1))
    close(terms.per_row(beta=1.0) - terms.per_row(beta=4.0), 3 * terms.kl.sum(1))


def test_free_bits_press_only_what_exceeds_them() -> None:
    """A dimension whose KL is below `free_bits` nats costs that much and has no gradient; above, it is as it was."""
    divergence = torch.tensor([[0.1, 0.7], [0.4, 0.2]], dtype=torch.float64, requires_grad=True)
    terms = Elbo(torch.zeros(2, 3, dtype=torch.float64), divergence)
    close(terms.per_row(free_bits=0.5, beta=2.0), torch.tensor([-2.4, -2.0], dtype=torch.float64))
    (slope,) = torch.autograd.grad(terms.per_row(free_bits=0.5, beta=2.0).sum(), divergence)
    assert slope.tolist() == [[0, -2], [0, 0]]


def test_an_estimated_divergence_may_be_negative() -> None:
    """Without free bits no term is cut off at zero, which would bias the bound under every prior but N(0, I)."""
    divergence = torch.tensor([[-0.3], [0.5]], dtype=torch.float64, requires_grad=True)
    bound = Elbo(torch.zeros(2, 3, dtype=torch.float64), divergence).per_row()
    assert bound.tolist() == [0.3, -0.5]
    (slope,) = torch.autograd.grad(bound.sum(), divergence)
    assert slope.tolist() == [[-1], [-1]]


def test_missing_everything_costs_only_the_divergence() -> None:
    """A row without any observed cell has log-likelihood exactly 0: its bound is minus its KL, and p(nothing) is 1."""
    model = mixed(1)
    values, nothing = rows(model)[0], torch.zeros_like(rows(model)[1])
    terms = elbo(model, values, nothing, model.encode(values, nothing), drawn(model, draws=2))
    assert torch.count_nonzero(terms.log_likelihood) == 0
    close(terms.per_row(), -terms.kl.sum(1))
    close(log_evidence(model, values, nothing), torch.zeros(ROWS, dtype=torch.float64))


def test_content_of_missing_cells_changes_nothing() -> None:
    """With NaN where nothing is observed every bound is the same to the bit, and so is every gradient."""
    model = mixed(2)
    values, observed = rows(model)
    found = []
    for cells in (values, values.where(observed, math.nan)):
        q = model.encode(cells, observed)
        bound = iwae(model, cells, observed, q, drawn(model, draws=2))
        found.append(
            (bound, *slopes(bound.sum() + elbo(model, cells, observed, q, drawn(model, draws=1)).kl.sum(), model))
        )
    assert all(map(torch.equal, *found))


def test_units_shift_the_bounds_by_a_constant() -> None:
    """Stating a column in units a thousand times smaller lowers every bound by log 1000 per observed cell."""
    values, observed = randn(9, 1, seed=1), torch.arange(9)[:, None] % 3 > 0
    found = []
    for scale in (1.0, 1000.0):
        column = Column(name="x", likelihood="gaussian", scale=scale, center=scale, nullable=True)
        model = build(ModelConfig(columns=(column,), network=Network(latent=1, hidden=(3,))), seed=7)
        row = (model, values, observed, model.encode(values, observed), drawn(model, draws=4, rows=9))
        found.append(torch.stack([elbo(*row).per_row(), iwae(*row)]))
    close(found[0] - found[1], (math.log(1000.0) * observed[:, 0].double()).expand(2, -1))


def test_a_deterministic_encoder_has_no_divergence() -> None:
    """Its bound is the fit at the code, whatever the noise; the KL is zero in every dimension."""
    model = build(ModelConfig(columns=EVERY, network=network(encoder="deterministic")), seed=4, shake=0.2)
    q = model.encode(*rows(model))
    terms = elbo(model, *rows(model), q, drawn(model, draws=2))
    assert torch.equal(terms.kl, torch.zeros_like(q.mean))
    close(terms.per_row(), model.columns.log_prob(model.decode(q.mean), *rows(model)).sum(1))


@pytest.mark.parametrize("kind", ["gaussian", "masking", "salt_and_pepper"])
def test_a_denoising_model_sees_the_noise_and_fits_the_clean_row(kind: str) -> None:
    """Its loss is the bound of the clean row at q(z | x~): still below log p(x), and another than the plain one."""
    model, objective = mixed(1), Objective(noise=kind, noise_level=0.4)
    noise = frozen(model, objective, ROWS)
    shown = corrupt(objective, model.columns, *rows(model), noise.corruption)
    terms = elbo(model, *rows(model), model.encode(*shown), noise.posterior)
    loss = Loss(model, objective)(*rows(model), noise)
    close(loss, -terms.per_row())
    assert (loss - Loss(model, Objective())(*rows(model), noise)).abs().max() > 1e-3
    assert (exact_elbo(model, rows(model), model.encode(*shown)) < log_evidence(model, *rows(model))).all()


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp"])
@pytest.mark.parametrize(
    "objective",
    [Objective(draws=2), Objective(bound="iwae", draws=3, gradient="reparameterised")],
    ids=["elbo", "iwae"],
)
def test_gradient_is_that_of_finite_differences(objective: Objective, prior: str) -> None:
    """With frozen noise the gradient of each bound equals finite differences, along any direction of the parameters."""
    model = mixed(2, prior=prior)
    loss, noise = Loss(model, objective), frozen(model, objective, ROWS)
    names, parameters = zip(*loss.named_parameters(), strict=True)

    def total(*parameters: Tensor) -> Tensor:
        moved: Tensor = functional_call(loss, dict(zip(names, parameters, strict=True)), (*rows(model), noise, 1.0))
        return moved.sum()

    assert torch.autograd.gradcheck(total, parameters, eps=1e-6, atol=1e-5, rtol=1e-6, fast_mode=True)


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp"])
def test_iwae_of_one_draw_is_the_sampled_elbo(prior: str) -> None:
    """L_1 with its plain gradient is the ELBO with sampled KL: value and every parameter's gradient, draw by draw."""
    model = mixed(2, prior=prior)
    q, noise = model.encode(*rows(model)), drawn(model, draws=1)
    one = iwae(model, *rows(model), q, noise, gradient="reparameterised")
    z = q.sample(noise)
    sampled = (q.log_prob(z).sum(2) - model.prior().log_prob(z)).mean(1)
    other = elbo(model, *rows(model), q, noise).log_likelihood.sum(1) - sampled
    close(one, other)
    for mine, theirs in zip(slopes(one.sum(), model), slopes(other.sum(), model), strict=True):
        close(mine, theirs)


@pytest.mark.parametrize("gradient", ["reparameterised", "dreg"])
@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp"])
def test_iwae_of_one_draw_has_the_elbos_gradient_on_average(prior: str, gradient: str) -> None:
    """Integrated over the noise, both gradients of L_1 are the ELBO's, its KL in closed form where there is one."""
    model = mixed(1, prior=prior)
    q, (noise, weights) = model.encode(*rows(model)), normal(NODES[1])
    many = [part.repeat_interleave(len(noise), 0) for part in rows(model)]
    bound = iwae(model, *many, repeated(q, len(noise)), noise.repeat(ROWS, 1)[:, None], gradient=gradient)
    found, expected = (
        slopes(bound @ weights.repeat(ROWS), model),
        slopes(exact_elbo(model, rows(model), q).sum(), model),
    )
    for mine, theirs in zip(found, expected, strict=True):
        close(mine, theirs, atol=1e-9)


@pytest.mark.parametrize("prior", ["normal", "vamp"])
def test_both_gradients_of_iwae_are_equal_on_average(prior: str) -> None:
    """Integrated over the noise of two draws, the doubly reparameterised gradient of L_2 is the plain one."""
    model = mixed(1, prior=prior)
    values, observed = (part[:1] for part in rows(model))
    noise, weights = normal(161, 2)
    many = [part.expand(len(noise), -1) for part in (values, observed)]
    found = []
    for gradient in ("dreg", "reparameterised"):
        q = repeated(model.encode(values, observed), len(noise))
        found.append(slopes(iwae(model, *many, q, noise[:, :, None], gradient=gradient) @ weights, model))
    for mine, theirs in zip(*found, strict=True):
        close(mine, theirs, atol=1e-8)


@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_both_gradients_of_iwae_have_one_value_and_one_decoder(prior: str) -> None:
    """Draw by draw `dreg` changes neither the bound nor the decoder's gradient, only the encoder's."""
    model = mixed(2, prior=prior)
    found = {}
    for gradient in ("dreg", "reparameterised"):
        bound = iwae(model, *rows(model), model.encode(*rows(model)), drawn(model, draws=5), gradient=gradient)
        names = [name for name, _ in model.named_parameters()]
        found[gradient] = bound, dict(zip(names, slopes(bound.sum(), model), strict=True))
    (one, mine), (other, theirs) = found.values()
    close(one, other)
    for name, slope in mine.items():
        if name.startswith(("decoder", "columns")):
            close(slope, theirs[name])
    assert not torch.allclose(mine["mean.weight"], theirs["mean.weight"], rtol=1e-2)


def encoder_slopes(model: VAE, *, draws: int, gradient: str, times: int = 400) -> Tensor:
    """Gradients `[time, 2]` of L_k of one row in its posterior's mean and log-variance, for independent draws."""
    values, observed = (part[:1].expand(times, -1) for part in rows(model))
    q = model.encode(values, observed)
    leaf = Posterior(q.mean.detach().requires_grad_(), q.logvar.detach().requires_grad_())
    bound = iwae(model, values, observed, leaf, drawn(model, draws=draws, rows=times), gradient=gradient)
    return torch.cat(torch.autograd.grad(bound.sum(), [leaf.mean, leaf.logvar]), 1)


def test_doubly_reparameterised_gradients_gain_from_draws() -> None:
    """Their variance falls with k = 1, 4, 16, 64, and their signal-to-noise ratio beats the plain gradient's at 64."""
    model = mixed(1)
    variances = [encoder_slopes(model, draws=k, gradient="dreg").var(0) for k in (1, 4, 16, 64)]
    for more, fewer in zip(variances[1:], variances[:-1], strict=True):
        assert (more < fewer / 2).all()
    ratios = {}
    for gradient in ("dreg", "reparameterised"):
        found = encoder_slopes(model, draws=64, gradient=gradient)
        ratios[gradient] = found.mean(0).abs() / found.std(0)
    assert (ratios["dreg"] > 2 * ratios["reparameterised"]).all()


def test_frozen_noise_is_all_that_is_random() -> None:
    """Meta: a loss is a function of its arguments, twice the same to the bit."""
    model, objective = mixed(2), Objective(bound="iwae", draws=3, noise="masking", noise_level=0.3)
    noise = frozen(model, objective, ROWS)
    assert isinstance(noise, Noise)
    one, other = (Loss(model, objective)(*rows(model), noise) for _ in range(2))
    assert torch.equal(one, other)
