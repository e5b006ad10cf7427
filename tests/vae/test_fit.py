"""The loss and one step: gradients by finite differences, the same however rows are spread, and downhill."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from family import CLASSICAL, EVERY, MEMBERS, NETWORKS, build, frozen, network, table
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError, gradcheck
from torch.distributions import Normal
from torch.func import functional_call

from vae import fit, noise, penalties
from vae.config import Column, ModelConfig, Network, Objective
from vae.fit import Loss, fit_prior
from vae.noise import Noise, corrupt
from vae.objectives import elbo

Rows = tuple[Tensor, Tensor, Noise]

every_member = pytest.mark.parametrize("member", list(MEMBERS))

FEW = (
    Column(name="price", likelihood="gaussian", nullable=True),
    Column(name="city", likelihood="categorical", codes=3),
    Column(name="visits", likelihood="poisson", means=(3.0,), nullable=True),
)
DIFFERENTIABLE = [name for name in MEMBERS if name not in ("iwae", "iwae-vamp-sparse")]
"""Members whose gradient is that of their value: all but the doubly reparameterised ones."""

LIKE_OTHERS = (
    "denoising-gaussian",
    "denoising-salt",
    "free-bits",
    "denoising-vae",
    "iwae-reparameterised",
    "iwae-vamp-sparse",
)
"""Members that learn as others here do: left out where time counts."""


def loss(member: str, columns: Sequence[Column] = EVERY, **more: Any) -> Loss:
    """The loss of a member of the family, every weight of its model moved."""
    settings, objective = MEMBERS[member]
    of = ModelConfig(columns=tuple(columns), network=network(**{**settings, **more}))
    return Loss(build(of, shake=0.2), objective)


def rows(of: Loss, count: int, *, seed: int = 2) -> Rows:
    """Values, observed and frozen noise of some rows."""
    return (*table(of.model.config, count, seed=seed), frozen(of.model, of.objective, count))


def some(of: Rows, part: slice) -> Rows:
    """Some of the rows."""
    return of[0][part], of[1][part], of[2].take(part)


def compare(of: Loss, batch: Rows, *, beta: float, fast: bool) -> bool:
    """Whether autograd's gradient of the mean loss, for all parameters, is that of finite differences."""
    names = [name for name, _ in of.named_parameters()]
    weights = tuple(parameter.detach().clone().requires_grad_() for parameter in of.parameters())

    def mean(*parameters: Tensor) -> Tensor:
        found: Tensor = functional_call(of, dict(zip(names, parameters, strict=True)), (*batch, beta)).mean()
        return found

    return gradcheck(mean, weights, eps=1e-6, atol=1e-7, rtol=1e-5, fast_mode=fast)


@pytest.mark.parametrize("member", DIFFERENTIABLE)
def test_gradients_are_finite_differences(member: str) -> None:
    """With frozen noise, the gradient of every single weight is the central difference's: float64, 1e-5."""
    of = loss(member, FEW, latent=2, hidden=(3,) if member == "contractive-exact" else (3, 2), prior_components=2)
    assert compare(of, rows(of, 4), beta=of.objective.beta, fast=False)


@pytest.mark.parametrize("body", ["residual", "convolution"])
@pytest.mark.parametrize("member", ["vamp", "iwae-reparameterised", "contractive-probed"])
def test_gradients_of_every_column_and_body(member: str, body: str) -> None:
    """The same along random directions, over all kinds of columns, residual blocks and convolutions."""
    of = loss(member, body=body)
    assert compare(of, rows(of, 4), beta=1.0, fast=True)


