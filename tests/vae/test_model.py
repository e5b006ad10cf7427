"""The model: the posterior's formulae, missing cells that do not exist, and no row that knows of another."""

from __future__ import annotations

import inspect
import math
import sys
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, get_type_hints

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import vae
from vae.config import Column, ModelConfig, Network
from vae.model import LOGVAR_RANGE, VAE, Posterior
from vae.objectives import elbo

Batch = tuple[Tensor, Tensor, Tensor]
WIDE = st.floats(-1e4, 1e4, width=32)


def build(config: ModelConfig, *, seed: int = 0) -> VAE:
    """A model whose initial weights come from `seed`, the global generator left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VAE(config)


def posterior(*, seed: int = 0) -> Posterior:
    """A posterior of 40 rows and 3 latent dimensions in float64, spread over much of its range."""
    generator = torch.Generator().manual_seed(seed)
    mean, logvar = torch.randn(2, 40, 3, generator=generator, dtype=torch.float64)
    return Posterior(3 * mean, 2 * logvar)


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


def test_posterior_samples_by_reparameterisation() -> None:
    """z = mean + std * noise: no noise gives the mean, and many draws have the mean and variance claimed."""
    q = posterior()
    assert torch.equal(q.sample(torch.zeros_like(q.mean)), q.mean)
    generator = torch.Generator().manual_seed(3)
    one = Posterior(torch.full((50_000, 1), 2.0), torch.full((50_000, 1), math.log(9.0)))
    z = one.sample(torch.randn(50_000, 1, generator=generator))
    assert z.mean().item() == pytest.approx(2, abs=5 * 3 / 50_000**0.5)
    assert z.var().item() == pytest.approx(9, rel=0.05)


def test_logvar_stays_in_its_range() -> None:
    """However far the input is out, the posterior's log-variance stays within its bounds, and reaches both."""
    column = Column(name="x", likelihood="gaussian")
    model = build(ModelConfig(columns=(column,), network=Network(latent=1, hidden=())))
    values = torch.tensor([[1e30], [-1e30]])
    logvar = model.encode(values, torch.ones_like(values, dtype=torch.bool)).logvar
    assert sorted(logvar.flatten().tolist()) == list(LOGVAR_RANGE)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30, -7.0])
def test_content_of_missing_cells_changes_nothing(model: VAE, batch: Batch, garbage: float) -> None:
    """Encoding, likelihood and every gradient are equal to the bit, whatever lies in the missing cells."""
    values, observed, noise = batch
    passes, gradients = [], []
    assert not observed.all()
    for cells in (values, torch.where(observed, values, garbage)):
        model.zero_grad()
        result = model(cells, observed, noise)
        elbo(model, cells, observed, noise).per_row().sum().backward()
        passes.append(result)
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*passes, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_missing_cells_have_no_gradient(model: VAE, batch: Batch) -> None:
    """The loss has exactly zero gradient with respect to the value in a missing cell, and a finite one elsewhere."""
    values, observed, noise = batch
    cells = torch.where(observed, values, math.nan).requires_grad_()
    elbo(model, cells, observed, noise).per_row().sum().backward()
    assert cells.grad is not None
    assert cells.grad.isfinite().all()
    assert torch.count_nonzero(cells.grad[~observed]) == 0
    assert torch.count_nonzero(cells.grad[observed]) > 0


def test_missing_is_not_zero(model: VAE, batch: Batch) -> None:
    """A nullable column's missing cell is encoded differently from an observed zero."""
    values, _, _ = batch
    values[:, 0] = 0.0
    seen = torch.ones_like(values, dtype=torch.bool)
    gone = seen.clone()
    gone[:, 0] = False
    assert not torch.allclose(model.encode(values, seen).mean, model.encode(values, gone).mean)


def test_rows_are_independent(model: VAE, batch: Batch) -> None:
    """A row's bound does not depend on which rows share its batch, nor on their order."""
    together = elbo(model, *batch).per_row()
    alone = torch.cat([elbo(model, *(part[[row]] for part in batch)).per_row() for row in range(len(together))])
    flipped = elbo(model, *(part.flip(0) for part in batch)).per_row().flip(0)
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flipped, together, rtol=1e-12, atol=1e-12)


def test_forward_is_encode_sample_decode(model: VAE, batch: Batch) -> None:
    """One pass is nothing but encode, reparameterise, decode, log_prob."""
    values, observed, noise = batch
    q = model.encode(values, observed)
    log_likelihood = model.columns.log_prob(model.decode(q.sample(noise)), values, observed)
    result = model(values, observed, noise)
    assert torch.equal(result.log_likelihood, log_likelihood)
    assert torch.equal(result.mean, q.mean)
    assert torch.equal(result.logvar, q.logvar)


