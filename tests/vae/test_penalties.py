"""Penalties: the contractive one against autograd's Jacobian, sparsity against its formula on the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family import EVERY, build, network, table
from torch import Generator, Tensor

from vae import penalties
from vae.config import ModelConfig, Objective
from vae.model import VAE
from vae.networks import ACTIVATIONS
from vae.noise import draw

DEEP: dict[str, dict[str, Any]] = {
    "two-layers": {"hidden": (5, 4)},
    "residual": {"body": "residual", "hidden": (5,)},
    "residual-deep": {"body": "residual", "hidden": (5, 4)},
    "convolution": {"body": "convolution", "hidden": (4,)},
}
"""Encoders whose penalty is estimated."""


def encoder(**settings: Any) -> tuple[VAE, Tensor]:
    """A model with a deterministic encoder, weights moved, and the embedding of six rows."""
    model = build(ModelConfig(columns=EVERY, network=network(encoder="deterministic", **settings)), shake=0.3)
    return model, model.columns.embed(*table(model.config, 6))


def frobenius(model: VAE, inputs: Tensor) -> Tensor:
    """The squared Frobenius norm of each row's Jacobian, by autograd."""
    jacobian = torch.autograd.functional.jacobian(lambda rows: model.infer(rows).mean.sum(0), inputs)
    return (jacobian**2).sum((0, 2))


