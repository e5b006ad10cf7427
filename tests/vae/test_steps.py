"""How a step may be taken: without a mask, in parts, clipped, in bf16, compiled; and what goes along with steps."""

from __future__ import annotations

import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from family import EVERY, MEMBERS, build, frozen, network, table
from torch import Tensor, nn
from torch.autograd.gradcheck import gradcheck

from vae import fit
from vae.config import Column, ModelConfig, Objective
from vae.fit import Average, Loss
from vae.likelihoods.real import HALF_LOG_2PI, Gaussian, Kernel
from vae.noise import Noise
from vae.prior import Prior

every_member = pytest.mark.parametrize("member", list(MEMBERS))


def loss(member: str = "vae") -> Loss:
    """The loss of a member of the family over every kind of column."""
    settings, objective = MEMBERS[member]
    return Loss(build(ModelConfig(columns=EVERY, network=network(**settings)), shake=0.2), objective)


def rows(of: Loss, count: int = 12) -> tuple[Tensor, Noise]:
    """Values, all there, and noise."""
    return table(of.model.config, count)[0], frozen(of.model, of.objective, count)


def stepped(of: Loss, observed: Tensor | None = None, **settings: Any) -> list[Tensor]:
    """The loss, the gradients and the weights of one step of a copy over twelve rows."""
    worker, (values, noise) = deepcopy(of), rows(of)
    adam = fit.optimizer(worker.parameters(), learning_rate=1e-3)
    found = fit.step(worker, adam, values, observed, noise, share=1 / 12, **settings)
    gradients = [torch.zeros_like(it) if it.grad is None else it.grad for it in worker.parameters()]
    return [found, *gradients, *(it.detach() for it in worker.parameters())]


def norm(gradients: list[Tensor]) -> Tensor:
    """Over all of them."""
    return torch.stack([(it**2).sum() for it in gradients]).sum().sqrt()


@every_member
def test_a_mask_of_ones_is_no_mask(member: str) -> None:
    """Where every cell is there, loss, gradients and weights are the same to the bit with and without a mask."""
    of = loss(member)
    everything = torch.ones_like(rows(of)[0], dtype=torch.bool)
    assert all(torch.equal(*pair) for pair in zip(stepped(of, everything), stepped(of), strict=True))


def test_the_normal_kernels_gradient_is_the_finite_differences() -> None:
    """In values, mean and scale alike; float64."""
    draw = torch.Generator().manual_seed(0)
    values, mean = (torch.randn(5, 3, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2))
    scale = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(Kernel.apply, (values, mean, scale))


def test_the_normal_kernel_has_autograds_bits() -> None:
    """float32: density and gradients are those of the formula written out, to the bit."""
    draw = torch.Generator().manual_seed(0)
    block = Gaussian([Column(name=f"x{index}", likelihood="gaussian", scale=2.0) for index in range(7)])
    values, outputs = (torch.randn(300, 7, generator=draw).requires_grad_() for _ in range(2))
    slope = torch.rand(300, 7, generator=draw)
    scale = block.scale()
    written = -0.5 * ((values - outputs) / scale) ** 2 - (scale.log() + torch.tensor(2.0).log() + HALF_LOG_2PI)
    found = block.log_prob(outputs, values, None)
    assert torch.equal(found, written)
    wanted, given = (torch.autograd.grad(it, [outputs, block.log_scale], slope) for it in (written, found))
    assert all(torch.equal(*pair) for pair in zip(wanted, given, strict=True))


def test_a_residual_at_its_bound_has_no_gradient() -> None:
    """An absurd residual saturates: a finite density, and nothing to follow."""
    mean = torch.tensor([[0.0, 1e30]], requires_grad=True)
    found = Kernel.apply(torch.zeros(1, 2), mean, torch.ones(2))
    found.sum().backward()
    assert found.isfinite().all()
    assert mean.grad is not None
    assert not mean.grad.any()