def test_reconstruction_is_the_best_guess(model: VAE) -> None:
    """`reconstruct` reads the decoder's outputs as values: finite numbers, rates in [0, 1], known codes."""
    z = torch.randn(50, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    guess = model.reconstruct(z)
    assert torch.equal(guess, model.columns.mean(model.decode(z)))
    assert guess.isfinite().all()
    assert ((guess[:, [2, 8, 9]] >= 0) & (guess[:, [2, 8, 9]] <= 1)).all()
    assert (guess[:, [1, 6, 7]] >= 1).all()


def test_decoder_mirrors_the_encoder(config: ModelConfig) -> None:
    """Hidden widths run input side first in the encoder and reversed in the decoder; biases start as stated."""
    model = build(config)
    widths = {
        name: [(layer.in_features, layer.out_features) for layer in body if isinstance(layer, nn.Linear)]
        for name, body in (("encoder", model.encoder), ("decoder", model.decoder))
    }
    assert widths == {"encoder": [(model.columns.inputs, 5), (5, 4)], "decoder": [(3, 4), (4, 5)]}
    assert torch.equal(model.outputs.bias, model.columns.bias())
    assert all(isinstance(layer, nn.Tanh) for layer in list(model.encoder)[1::2])


@pytest.mark.parametrize("hidden", [(), (4,), (6, 5, 4)])
def test_any_depth_works(config: ModelConfig, hidden: tuple[int, ...]) -> None:
    """Any number of hidden layers, none included, maps rows to latents and back to rows."""
    model = build(ModelConfig(columns=config.columns, network=Network(latent=2, hidden=hidden)))
    rows = model.sample(7, generator=torch.Generator().manual_seed(5))
    assert rows.shape == (7, config.features)
    q = model.encode(rows, torch.ones_like(rows, dtype=torch.bool))
    assert q.mean.shape == q.logvar.shape == (7, 2)
    assert model.reconstruct(q.mean).shape == rows.shape


def test_samples_are_valid_and_reproducible(model: VAE) -> None:
    """New rows hold values that the columns may hold, and equal generators give equal rows."""
    first, again, other = (model.sample(200, generator=torch.Generator().manual_seed(seed)) for seed in (6, 6, 7))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.isfinite().all()
    assert set(first[:, 1].unique().tolist()) <= {1.0, 2.0, 3.0}
    assert set(first[:, [6, 7]].unique().tolist()) <= {1.0, 2.0}
    assert set(first[:, [2, 8, 9]].unique().tolist()) <= {0.0, 1.0}


def test_sampling_leaves_the_global_generator_alone(model: VAE) -> None:
    """With a generator of its own, sampling draws nothing from torch's global one."""
    before = torch.random.get_rng_state()
    model.sample(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_untied_decoder_samples_the_marginals(config: ModelConfig) -> None:
    """When the decoder ignores z, new rows follow the rates that the output bias starts from."""
    model = build(config)
    nn.init.zeros_(model.outputs.weight)
    rows = model.sample(20_000, generator=torch.Generator().manual_seed(8))
    cities = torch.bincount(rows[:, 1].long(), minlength=4)[1:] / len(rows)
    torch.testing.assert_close(cities, torch.tensor([2.0, 3.0, 4.0]) / 9, rtol=0, atol=0.02)
    assert rows[:, 2].mean().item() == pytest.approx(0.2, abs=0.02)


def test_shapes_are_enforced(model: VAE, batch: Batch) -> None:
    """Noise for one row, which would broadcast in silence, is refused under the shape checker."""
    values, observed, noise = batch
    with pytest.raises(TypeCheckError, match="noise"):
        model(values, observed, noise[:1])


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


@pytest.mark.parametrize("name", [module.name for module in iter_modules(vae.__path__)])
def test_every_annotation_means_something(name: str) -> None:
    """Annotations all resolve: one that does not (`[Tensor, batch]` for `[Tensor, " batch"]`) is skipped in silence."""
    assert unresolved(import_module(f"vae.{name}")) == []


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


def test_no_rows_are_rows_too(model: VAE, batch: Batch) -> None:
    """A batch of no rows encodes, decodes and reconstructs to no rows."""
    values, observed, noise = (part[:0] for part in batch)
    q = model.encode(values, observed)
    assert q.mean.shape == q.kl().shape == (0, 3)
    assert model.reconstruct(q.sample(noise)).shape == values.shape
    assert model.sample(0, generator=torch.Generator().manual_seed(0)).shape == values.shape


@st.composite
def columns(draw: st.DrawFn) -> dict[str, Any]:
    """Settings of a column of any kind."""
    common = {"name": "x", "width": draw(st.integers(1, 3)), "nullable": draw(st.booleans())}
    kind = draw(st.sampled_from(["gaussian", "bernoulli", "categorical"]))
    if kind == "gaussian":
        return {**common, "likelihood": kind, "scale": draw(st.floats(1e-3, 1e6)), "floor": draw(st.floats(1e-3, 1.0))}
    if kind == "bernoulli":
        return {**common, "likelihood": kind, "rates": (draw(st.floats(0, 1)),)}
    return {**common, "likelihood": kind, "codes": draw(st.integers(2, 6))}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[list[float | None]]]:
    """Columns with up to four rows for them: wide numbers, valid codes, None for any cell that is missing."""
    of = draw(st.lists(columns(), min_size=1, max_size=5))
    cells = [
        WIDE if column["likelihood"] == "gaussian" else st.integers(0, column.get("codes", 2) - 1).map(float)
        for column in of
        for _ in range(column["width"])
    ]
    rows = st.tuples(*(st.none() | cell for cell in cells)).map(list)
    return of, draw(st.lists(rows, max_size=4))


@settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    table=tables(),
    latent=st.integers(1, 4),
    hidden=st.lists(st.integers(1, 5), max_size=2),
    activation=st.sampled_from(["silu", "relu", "gelu", "tanh"]),
    seed=st.integers(0, 2**32),
)
def test_finite_in_finite_out(
    table: tuple[list[dict[str, Any]], list[list[float | None]]],
    latent: int,
    hidden: list[int],
    activation: Any,
    seed: int,
) -> None:
    """For any mix of columns, shapes and masks, finite cells up to 1e4 give a finite loss and finite gradients."""
    network = Network(latent=latent, hidden=tuple(hidden), activation=activation)
    config = ModelConfig(columns=tuple(Column(**column) for column in table[0]), network=network)
    rows = [[math.nan if cell is None else cell for cell in row] for row in table[1]]
    values = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), config.features)
    noise = torch.randn(len(rows), latent, generator=torch.Generator().manual_seed(seed))
    model = build(config, seed=seed)
    loss = -elbo(model, values, ~values.isnan(), noise).per_row().sum()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
