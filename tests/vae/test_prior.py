"""p(z): a density, its marginals, its draws, and the fit that never goes down."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from family import EVERY, build, network, table
from torch import Generator, Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from vae import fit as fitting
from vae import prior as priors
from vae.config import ModelConfig
from vae.model import VAE, Posterior
from vae.prior import VARIANCE_FLOOR, Prior


def mixture(latent: int, components: int = 3) -> Prior:
    """A mixture of unequal components, float64."""
    generator = Generator().manual_seed(latent)
    weight, mean, logvar = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((components,), (components, latent), (components, latent))
    )
    return Prior(weight.log_softmax(0), 1.5 * mean, 0.7 * logvar)


def torchs(prior: Prior) -> MixtureSameFamily:
    """The same mixture, by torch.distributions."""
    each = Independent(Normal(prior.mean, (0.5 * prior.logvar).exp()), 1)
    return MixtureSameFamily(Categorical(logits=prior.log_weight), each)


def grid(latent: int, *, reach: float = 14.0, points: int = 561) -> tuple[Tensor, float]:
    """The points of a square grid around 0, and the volume of a cell."""
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * latent).view(-1, latent), float((axis[1] - axis[0]) ** latent)


def clusters(rows: int = 3000, *, spread: float = 0.3, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Means and log-variances of codes around (-2, 0) for 30 % of the rows, around (1, 3) for the others."""
    generator = Generator().manual_seed(seed)
    first = torch.arange(rows) < 0.3 * rows
    centre = torch.where(first[:, None], torch.tensor([-2.0, 0.0]), torch.tensor([1.0, 3.0])).double()
    noise = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    logvar = torch.full((rows, 2), math.log(0.04), dtype=torch.float64)
    return centre + spread * noise, logvar


def bound(prior: Prior, mean: Tensor, logvar: Tensor) -> float:
    """What EM raises: mean over the rows of log sum_k w_k exp(E_q[log N(z; m_k, v_k)])."""
    apart = (mean[:, None] - prior.mean) ** 2 + logvar.exp()[:, None]
    each = -0.5 * (apart / prior.logvar.exp() + prior.logvar + math.log(2 * math.pi)).sum(2)
    return float((prior.log_weight + each).logsumexp(1).mean())


@pytest.mark.parametrize("latent", [1, 2])
def test_the_density_integrates_to_one(latent: int) -> None:
    """The integral of p(z) over a fine grid is 1 to 1e-9, and that of every marginal too."""
    z, volume = grid(latent)
    assert float(mixture(latent).log_prob(z).exp().sum() * volume) == pytest.approx(1, abs=1e-9)
    axis, step = grid(1)
    each = mixture(latent).marginals(axis.expand(-1, latent)).exp().sum(0) * step
    torch.testing.assert_close(each, torch.ones(latent, dtype=torch.float64), rtol=0, atol=1e-9)


def test_a_marginal_is_the_integral_over_the_other_dimension() -> None:
    """log p(z_1) is the logarithm of the integral of p(z_1, z_2) over z_2, to 1e-9."""
    prior = mixture(2)
    axis, step = grid(1)
    for first in (-1.3, 0.0, 2.2):
        line = torch.cat([torch.full_like(axis, first), axis], 1)
        integral = float((prior.log_prob(line).exp().sum() * step).log())
        assert prior.marginals(line[:1])[0, 0].item() == pytest.approx(integral, abs=1e-9)


def test_marginals_of_one_component_add_up() -> None:
    """Dimensions of a single Gaussian are independent: log p(z) is the sum of its marginals."""
    prior, z = mixture(3, components=1), grid(3, points=5)[0]
    torch.testing.assert_close(prior.marginals(z).sum(1), prior.log_prob(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("components", [1, 4])
def test_the_standard_normal_is_torchs(components: int) -> None:
    """N(0, I), as one component or as equal ones, has torch.distributions' density."""
    z = grid(2, points=21)[0]
    expected = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()).log_prob(z)
    part = Prior.normal(2, components=components)
    prior = Prior(part.log_weight.double(), part.mean.double(), part.logvar.double())
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-12, atol=1e-6 * (components > 1))
    torch.testing.assert_close(prior.marginals(z), Normal(0.0, 1.0).log_prob(z), rtol=1e-12, atol=1e-6)


def test_the_mixture_is_torchs() -> None:
    """log p(z) equals torch.distributions' mixture, whatever dimensions stand before the last."""
    prior = mixture(3)
    z = torch.randn(4, 5, 3, generator=Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(z), torchs(prior).log_prob(z), rtol=1e-12, atol=1e-12)
    assert prior.marginals(z).shape == z.shape


