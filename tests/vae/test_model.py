"""The model: the posterior's formulae, missing cells that do not exist, and no row that knows of another."""

from __future__ import annotations

import inspect
import math
import sys
from importlib import import_module
from itertools import pairwise
from pkgutil import walk_packages
from types import ModuleType
from typing import Any, get_type_hints

import pytest
import torch
from family import EVERY, MEMBERS, NETWORKS, Batch, build, frozen, network, table
from jaxtyping import TypeCheckError
from torch import Generator, Tensor, nn
from torch.distributions import Normal, kl_divergence

import vae
from vae.config import CATEGORIES, COUNTS, LEVELS, Column, ModelConfig, Network
from vae.fit import Loss
from vae.model import LOGVAR_RANGE, MEAN_BOUND, VAE, Posterior
from vae.objectives import elbo
from vae.prior import Prior

every_network = pytest.mark.parametrize("settings", NETWORKS.values(), ids=list(NETWORKS))


def some(settings: dict[str, Any]) -> VAE:
    """A model of every kind of column with these networks, every weight moved; a mixture is a proper one."""
    model = build(ModelConfig(columns=EVERY, network=network(**settings)), shake=0.2)
    if settings["prior"] == "mixture":
        model.set_prior(mixture())
    return model


def mixture(components: int = 3, latent: int = 3) -> Prior:
    """A mixture of unequal components, float64."""
    generator = Generator().manual_seed(9)
    weight, mean, logvar = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((components,), (components, latent), (components, latent))
    )
    return Prior(weight.log_softmax(0), mean, logvar)


def posterior(*, seed: int = 0) -> Posterior:
    """A posterior of 40 rows and 3 latent dimensions in float64, spread over much of its range."""
    generator = Generator().manual_seed(seed)
    mean, logvar = torch.randn(2, 40, 3, generator=generator, dtype=torch.float64)
    return Posterior(3 * mean, 2 * logvar)