@pytest.mark.parametrize("hidden", [(), (5,)])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_the_shallow_penalty_is_exact(hidden: tuple[int, ...], activation: str) -> None:
    """With at most one hidden layer it is the Jacobian's squared norm, to 1e-12, whatever the probe."""
    model, inputs = encoder(hidden=hidden, activation=activation)
    for probe in (torch.zeros(6, 3), torch.ones(6, 3)):
        found = penalties.contraction(model, inputs, probe)
        torch.testing.assert_close(found, frobenius(model, inputs), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("settings", DEEP.values(), ids=list(DEEP))
def test_the_estimate_over_a_basis_is_exact(settings: dict[str, Any]) -> None:
    """||J' v||^2 summed over the probes v = e_1, e_2, ... is ||J||^2, to 1e-12: the estimator is of the right thing."""
    model, inputs = encoder(**settings)
    total = sum(penalties.contraction(model, inputs, each.expand(6, -1)) for each in torch.eye(3))
    torch.testing.assert_close(total, frobenius(model, inputs), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("settings", DEEP.values(), ids=list(DEEP))
def test_the_estimate_is_unbiased(settings: dict[str, Any]) -> None:
    """Its mean over the probes that `noise.draw` draws is ||J||^2, within four standard errors."""
    model, inputs = encoder(**settings)
    many = inputs[:1].repeat(20_000, 1)
    objective = Objective(contraction=1.0)
    probe = draw(objective, model.columns, rows=20_000, latent=3, generator=Generator().manual_seed(0)).probe
    found = penalties.contraction(model, many, probe).detach()
    error = float(found.std()) / 20_000**0.5
    assert abs(float(found.mean() - frobenius(model, inputs[:1])[0])) < 4 * error


@pytest.mark.parametrize("settings", [{"hidden": (5,)}, *DEEP.values()], ids=["one-layer", *DEEP])
def test_a_rows_contraction_is_its_own(settings: dict[str, Any]) -> None:
    """A row's penalty depends on no other row."""
    model, inputs = encoder(**settings)
    probe = torch.randn(6, 3, generator=Generator().manual_seed(1))
    together = penalties.contraction(model, inputs, probe)
    alone = torch.cat([penalties.contraction(model, inputs[[row]], probe[[row]]) for row in range(6)])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=0)


@pytest.mark.parametrize("settings", [{"hidden": ()}, {"hidden": (5,)}, *DEEP.values()], ids=["linear", "one", *DEEP])
def test_the_contractions_gradient_is_the_jacobians(settings: dict[str, Any]) -> None:
    """Its gradient for every weight is that of autograd's own Jacobian, to 1e-9: over a basis where it is estimated.

    Torch's forward mode fails this for LayerNorm (pytorch issue 196700).
    """
    model, inputs = encoder(**settings)
    weights = [parameter for name, parameter in model.named_parameters() if name.startswith(("encoder", "mean"))]
    exact = settings.get("body", "mlp") == "mlp" and len(settings["hidden"]) < 2
    probes = torch.eye(3)[: 1 if exact else 3]
    found = sum(penalties.contraction(model, inputs, each.expand(6, -1)).sum() for each in probes)
    jacobian = torch.autograd.functional.jacobian(lambda rows: model.infer(rows).mean.sum(0), inputs, create_graph=True)
    one = torch.autograd.grad(found, weights, allow_unused=True, materialize_grads=True)
    other = torch.autograd.grad((jacobian**2).sum(), weights, allow_unused=True, materialize_grads=True)
    for mine, autograds in zip(one, other, strict=True):
        torch.testing.assert_close(mine, autograds, rtol=1e-9, atol=1e-11)


def code(rows: int = 9) -> Tensor:
    """Codes of some rows, float64."""
    return torch.randn(rows, 4, generator=Generator().manual_seed(0), dtype=torch.float64)


def test_l1_is_the_sum_of_sizes() -> None:
    """sum_j |z_j| of each row, with gradient sign(z)."""
    z = code().requires_grad_()
    found = penalties.l1(z)
    assert torch.equal(found, z.abs().sum(1))
    (slope,) = torch.autograd.grad(found.sum(), z)
    assert torch.equal(slope, z.sign())


def direct(z: Tensor, target: float) -> Tensor:
    """sum_j KL(Bernoulli(target) || Bernoulli(a_j)) as it is written, by torch.distributions."""
    mean = z.sigmoid().mean(0)
    wanted = torch.distributions.Bernoulli(torch.tensor(target, dtype=torch.float64))
    return torch.distributions.kl_divergence(wanted, torch.distributions.Bernoulli(mean)).sum()


@pytest.mark.parametrize("target", [0.05, 0.5, 0.9])
def test_kl_sparsity_is_its_formula(target: float) -> None:
    """The mean over the rows has value and gradient of the formula on the whole batch, to 1e-12."""
    z = code().requires_grad_()
    found, expected = penalties.sparsity(z, target=target).mean(), direct(z, target)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    one, other = (torch.autograd.grad(value, z)[0] for value in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("sizes", [(4, 5), (1, 8), (3, 3, 3), (9, 0)])
def test_kl_sparsity_is_the_same_on_many_workers(sizes: tuple[int, ...]) -> None:
    """Parts of a batch that share their totals have, together, the whole batch's value and gradient: 1e-12."""
    z = code()
    parts = [part.clone().requires_grad_() for part in z.split(sizes)]
    sums = torch.cat([z.sigmoid().sum(0), torch.tensor([9.0])])
    found = sum(penalties.sparsity(part, target=0.2, total=lambda mine: sums).sum() for part in parts) / 9
    whole = z.clone().requires_grad_()
    expected = penalties.sparsity(whole, target=0.2).mean()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    slopes = torch.cat(torch.autograd.grad(found, parts))
    torch.testing.assert_close(slopes, torch.autograd.grad(expected, whole)[0], rtol=1e-12, atol=1e-15)


def test_many_workers_without_totals_differ() -> None:
    """Meta: each part by its own mean is another penalty, which the test above would see."""
    z = code()
    parts = sum(penalties.sparsity(part, target=0.2).sum() for part in z.split((4, 5))) / 9
    assert abs(float(parts - penalties.sparsity(z, target=0.2).mean())) > 1e-3


def test_a_total_is_of_activations_and_rows() -> None:
    """What is summed over the workers is the activations' sums, then the number of rows, without gradient."""
    seen: list[Tensor] = []

    def total(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor

    z = code().requires_grad_()
    penalties.sparsity(z, target=0.1, total=total)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], torch.cat([z.detach().sigmoid().sum(0), torch.tensor([9.0]).double()]))
    assert not seen[0].requires_grad


@pytest.mark.parametrize("far", [-1e6, 1e6])
def test_kl_sparsity_is_finite_however_far_the_codes(far: float) -> None:
    """Units all off or all on cost much and not infinitely much, float32."""
    z = torch.full((3, 2), far, requires_grad=True)
    penalties.sparsity(z, target=0.05).sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert penalties.sparsity(z, target=0.05).isfinite().all()


def test_kl_sparsity_is_least_at_the_target() -> None:
    """It is zero where every mean activation is the target, and positive elsewhere."""
    at = torch.logit(torch.tensor(0.3, dtype=torch.float64)).expand(5, 2)
    assert float(penalties.sparsity(at, target=0.3).abs().max()) < 1e-12
    assert (penalties.sparsity(code(), target=0.3) > 0).all()


def test_no_rows_have_no_penalty() -> None:
    """Of no rows every penalty is empty."""
    model, inputs = encoder(hidden=(5, 4))
    none = code(0)
    assert penalties.l1(none).shape == penalties.sparsity(none, target=0.1).shape == (0,)
    assert penalties.contraction(model, inputs[:0], torch.zeros(0, 3)).shape == (0,)


@pytest.mark.parametrize("settings", [{"hidden": (5,)}, *DEEP.values()], ids=["one-layer", *DEEP])
def test_the_contraction_needs_no_gradient(settings: dict[str, Any]) -> None:
    """Under `torch.no_grad`, as in an evaluation, it has the same value."""
    model, inputs = encoder(**settings)
    probe = torch.randn(6, 3, generator=Generator().manual_seed(1))
    expected = penalties.contraction(model, inputs, probe)
    with torch.no_grad():
        found = penalties.contraction(model, inputs, probe)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach(), rtol=1e-14, atol=0)