def test_the_check_of_gradients_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta: a penalty with a wrong gradient is seen."""
    monkeypatch.setattr(
        penalties, "l1", lambda code: code.abs().detach().sum(1) + 0.9 * (code.abs() - code.abs().detach()).sum(1)
    )
    of = loss("sparse-l1", FEW, latent=2, hidden=(3,))
    with pytest.raises(GradcheckError):
        compare(of, rows(of, 4), beta=1.0, fast=False)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_loss_is_minus_the_bound(name: str) -> None:
    """Without penalties: -(log p(x | z) + log p(z) - log q(z | x)) in expectation, KL closed under N(0, I); 1e-12."""
    model = build(ModelConfig(columns=EVERY, network=network(**NETWORKS[name])), shake=0.2)
    of = Loss(model, Objective(draws=3) if model.stochastic else Objective())
    values, observed, noise = rows(of, 8)
    q = model.encode(values, observed)
    z = model.draw(q, noise.posterior)
    fitted = torch.stack([model.columns.log_prob(model.decode(each), values, observed).sum(1) for each in z.unbind(1)])
    expected = -fitted.mean(0)
    if name.endswith("vamp"):
        log_q = Normal(q.mean[:, None], (0.5 * q.logvar).exp()[:, None]).log_prob(z).sum(2)
        expected = expected + (log_q - model.prior().log_prob(z)).mean(1)
    elif model.stochastic:
        expected = expected + q.kl().sum(1)
    torch.testing.assert_close(of(values, observed, noise), expected, rtol=1e-12, atol=1e-12)


def test_a_negative_estimate_of_the_kl_counts() -> None:
    """Under a VampPrior a row's estimated KL may be negative; it enters the loss as it is, or the bound is biased."""
    of = loss("vamp")
    values, observed, noise = rows(of, 60)
    q = of.model.encode(values, observed)
    z = of.model.draw(q, noise.posterior)
    estimate = (q.log_prob(z).sum(2) - of.model.prior().log_prob(z)).mean(1)
    assert (estimate < 0).any()
    fitted = of.model.log_likelihood(values, observed, z).sum(2).mean(1)
    torch.testing.assert_close(of(values, observed, noise), estimate - fitted, rtol=1e-12, atol=1e-12)