def test_draws_have_the_mixtures_moments() -> None:
    """Mean, covariance and the components' shares of many draws are the mixture's, within four standard errors."""
    prior, rows = mixture(2), 100_000
    z = prior.sample(rows, generator=Generator().manual_seed(2))
    expected = torchs(prior)
    torch.testing.assert_close(z.mean(0), expected.mean, rtol=0, atol=4 * float(z.std(0).max()) / rows**0.5)
    square = (z - z.mean(0)) ** 2
    torch.testing.assert_close(
        square.mean(0), expected.variance, rtol=0, atol=4 * float(square.std(0).max()) / rows**0.5
    )
    weight = prior.log_weight.exp()
    cross = float((weight * (prior.mean - expected.mean).prod(1)).sum())
    product = (z - z.mean(0)).prod(1)
    assert product.mean().item() == pytest.approx(cross, abs=4 * float(product.std()) / rows**0.5)


def test_components_are_drawn_by_their_weights() -> None:
    """Of components far apart each is drawn as often as its weight says; one of weight zero never."""
    weight = torch.tensor([0.0, 0.1, 0.0, 0.6, 0.3, 0.0])
    apart = Prior(weight.log(), 1000.0 * torch.arange(6.0)[:, None], torch.zeros(6, 1))
    counts = torch.bincount(
        (apart.sample(20_000, generator=Generator().manual_seed(3)) / 1000).round().long()[:, 0], minlength=6
    )
    assert not counts[weight == 0].any()
    torch.testing.assert_close(counts / 20_000, weight, rtol=0, atol=4 * 0.5 / 20_000**0.5)