def normals(*shape: int, seed: int = 3) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_is_torchs() -> None:
    """The closed form equals torch.distributions' KL to the standard normal."""
    q = posterior()
    expected = kl_divergence(Normal(q.mean, (0.5 * q.logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(q.kl(), expected, rtol=1e-12, atol=1e-12)


def test_kl_is_zero_only_at_the_prior() -> None:
    """KL is non-negative, and zero where the posterior is the prior."""
    zero = torch.zeros(1, 3, dtype=torch.float64)
    assert torch.equal(Posterior(zero, zero).kl(), zero)
    assert (posterior().kl() > 0).all()


def test_log_prob_is_torchs() -> None:
    """log q(z | x) of every draw and dimension equals torch.distributions'."""
    q, z = posterior(), 3 * normals(40, 5, 3)
    expected = Normal(q.mean[:, None], (0.5 * q.logvar).exp()[:, None]).log_prob(z)
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-12, atol=1e-12)


def test_posterior_samples_by_reparameterisation() -> None:
    """z = mean + std * noise: no noise gives the mean, and many draws have the mean and variance claimed."""
    q = posterior()
    assert torch.equal(q.sample(torch.zeros(40, 2, 3, dtype=torch.float64)), q.mean[:, None].expand(-1, 2, -1))
    one = Posterior(torch.full((1, 1), 2.0), torch.full((1, 1), math.log(9.0)))
    z = one.sample(normals(1, 50_000, 1).float())
    assert z.mean().item() == pytest.approx(2, abs=4 * 3 / 50_000**0.5)
    assert z.var().item() == pytest.approx(9, abs=4 * 9 * (2 / 50_000) ** 0.5)


def test_the_mean_of_log_ratios_is_the_kl() -> None:
    """E_q[log q(z) - log p(z)] over many draws is the closed KL, within four standard errors."""
    q = posterior()
    z = q.sample(normals(40, 20_000, 3))
    ratio = q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    error = ratio.std(1) / 20_000**0.5
    assert ((ratio.mean(1) - q.kl()).abs() < 4 * error + 1e-9).all()


def test_a_detached_posterior_is_equal_and_constant() -> None:
    """`detach` keeps the numbers and drops the gradient."""
    q = posterior()
    live = Posterior(q.mean.clone().requires_grad_(), q.logvar.clone().requires_grad_())
    constant = live.detach()
    assert torch.equal(constant.mean, q.mean)
    assert torch.equal(constant.logvar, q.logvar)
    assert not constant.mean.requires_grad
    assert not constant.logvar.requires_grad


def test_the_posterior_stays_in_its_range() -> None:
    """However large the weights, mean and log-variance stay within their bounds, and reach both."""
    column = Column(name="x", likelihood="gaussian")
    model = build(ModelConfig(columns=(column,), network=Network(latent=1, hidden=())))
    assert model.logvar is not None
    with torch.no_grad():
        model.mean.weight.fill_(1e3)
        model.logvar.weight.fill_(1e3)
    values = torch.tensor([[1e30], [-1e30]], dtype=torch.float64)
    q = model.encode(values, torch.ones_like(values, dtype=torch.bool))
    assert q.mean.flatten().tolist() == [MEAN_BOUND, -MEAN_BOUND]
    assert q.logvar.flatten().tolist() == [LOGVAR_RANGE[1], LOGVAR_RANGE[0]]


@every_network
def test_shapes(settings: dict[str, Any]) -> None:
    """Every body, encoder and prior: rows to codes, codes to parameters, parameters to rows, draws in between."""
    model = some(settings)
    values, observed = table(model.config, 7)
    q = model.encode(values, observed)
    z = model.draw(q, normals(7, 4, 3))
    assert q.mean.shape == q.logvar.shape == q.kl().shape == (7, 3)
    assert z.shape == q.log_prob(z).shape == (7, 4, 3)
    assert model.decode(q.mean).shape == (7, len(model.columns.bias()))
    assert model.log_likelihood(values, observed, z).shape == (7, 4, model.config.features)
    assert model.reconstruct(q.mean).shape == values.shape
    assert model.prior().log_prob(z).shape == (7, 4)
    if model.stochastic or not model.standard:
        assert model.sample(5).shape == (5, model.config.features)


@every_network
def test_no_rows_are_rows_too(settings: dict[str, Any]) -> None:
    """A batch of no rows encodes, decodes, samples to no rows, with a loss of zero and gradients of zero."""
    model = some(settings)
    values, observed = (part[:0] for part in table(model.config, 1))
    q = model.encode(values, observed)
    assert q.mean.shape == (0, 3)
    assert model.reconstruct(q.mean).shape == values.shape
    if model.stochastic or not model.standard:
        assert model.sample(0, generator=Generator().manual_seed(0)).shape == values.shape
    _, objective = MEMBERS["undercomplete"]
    total = Loss(model, objective)(values, observed, frozen(model, objective, 0)).sum()
    total.backward()
    assert total.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@every_network
def test_rows_are_independent(settings: dict[str, Any]) -> None:
    """A row's code does not depend on which rows share its batch, nor on their order: 1e-12, float64."""
    model = some(settings)
    values, observed = table(model.config, 9)
    together = model.encode(values, observed)
    alone = [model.encode(values[[row]], observed[[row]]) for row in range(9)]
    flipped = model.encode(values.flip(0), observed.flip(0))
    for name in ("mean", "logvar"):
        expected = getattr(together, name)
        torch.testing.assert_close(torch.cat([getattr(q, name) for q in alone]), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(getattr(flipped, name).flip(0), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("body", ["mlp", "residual", "convolution"])
def test_a_row_takes_no_gradient_from_another(body: str) -> None:
    """d code_i / d row_j is exactly zero for i != j, and is not for i = j."""
    model = some(NETWORKS[f"{body}-stochastic-normal"])
    values, observed = table(model.config, 4)
    inputs = model.columns.embed(values, observed).requires_grad_()
    q = model.infer(inputs)
    (slope,) = torch.autograd.grad((q.mean[1] + q.logvar[1]).sum(), inputs)
    assert not slope[[0, 2, 3]].any()
    assert slope[1].any()


@every_network
@pytest.mark.parametrize("garbage", [math.nan, -7.0])
def test_content_of_missing_cells_changes_nothing(settings: dict[str, Any], garbage: float) -> None:
    """Encoding, likelihood and every gradient are equal to the bit, whatever lies in the missing cells."""
    model, outcomes = some(settings), []
    values, observed = table(model.config, 6)
    assert not observed.all()
    for cells in (values, torch.where(observed, values, garbage)):
        model.zero_grad()
        q = model.encode(cells, observed)
        rows = elbo(model, cells, observed, q, normals(6, 2, 3)).per_row()
        rows.sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        outcomes.append([q.mean.detach(), q.logvar.detach(), rows.detach(), *gradients])
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))
    assert all(each.isfinite().all() for each in outcomes[1])


def test_missing_cells_have_no_gradient(config: ModelConfig, model: VAE, batch: Batch) -> None:
    """The loss has exactly zero gradient with respect to the value in a missing cell, and a finite one elsewhere."""
    values, observed, noise = batch
    cells = torch.where(observed, values, math.nan).requires_grad_()
    elbo(model, cells, observed, model.encode(cells, observed), noise).per_row().sum().backward()
    assert cells.grad is not None
    assert cells.grad.isfinite().all()
    assert not cells.grad[~observed].any()
    assert cells.grad[observed].any()


def test_missing_is_not_zero(model: VAE, batch: Batch) -> None:
    """A nullable column's missing cell is encoded differently from an observed zero."""
    values, _, _ = batch
    values[:, 0] = 0.0
    seen = torch.ones_like(values, dtype=torch.bool)
    gone = seen.clone()
    gone[:, 0] = False
    assert not torch.allclose(model.encode(values, seen).mean, model.encode(values, gone).mean)


def test_each_draw_is_decoded_by_itself(model: VAE, batch: Batch) -> None:
    """log p(x | z) of draw k is that of z_k decoded alone: rows and draws are never mixed up."""
    values, observed, noise = batch
    z = model.draw(model.encode(values, observed), noise)
    each = model.log_likelihood(values, observed, z)
    for draw in range(2):
        alone = model.columns.log_prob(model.decode(z[:, draw]), values, observed)
        torch.testing.assert_close(each[:, draw], alone, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(each[:, 0], each[:, 1])
    assert not each[(~observed)[:, None].expand_as(each)].any()


def test_reconstruction_is_the_best_guess(model: VAE) -> None:
    """`reconstruct` reads the decoder's outputs as the columns' means: finite numbers."""
    z = normals(50, 3)
    guess = model.reconstruct(z)
    assert torch.equal(guess, model.columns.mean(model.decode(z)))
    assert guess.isfinite().all()


@pytest.mark.parametrize("body", ["mlp", "residual", "convolution"])
def test_a_deterministic_encoder_knows_no_noise(body: str) -> None:
    """z = mean whatever the noise, for every draw; its log-variance stands at its least; it has no KL."""
    model = some(NETWORKS[f"{body}-deterministic-normal"])
    values, observed = table(model.config, 5)
    q = model.encode(values, observed)
    assert torch.equal(model.draw(q, 1e6 * normals(5, 3, 3)), q.mean[:, None].expand(-1, 3, -1))
    assert (q.logvar == LOGVAR_RANGE[0]).all()
    assert not elbo(model, values, observed, q, normals(5, 1, 3)).kl.any()
    assert not any(name.startswith("logvar") for name, _ in model.named_parameters())


@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_a_deterministic_model_without_a_prior_does_not_sample(prior: str) -> None:
    """A deterministic encoder has no prior to draw from until a mixture is fitted; the error states the cure."""
    config = ModelConfig(columns=EVERY, network=network(encoder="deterministic", prior=prior))
    model = build(config)
    with pytest.raises(ValueError, match=r"no prior to sample; train with prior = 'mixture'"):
        model.sample(3)
    if prior == "mixture":
        model.set_prior(mixture())
        assert model.sample(3).isfinite().all()


@every_network
def test_standard_says_whether_the_prior_is_normal(settings: dict[str, Any]) -> None:
    """`standard` is true of N(0, I) and of a mixture not yet fitted, whose density is N(0, I)'s; else false."""
    model = build(ModelConfig(columns=EVERY, network=network(**settings)))
    z = normals(20, 3)
    normal = Normal(0.0, 1.0).log_prob(z).sum(1)
    assert model.standard == (settings["prior"] != "vamp")
    assert torch.allclose(model.prior().log_prob(z), normal, rtol=1e-12, atol=1e-6) == model.standard
    if settings["prior"] == "mixture":
        model.set_prior(mixture())
        assert not model.standard
        assert torch.equal(model.prior().log_prob(z), mixture().log_prob(z))


@pytest.mark.parametrize("prior", ["normal", "vamp"])
def test_only_a_mixture_is_set(prior: str) -> None:
    """`set_prior` refuses a model whose prior is not fitted, by its name."""
    model = build(ModelConfig(columns=EVERY, network=network(prior=prior)))
    with pytest.raises(ValueError, match=f"prior = '{prior}' is not fitted; only 'mixture' is"):
        model.set_prior(mixture())


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (2, 3)])
def test_a_prior_of_another_shape_is_refused(shape: tuple[int, int]) -> None:
    """A mixture of fewer components or dimensions is refused: spread over all, its weights would not sum to one."""
    model = build(ModelConfig(columns=EVERY, network=network(prior="mixture")))
    with pytest.raises(ValueError, match=rf"\({shape[0]}, {shape[1]}\).*\(3, 3\)"):
        model.set_prior(mixture(*shape))


def test_samples_are_in_the_support(model: VAE) -> None:
    """New rows hold values that the columns may hold: whole counts, levels and codes, never the unknown code."""
    rows = model.sample(300, generator=Generator().manual_seed(6))
    assert rows.isfinite().all()
    edges = [0]
    for column in model.config.columns:
        edges.append(edges[-1] + column.width)
    for column, (start, end) in zip(model.config.columns, pairwise(edges), strict=True):
        cells = rows[:, start:end]
        if column.likelihood in (*COUNTS, *LEVELS, *CATEGORIES):
            assert torch.equal(cells, cells.round())
            assert cells.min() >= (column.likelihood == "categorical")
        if column.likelihood in (*LEVELS, *CATEGORIES):
            assert cells.max() < (column.codes or 2)


def test_samples_are_reproducible(model: VAE) -> None:
    """Equal generators give equal rows, others do not, and torch's global generator is left alone."""
    before = torch.random.get_rng_state()
    first, again, other = (model.sample(50, generator=Generator().manual_seed(seed)) for seed in (6, 6, 7))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_untied_decoder_samples_the_marginals(config: ModelConfig) -> None:
    """When the decoder ignores z, new rows have the means and rates that the output bias starts from."""
    model = build(config)
    nn.init.zeros_(model.decoder.head.weight)
    rows = model.sample(20_000, generator=Generator().manual_seed(8))
    place = dict(zip([column.name for column in EVERY], _starts(), strict=True))
    for name, codes in (("city", range(1, 4)), ("size", range(4))):
        rates = torch.tensor([0.1, 0.2, 0.3, 0.4])[list(codes)]
        share = torch.stack([(rows[:, place[name]] == code).float().mean() for code in codes])
        torch.testing.assert_close(share, rates / rates.sum(), rtol=0, atol=0.02)
    for name, mean, spread in (("visits", 3.0, 1.8), ("clicks", 1.5, 1.7), ("stars", 2.0, 1.1), ("sold", 0.2, 0.4)):
        assert rows[:, place[name]].mean().item() == pytest.approx(mean, abs=5 * spread / 20_000**0.5)


def _starts() -> list[int]:
    """The first feature of every column."""
    return [sum(column.width for column in EVERY[:index]) for index in range(len(EVERY))]


def test_equal_seeds_build_equal_models(config: ModelConfig) -> None:
    """Weights come from torch's seed alone, a VampPrior's first inputs included."""
    for settings in NETWORKS.values():
        of = ModelConfig(columns=EVERY, network=network(**settings))
        one, other = (build(of, seed=4).state_dict() for _ in range(2))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_shapes_are_enforced(model: VAE, batch: Batch) -> None:
    """Noise of one row too few, or a value of another width, is refused under the shape checker."""
    values, observed, noise = batch
    with pytest.raises(TypeCheckError, match="noise"):
        elbo(model, values, observed, model.encode(values, observed), noise[:1])
    with pytest.raises(TypeCheckError, match="observed"):
        model.encode(values, observed[:, 1:])


def unresolved(module: ModuleType) -> list[str]:
    """Names in the annotations of a module's own functions, classes and methods that mean nothing."""
    own: list[Any] = [thing for thing in vars(module).values() if getattr(thing, "__module__", None) == module.__name__]
    classes = [thing for thing in own if inspect.isclass(thing)]
    methods = [method for each in classes for method in vars(each).values() if inspect.isfunction(method)]
    missing = []
    things: list[Any] = [*classes, *filter(inspect.isfunction, own), *methods]
    for thing in things:
        try:
            get_type_hints(thing)
        except NameError as error:
            missing.append(f"{thing.__qualname__}: {error}")
    return missing


@pytest.mark.parametrize("name", [module.name for module in walk_packages(vae.__path__, "vae.")])
def test_every_annotation_means_something(name: str) -> None:
    """Annotations all resolve: one that does not (`[Tensor, batch]` for `[Tensor, " batch"]`) is skipped in silence."""
    assert unresolved(import_module(name)) == []


def test_the_annotation_check_can_fail() -> None:
    """Meta: the same check does see a shape that lost its quotes, in functions and in methods."""
    module = ModuleType("sample")
    code = """from __future__ import annotations
from torch import Tensor
from jaxtyping import Float
def f(x: Float[Tensor, batch]): ...
class A:
    x: Float[Tensor, " batch"]
    def m(self) -> Float[Tensor, latent]: ..."""
    exec(code, vars(module))  # noqa: S102
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "sample", module)
        assert unresolved(module) == ["f: name 'batch' is not defined", "A.m: name 'latent' is not defined"]