@pytest.mark.parametrize("parts", [5, 40])
@pytest.mark.parametrize("member", ["vae", "iwae", "denoising-masking"])
def test_parts_make_the_step_of_the_whole(member: str, parts: int) -> None:
    """Micro-batches give loss and gradient of the whole batch, to 1e-10, however many they are."""
    of = loss(member)
    assert of.divisible
    count = 1 + len(list(of.parameters()))
    for one, other in zip(stepped(of, parts=parts)[:count], stepped(of)[:count], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_batch_of_one_loss_is_not_divided() -> None:
    """KL sparsity is of the whole batch's mean activation: its loss says that it has no parts."""
    assert not loss("sparse-kl").divisible


def test_a_gradient_is_clipped_to_its_norm() -> None:
    """A longer gradient is shortened and keeps its direction; a shorter one keeps its bits; the loss is the same."""
    of = loss()
    count = len(list(of.parameters()))
    found, *free = stepped(of)[: 1 + count]
    length = norm(free)
    same, *short = stepped(of, clip=float(length) / 4)[: 1 + count]
    assert torch.equal(found, same)
    torch.testing.assert_close(norm(short), length / 4, rtol=1e-5, atol=0)
    for one, other in zip(short, free, strict=True):
        torch.testing.assert_close(4 * one, other, rtol=1e-5, atol=1e-9)
    untouched = stepped(of, clip=float(length) * 2)[1 : 1 + count]
    assert all(torch.equal(*pair) for pair in zip(untouched, free, strict=True))


def test_bf16_is_for_the_networks_alone() -> None:
    """What comes out of them is float32 again, and the step near the one in float32, but another."""
    of = Loss(loss().model.float(), Objective())
    values, noise = rows(of)
    values, noise = values.float(), Noise(*(part.float() for part in noise))
    with torch.autocast("cpu", torch.bfloat16):
        posterior = of.model.encode(values, None)
        outputs = of.model.decode(posterior.mean)
        rough = of(values, None, noise)
    assert {posterior.mean.dtype, posterior.logvar.dtype, outputs.dtype, rough.dtype} == {torch.float32}
    exact = of(values, None, noise)
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.5)
    adam = fit.optimizer(of.parameters(), learning_rate=1e-3)
    found = fit.step(of, adam, values, None, noise, share=1 / 12, precision="bf16")
    torch.testing.assert_close(found, rough.sum().detach(), rtol=1e-6, atol=0)


def test_warming_up_is_a_line() -> None:
    """From 1 / steps to 1, which it is from then on; without warm-up always 1."""
    assert [fit.warmed(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert fit.warmed(0, 0) == 1.0


def test_the_average_is_that_of_its_definition() -> None:
    """Weights 0, 1, 2 at decay 1/2 have shares 1/7, 2/7 and 4/7; a swap is undone to the bit; a copy goes on alike."""
    model = nn.Linear(1, 1, bias=False).double()
    average = Average(model, decay=0.5)
    for value in (0.0, 1.0, 2.0):
        nn.init.constant_(model.weight, value)
        average.update(model)
    with average.swapped(model):
        assert model.weight.item() == pytest.approx(10 / 7, rel=1e-14)
    assert model.weight.item() == 2.0
    copy = Average(model, decay=0.5)
    copy.load_state_dict(deepcopy(average.state_dict()))
    for each in (average, copy):
        each.update(model)
    assert torch.equal(average.weights["weight"], copy.weights["weight"])


def test_a_model_remembers_whether_its_prior_is_fitted() -> None:
    """After fitting, and after loading weights of either kind."""
    config = ModelConfig(columns=EVERY, network=network(prior="mixture"))
    model, other = build(config), build(config)
    start = deepcopy(model.state_dict())
    assert model.standard
    prior = Prior.normal(config.network.latent, components=config.network.prior_components)
    model.set_prior(replace(prior, mean=prior.mean + 1))
    assert not model.standard
    other.load_state_dict(model.state_dict())
    assert not other.standard
    other.load_state_dict(start)
    assert other.standard


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a C++ compiler the loss itself comes back, with a warning that names the cure."""
    of = loss()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(UserWarning, match="no C.. compiler 'no-such-compiler': steps run uncompiled; install g"):
        assert fit.compiled(of, rows=12) is of


def test_long_runs_repay_compilation() -> None:
    """More steps, rows or parameters never speak against it; a short run and a tiny one do not repay it."""
    assert not fit.repays(100, rows=1024, parameters=50_000)
    assert not fit.repays(20_000, rows=32, parameters=1_000)
    assert fit.repays(100_000, rows=1024, parameters=50_000)
    found = [fit.repays(steps, rows=256, parameters=10**6) for steps in (1, 10, 100, 10**3, 10**4, 10**5, 10**6)]
    assert found == sorted(found)


def test_a_compiled_step_is_the_step(tmp_path: Path) -> None:
    """Loss and gradients within 1e-9, one graph for all weights of the KL; another number of rows compiles nothing."""
    script = Path(__file__).with_name("compiled_step.py")
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1 graph, 0 breaks", "the same names: True"]