def test_draws_are_reproducible() -> None:
    """Equal generators give equal draws; no draws are possible; torch's global generator is left alone."""
    before = torch.random.get_rng_state()
    one, other = (mixture(2).sample(9, generator=Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, other)
    assert mixture(2).sample(0, generator=Generator().manual_seed(4)).shape == (0, 2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("components", [1, 2, 5])
def test_no_iteration_lowers_the_bound(components: int) -> None:
    """Every iteration of EM raises the bound or leaves it, from the first to the fiftieth."""
    mean, logvar = clusters(400)
    fits = [
        priors.fit(mean, logvar, components=components, generator=Generator().manual_seed(5), iterations=iterations)
        for iterations in range(50)
    ]
    bounds = [bound(each, mean, logvar) for each in fits]
    assert all(later >= earlier - 1e-10 for earlier, later in pairwise(bounds))
    assert bounds[-1] > bounds[0] + 0.1


def test_one_component_is_the_moments() -> None:
    """With one component the fit is closed: the codes' mean, and their variance plus their own mean variance."""
    mean, logvar = clusters()
    prior = priors.fit(mean, logvar, components=1, generator=Generator().manual_seed(0), iterations=1)
    torch.testing.assert_close(prior.mean[0], mean.mean(0), rtol=1e-12, atol=1e-12)
    whole = mean.var(0, correction=0) + logvar.exp().mean(0)
    torch.testing.assert_close(prior.logvar[0].exp(), whole, rtol=1e-10, atol=0)
    assert prior.log_weight.exp().item() == pytest.approx(1, abs=1e-12)


def test_a_planted_mixture_is_found() -> None:
    """Weights, means and variances of two clusters come back, within four standard errors."""
    mean, logvar = clusters()
    prior = priors.fit(mean, logvar, components=2, generator=Generator().manual_seed(0))
    first = int(prior.mean[:, 0].argmin())
    for component, weight, centre in ((first, 0.3, (-2.0, 0.0)), (1 - first, 0.7, (1.0, 3.0))):
        rows = 3000 * weight
        assert prior.log_weight[component].exp().item() == pytest.approx(weight, abs=1e-6)
        assert prior.mean[component].tolist() == pytest.approx(centre, abs=4 * 0.3 / rows**0.5)
        variance = 0.3**2 + 0.04
        tolerance = 4 * 0.3**2 * (2 / rows) ** 0.5
        assert prior.logvar[component].exp().tolist() == pytest.approx([variance] * 2, abs=tolerance)


def test_the_fit_beats_the_normal() -> None:
    """On fresh codes of the same clusters E_q[log p(z)] is higher than under N(0, I), by a nat at least."""
    mean, logvar = clusters()
    prior = priors.fit(mean, logvar, components=2, generator=Generator().manual_seed(0))
    fresh = Posterior(*clusters(seed=2))
    noise = torch.randn(3000, 4, 2, generator=Generator().manual_seed(1), dtype=torch.float64)
    z = fresh.sample(noise)
    assert prior.log_prob(z).mean() > Normal(0.0, 1.0).log_prob(z).sum(2).mean() + 1


def test_the_fit_is_deterministic() -> None:
    """Equal generators give equal fits to the bit, and torch's global generator is left alone."""
    before = torch.random.get_rng_state()
    one, other = (priors.fit(*clusters(200), components=4, generator=Generator().manual_seed(6)) for _ in range(2))
    assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_a_fit_is_a_density_even_of_points(rows: int, precision: torch.dtype) -> None:
    """Codes that are points, all equal or fewer than components: finite, weights that sum to one, variances floored."""
    generator = Generator().manual_seed(1)
    for mean in (torch.zeros(rows, 2), torch.randn(rows, 2, generator=generator)):
        points = mean.to(precision)
        logvar = torch.full_like(points, -torch.inf)
        prior = priors.fit(points, logvar, components=6, generator=generator)
        assert all(part.isfinite().all() and part.dtype == precision for part in vars(prior).values())
        assert prior.log_weight.exp().sum().item() == pytest.approx(1, abs=1e-5)
        floor = (VARIANCE_FLOOR * points.var(0, correction=0)).clamp_min(1e-12)
        assert (prior.logvar >= floor.log() - 1e-4).all()
        assert prior.sample(50, generator=generator).isfinite().all()


def test_a_fit_needs_rows() -> None:
    """No codes, no prior."""
    with pytest.raises(ValueError, match="a prior is fitted to at least one row"):
        priors.fit(torch.zeros(0, 2), torch.zeros(0, 2), components=2, generator=Generator())


def some(encoder: str, prior: str) -> VAE:
    """A model of every kind of column, every weight moved."""
    return build(ModelConfig(columns=EVERY, network=network(encoder=encoder, prior=prior)), shake=0.2)


@pytest.mark.parametrize("encoder", ["stochastic", "deterministic"])
def test_a_models_prior_is_fitted_to_its_codes(encoder: str) -> None:
    """After `fit_prior` the codes of its rows are likelier than under N(0, I), and draws are like them."""
    model = some(encoder, "mixture")
    values, observed = table(model.config, 400)
    fitting.fit_prior(model, values, observed, seed=3)
    q = model.encode(values, observed)
    noise = torch.randn(400, 5, 3, generator=Generator().manual_seed(1), dtype=torch.float64)
    z = model.draw(q, noise)
    assert not model.standard
    assert model.prior().log_prob(z).mean() > Normal(0.0, 1.0).log_prob(z).sum(2).mean()
    drawn = model.prior().sample(20_000, generator=Generator().manual_seed(2))
    torch.testing.assert_close(drawn.mean(0), q.mean.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.var(0), z.flatten(0, 1).var(0), rtol=0.1, atol=0)


def test_the_rows_of_a_fit_are_chosen_by_the_seed() -> None:
    """Equal seeds give equal priors, and at most `rows` rows enter: with one row, its code is the prior's mean."""
    values, observed = table(ModelConfig(columns=EVERY, network=network()), 50)
    fits = []
    for seed in (1, 1, 2):
        model = some("deterministic", "mixture")
        fitting.fit_prior(model, values, observed, seed=seed, rows=20)
        fits.append(model.prior().mean)
    assert torch.equal(fits[0], fits[1])
    assert not torch.equal(fits[0], fits[2])
    fitting.fit_prior(model, values, observed, seed=1, rows=1)
    codes = model.encode(values, observed).mean
    assert (codes - model.prior().mean[0]).abs().sum(1).min() < 1e-12


@pytest.mark.parametrize("prior", ["normal", "vamp"])
def test_only_a_mixture_is_fitted(prior: str) -> None:
    """`fit_prior` refuses other priors by name."""
    model = some("stochastic", prior)
    with pytest.raises(ValueError, match=f"prior = '{prior}' is not fitted"):
        fitting.fit_prior(model, *table(model.config, 5), seed=0)


@pytest.mark.parametrize("body", ["mlp", "residual", "convolution"])
def test_a_vamp_prior_is_the_mixture_of_posteriors(body: str) -> None:
    """log p(z) = log mean_k q(z | u_k) at the pseudo-inputs u, to 1e-12; with its marginals."""
    of = ModelConfig(columns=EVERY, network=network(prior="vamp", body=body))
    model = build(of, shake=0.3)
    z = torch.randn(6, 2, 3, generator=Generator().manual_seed(0), dtype=torch.float64)
    q = model.infer(model.pseudo_inputs)
    each = Normal(q.mean, (0.5 * q.logvar).exp()).log_prob(z[:, :, None])
    expected = each.sum(3).logsumexp(2) - math.log(len(q.mean))
    torch.testing.assert_close(model.prior().log_prob(z), expected, rtol=1e-7, atol=1e-7)
    marginals = each.logsumexp(2) - math.log(len(q.mean))
    torch.testing.assert_close(model.prior().marginals(z), marginals, rtol=1e-7, atol=1e-7)


def test_a_vamp_prior_learns() -> None:
    """The gradient of log p(z) reaches every pseudo-input, and every weight of the encoder and its heads."""
    model = some("stochastic", "vamp")
    model.prior().log_prob(torch.zeros(1, 3, dtype=torch.float64)).sum().backward()
    assert model.pseudo_inputs.grad is not None
    assert model.pseudo_inputs.grad.any(1).all()
    assert model.logvar is not None
    for part in (model.encoder, model.mean, model.logvar):
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())
    assert all(parameter.grad is None for parameter in model.decoder.parameters())


def test_a_vamp_prior_starts_at_rows_of_the_marginals() -> None:
    """Pseudo-inputs begin as embedded rows without missing cells, all different."""
    model = build(ModelConfig(columns=EVERY, network=network(prior="vamp", prior_components=20)))
    told = len(model.columns.told)
    assert model.pseudo_inputs.shape == (20, model.columns.width)
    assert (model.pseudo_inputs[:, -told:] == 1).all()
    assert len(model.pseudo_inputs.unique(dim=0)) == 20