def test_the_kl_is_weighed_by_beta() -> None:
    """loss(beta) is linear in beta, with the KL as its slope; at beta = 0 the fit alone is left."""
    of = loss("vae")
    values, observed, noise = rows(of, 8)
    q = of.model.encode(values, observed)
    none, one, four = (of(values, observed, noise, beta) for beta in (0.0, 1.0, 4.0))
    torch.testing.assert_close(one - none, q.kl().sum(1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(four - none, 4 * q.kl().sum(1), rtol=1e-10, atol=1e-10)


def test_free_bits_are_free() -> None:
    """Below the free bits a dimension's KL costs the same whatever it is, and has no gradient; above, its own."""
    of, objective = loss("vae"), Objective(free_bits=1e6, draws=2)
    values, observed, noise = rows(of, 8)
    free = Loss(of.model, objective)(values, observed, noise)
    fitted = of(values, observed, noise, 0.0)
    torch.testing.assert_close(free, fitted + 3 * 1e6, rtol=1e-12, atol=0)
    one, other = (torch.autograd.grad(each.sum(), list(of.parameters()), retain_graph=True) for each in (free, fitted))
    assert all(torch.allclose(*pair, rtol=1e-9, atol=1e-9) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["l1", "kl"])
def test_sparsity_is_added(kind: Any) -> None:
    """The penalty on the code stands beside the fit, times its weight."""
    objective = Objective(sparsity=kind, sparsity_weight=0.7, sparsity_target=0.2)
    plain = loss("undercomplete")
    values, observed, noise = rows(plain, 8)
    found = Loss(plain.model, objective)(values, observed, noise) - plain(values, observed, noise)
    code = plain.model.encode(values, observed).mean
    expected = penalties.l1(code) if kind == "l1" else penalties.sparsity(code, target=0.2)
    torch.testing.assert_close(found, 0.7 * expected, rtol=1e-9, atol=1e-9)


def test_contraction_is_added() -> None:
    """The squared norm of the encoder's Jacobian stands beside the fit, times its weight."""
    of = loss("contractive-exact")
    values, observed, noise = rows(of, 8)
    plain = Loss(of.model, Objective())(values, observed, noise)
    inputs = of.model.columns.embed(values, observed)
    jacobian = torch.autograd.functional.jacobian(lambda it: of.model.infer(it).mean.sum(0), inputs)
    expected = 0.2 * (jacobian**2).sum((0, 2))
    torch.testing.assert_close(of(values, observed, noise) - plain, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("member", ["denoising-masking", "denoising-gaussian", "denoising-salt", "denoising-vae"])
def test_a_denoising_loss_has_the_clean_row_as_its_target(member: str) -> None:
    """The corrupted row is what the encoder sees, and nothing else: the fit is to the clean cells."""
    of = loss(member)
    values, observed, noise = rows(of, 12)
    shown = corrupt(of.objective, of.model.columns, values, observed, noise.corruption)
    q = of.model.encode(*shown)
    expected = -elbo(of.model, values, observed, q, noise.posterior).per_row()
    found = of(values, observed, noise)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    itself = -elbo(of.model, *shown, q, noise.posterior).per_row()
    uncorrupted = -elbo(of.model, values, observed, of.model.encode(values, observed), noise.posterior).per_row()
    assert not torch.allclose(found, itself)
    assert not torch.allclose(found, uncorrupted)


def test_dynamic_columns_are_drawn_before_anything_else() -> None:
    """Zeros and ones drawn from a dynamic column's probabilities are what the encoder sees and the target alike."""
    columns = (EVERY[0], Column(name="ink", likelihood="bernoulli", width=4, dynamic=True, nullable=True))
    of = Loss(build(ModelConfig(columns=columns, network=network()), shake=0.2), Objective())
    values, observed = table(of.model.config, 9)
    values[:, 1:] = torch.linspace(0, 1, 36).double().view(9, 4)
    noise = frozen(of.model, of.objective, 9)
    drawn = values.clone()
    drawn[:, 1:] = (noise.binary[:, 1:] < values[:, 1:]).double()
    q = of.model.encode(drawn, observed)
    expected = -elbo(of.model, drawn, observed, q, noise.posterior).per_row()
    torch.testing.assert_close(of(values, observed, noise), expected, rtol=1e-12, atol=1e-12)


@every_member
@pytest.mark.parametrize("garbage", [math.nan, -3.0])
def test_missing_cells_are_masked_out_of_every_objective(member: str, garbage: float) -> None:
    """Loss and gradients are equal to the bit whatever lies in the missing cells, NaN included."""
    of, outcomes = loss(member), []
    values, observed, noise = rows(of, 6)
    assert not observed.all()
    for cells in (values, torch.where(observed, values, garbage)):
        of.zero_grad()
        found = of(cells, observed, noise, of.objective.beta)
        found.sum().backward()
        outcomes.append([found.detach(), *(p.grad for p in of.parameters() if p.grad is not None)])
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))
    assert all(each.isfinite().all() for each in outcomes[0])


@every_member
def test_a_batchs_loss_is_its_parts(member: str) -> None:
    """Rows' losses, alone or in any part, are those of the whole batch, to 1e-11; KL sparsity by its shared total."""
    of = loss(member)
    batch = rows(of, 9)
    together = of(*batch)
    sums = torch.cat([of.model.encode(*batch[:2]).mean.sigmoid().sum(0), torch.tensor([9.0])]).detach()
    shared = Loss(of.model, of.objective, total=lambda mine: sums)
    for sizes in ([(0, 4), (4, 9)], [(row, row + 1) for row in range(9)]):
        parts = torch.cat([shared(*some(batch, slice(*part))) for part in sizes])
        torch.testing.assert_close(parts, together, rtol=1e-11, atol=1e-11)


@every_member
def test_the_loss_is_reproducible(member: str) -> None:
    """Equal rows and noise give an equal loss to the bit: no randomness of its own, and none of torch's is spent."""
    of = loss(member)
    batch = rows(of, 5)
    before = torch.random.get_rng_state()
    assert torch.equal(of(*batch), of(*batch))
    assert torch.equal(torch.random.get_rng_state(), before)


@every_member
def test_the_loss_can_be_had_without_gradients(member: str) -> None:
    """Under `torch.no_grad`, as on validation rows, it is the same."""
    of = loss(member)
    batch = rows(of, 5)
    expected = of(*batch).detach()
    with torch.no_grad():
        torch.testing.assert_close(of(*batch), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("settings", "objective", "message"),
    [
        (CLASSICAL, Objective(bound="iwae"), "bound = 'iwae' with encoder = 'deterministic', which has no KL term"),
        (CLASSICAL, Objective(draws=2), "draws = 2 with encoder = 'deterministic'"),
        (CLASSICAL, Objective(beta=2.0), r"beta = 2\.0 with encoder = 'deterministic'"),
        (CLASSICAL, Objective(free_bits=0.1), r"free_bits = 0\.1 with encoder = 'deterministic'"),
        (
            CLASSICAL,
            Objective(annealing="linear", annealing_epochs=3.0),
            "annealing = 'linear' with encoder = 'deterministic'",
        ),
        (
            {"prior": "vamp"},
            Objective(free_bits=0.1),
            "free_bits need a KL per dimension, which prior = 'vamp' has not",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], objective: Objective, message: str) -> None:
    """An objective that this network cannot honour is refused by the setting's name."""
    model = build(ModelConfig(columns=EVERY, network=network(**settings)))
    with pytest.raises(ValueError, match=message):
        Loss(model, objective)


def test_gaussian_noise_needs_reals() -> None:
    """Gaussian noise on a table without reals is refused, naming what would do."""
    model = build(ModelConfig(columns=EVERY[1:2], network=network()))
    with pytest.raises(ValueError, match="no column is real; use 'masking' or 'salt_and_pepper'"):
        Loss(model, Objective(noise="gaussian", noise_level=0.1))


def test_the_loss_holds_the_models_parameters() -> None:
    """A distributed wrapper around the loss sees every parameter, once."""
    of = loss("vamp")
    assert {id(parameter) for parameter in of.parameters()} == {id(parameter) for parameter in of.model.parameters()}


def stepped(of: Loss, batch: Rows, *, share: float, beta: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    """Loss and parameter gradients of one step of a copy."""
    worker = deepcopy(of)
    adam = fit.optimizer(worker.parameters(), learning_rate=1e-3)
    found = fit.step(worker, adam, *batch, share=share, beta=beta)
    return found, [torch.zeros_like(p) if p.grad is None else p.grad for p in worker.parameters()]


@pytest.mark.parametrize("sizes", [(6, 6), (1, 4, 7), (0, 5, 0, 7)])
@pytest.mark.parametrize("member", ["vae", "sparse-kl", "contractive-probed", "vamp", "iwae"])
def test_data_parallelism_changes_nothing(member: str, sizes: tuple[int, ...]) -> None:
    """Gradients at share = workers / rows, averaged over workers, are those of one step on the whole batch."""
    of = loss(member)
    batch = rows(of, 12)
    found, whole = stepped(of, batch, share=1 / 12)
    sums = torch.cat([of.model.encode(*batch[:2]).mean.sigmoid().sum(0), torch.tensor([12.0])]).detach()
    shared = Loss(of.model, of.objective, total=lambda mine: sums)
    edges = [sum(sizes[:index]) for index in range(len(sizes) + 1)]
    parts = [some(batch, slice(edge, edge + size)) for edge, size in zip(edges, sizes, strict=False)]
    workers = [stepped(shared, part, share=len(sizes) / 12) for part in parts]
    for index, expected in enumerate(whole):
        average = torch.stack([gradients[index] for _, gradients in workers]).mean(0)
        torch.testing.assert_close(average, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.stack([each for each, _ in workers]).sum(), found, rtol=1e-12, atol=0)


def test_data_parallelism_check_can_fail() -> None:
    """Meta: averaging each worker's own mean is not the global mean when workers hold unequal numbers of rows."""
    of = loss("vae")
    batch = rows(of, 12)
    _, whole = stepped(of, batch, share=1 / 12)
    parts = [some(batch, part) for part in (slice(0, 9), slice(9, 12))]
    workers = [stepped(of, part, share=1 / len(part[0]))[1] for part in parts]
    averages = [torch.stack(each).mean(0) for each in zip(*workers, strict=True)]
    assert not all(torch.allclose(one, other, rtol=1e-3) for one, other in zip(averages, whole, strict=True))


@every_member
def test_no_rows_give_zero_loss_and_zero_gradients(member: str) -> None:
    """A worker without rows reports loss 0 and a gradient for every parameter that rows have one for, all zero."""
    of = loss(member)
    batch = rows(of, 3)
    found, gradients = stepped(of, some(batch, slice(0, 0)), share=1.0)
    assert found.item() == 0
    assert not any(gradient.any() for gradient in gradients)


def test_step_returns_the_summed_loss() -> None:
    """The value returned is the summed loss before the step, detached, whatever the share."""
    of = loss("vae")
    batch = rows(of, 12)
    expected = of(*batch, 2.0).sum().detach()
    for share in (1.0, 1 / 12):
        found, _ = stepped(of, batch, share=share, beta=2.0)
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_step_scales_gradients_by_share() -> None:
    """The gradient is `share` times that of the sum over rows."""
    of = loss("vae")
    batch = rows(of, 12)
    _, whole = stepped(of, batch, share=1.0)
    _, twelfth = stepped(of, batch, share=1 / 12)
    for one, other in zip(whole, twelfth, strict=True):
        torch.testing.assert_close(other * 12, one, rtol=1e-10, atol=1e-12)


def test_step_forgets_old_gradients() -> None:
    """What lay in the gradients before a step does not enter it."""
    of = loss("vae")
    batch = rows(of, 12)
    _, clean = stepped(of, batch, share=1.0)
    for parameter in of.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    fit.step(of, fit.optimizer(of.parameters(), learning_rate=1e-3), *batch, share=1.0)
    for parameter, expected in zip(of.parameters(), clean, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, expected)


def test_step_is_one_step_of_adam() -> None:
    """The first step of Adam moves every parameter by the learning rate against the sign of its gradient."""
    of = loss("vae")
    before = [parameter.detach().clone() for parameter in of.parameters()]
    fit.step(of, fit.optimizer(of.parameters(), learning_rate=1e-3), *rows(of, 12), share=1.0)
    for old, parameter in zip(before, of.parameters(), strict=True):
        assert parameter.grad is not None
        moved = parameter.grad.abs() > 1e-3
        step = (parameter.detach() - old)[moved]
        torch.testing.assert_close(step, -1e-3 * parameter.grad[moved].sign(), rtol=1e-4, atol=0)


@every_member
def test_steps_are_deterministic(member: str) -> None:
    """Equal models on equal batches with equal noise stay equal to the bit."""
    of, ends = loss(member), []
    batch = rows(of, 6)
    for _ in range(2):
        worker = deepcopy(of)
        adam = fit.optimizer(worker.parameters(), learning_rate=1e-2)
        losses = [fit.step(worker, adam, *batch, share=1 / 6) for _ in range(2)]
        ends.append([*losses, *(parameter.detach() for parameter in worker.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def curve(count: int = 64) -> tuple[tuple[Column, ...], Tensor, Tensor]:
    """Rows that one number determines but for a little noise, of four columns."""
    columns = (
        Column(name="up", likelihood="gaussian", nullable=True),
        Column(name="round", likelihood="gaussian", width=2),
        Column(name="side", likelihood="bernoulli"),
        Column(name="third", likelihood="categorical", codes=4),
    )
    generator = torch.Generator().manual_seed(0)
    t = torch.linspace(-1, 1, count, dtype=torch.float64)
    real = torch.stack([1.7 * t, 1.4 * (3 * t).sin(), 1.4 * (3 * t).cos()], 1)
    real = real + 0.1 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    codes = torch.stack([(t > 0).double(), 1 + (1.5 * (t + 1)).floor().clamp(0, 2)], 1)
    values = torch.cat([real, codes], 1)
    observed = torch.ones_like(values, dtype=torch.bool)
    observed[::5, 0] = False
    return columns, values, observed


@pytest.mark.parametrize("member", [name for name in MEMBERS if name not in LIKE_OTHERS])
def test_every_member_learns(member: str) -> None:
    """200 steps on a table of 64 rows take more than half a nat per row off the loss, judged at noise kept aside."""
    settings, objective = MEMBERS[member]
    columns, values, observed = curve()
    more = {"hidden": (16,) if member == "contractive-exact" else (16, 16), "latent": 2}
    of = Loss(build(ModelConfig(columns=columns, network=network(**{**settings, **more}))), objective)
    aside = frozen(of.model, objective, 64, seed=99)
    adam = fit.optimizer(of.parameters(), learning_rate=1e-2)
    before = float(of(values, observed, aside, objective.beta).mean().detach())
    for step in range(200):
        noise = frozen(of.model, objective, 64, seed=step)
        fit.step(of, adam, values, observed, noise, share=1 / 64, beta=objective.beta)
    assert float(of(values, observed, aside, objective.beta).mean().detach()) < before - 0.5


def test_an_autoencoder_beats_the_marginals() -> None:
    """Two codes per row suffice to know the row: the squared error falls below a quarter of the variance."""
    columns, values, observed = curve()
    of = Loss(build(ModelConfig(columns=columns, network=network(**CLASSICAL, latent=2, hidden=(16, 16)))), Objective())
    adam = fit.optimizer(of.parameters(), learning_rate=1e-2)
    for _ in range(300):
        fit.step(of, adam, values, observed, frozen(of.model, of.objective, 64), share=1 / 64)
    guess = of.model.reconstruct(of.model.encode(values, observed).mean).detach()
    error = ((guess - values)[:, 1:3] ** 2).mean(0)
    assert (error < 0.25 * values[:, 1:3].var(0)).all()
    assert ((guess[:, 4] == values[:, 4]).double().mean() > 0.9).item()


def test_the_optimizer_is_adam() -> None:
    """Adam with its usual moments, fused."""
    adam = fit.optimizer([nn.Parameter(torch.zeros(1))], learning_rate=3e-4)
    assert isinstance(adam, torch.optim.Adam)
    assert adam.defaults["lr"] == 3e-4
    assert adam.defaults["betas"] == (0.9, 0.999)
    assert adam.defaults["fused"]


def test_the_objectives_own_beta_counts_by_default() -> None:
    """Without a present weight the KL has the objective's; a given one, from annealing, comes before it."""
    model = build(ModelConfig(columns=(Column(name="x", likelihood="gaussian"),), network=Network(latent=2)))
    values, observed = torch.ones(3, 1).double(), torch.ones(3, 1, dtype=torch.bool)
    drawn = noise.draw(Objective(), model.columns, rows=3, latent=2, generator=torch.Generator().manual_seed(0))
    four = Loss(model, Objective(beta=4.0))
    assert torch.equal(four(values, observed, drawn), four(values, observed, drawn, 4.0))
    assert not torch.equal(four(values, observed, drawn), four(values, observed, drawn, 1.0))


def test_free_bits_are_refused_once_a_prior_is_fitted() -> None:
    """Under a fitted mixture the KL is one number per row: free bits per dimension have no meaning."""
    network = Network(latent=2, prior="mixture", prior_components=2)
    model = build(ModelConfig(columns=(Column(name="x", likelihood="gaussian"),), network=network))
    Loss(model, Objective(free_bits=0.1))
    fit_prior(model, torch.randn(9, 1).double(), torch.ones(9, 1, dtype=torch.bool), seed=0)
    with pytest.raises(ValueError, match=r"free_bits need a KL per dimension"):
        Loss(model, Objective(free_bits=0.1))
