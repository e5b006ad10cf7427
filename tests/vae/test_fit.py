"""One step: the same however rows are spread over workers, and uphill."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from vae import fit
from vae.model import VAE
from vae.objectives import elbo

Batch = tuple[Tensor, Tensor, Tensor]


def gradients(model: VAE, batch: Batch, *, share: float, beta: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    """Loss and parameter gradients of one step of a copy of `model`."""
    worker = deepcopy(model)
    adam = fit.optimizer(worker.parameters(), learning_rate=1e-3)
    loss = fit.step(worker, adam, *batch, share=share, beta=beta)
    found = [parameter.grad for parameter in worker.parameters()]
    assert all(gradient is not None for gradient in found)
    return loss, [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("sizes", [(6, 6), (7, 5), (1, 4, 7), (12, 0), (0, 5, 0, 7)])
def test_data_parallelism_changes_nothing(model: VAE, batch: Batch, sizes: tuple[int, ...]) -> None:
    """Gradients at share = workers / rows, averaged over workers, are those of one step on the whole batch."""
    loss, whole = gradients(model, batch, share=1 / 12, beta=0.5)
    parts = zip(*(tensor.split(sizes) for tensor in batch), strict=True)
    workers = [gradients(model, part, share=len(sizes) / 12, beta=0.5) for part in parts]
    for index, expected in enumerate(whole):
        average = torch.stack([found[index] for _, found in workers]).mean(0)
        torch.testing.assert_close(average, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(sum(each for each, _ in workers), loss, rtol=1e-12, atol=0)


def test_data_parallelism_check_can_fail(model: VAE, batch: Batch) -> None:
    """Meta: averaging each worker's own mean is not the global mean when workers hold unequal numbers of rows."""
    _, whole = gradients(model, batch, share=1 / 12)
    parts = zip(*(tensor.split([9, 3]) for tensor in batch), strict=True)
    workers = [gradients(model, part, share=1 / len(part[0]))[1] for part in parts]
    averages = [torch.stack(each).mean(0) for each in zip(*workers, strict=True)]
    assert not all(torch.allclose(one, other, rtol=1e-3) for one, other in zip(averages, whole, strict=True))


def test_no_rows_give_zero_loss_and_zero_gradients(model: VAE, batch: Batch) -> None:
    """A worker without rows reports loss 0 and a gradient for every parameter, all exactly zero."""
    empty = tuple(part[:0] for part in batch)
    loss, found = gradients(model, (empty[0], empty[1], empty[2]), share=1.0)
    assert loss.item() == 0
    assert all(torch.count_nonzero(gradient) == 0 for gradient in found)
    assert len(found) == len(list(model.parameters()))


def test_step_returns_the_summed_loss(model: VAE, batch: Batch) -> None:
    """The value returned is minus the summed bound before the step, detached, whatever the share."""
    expected = -elbo(model, *batch).per_row(beta=2.0).sum()
    for share in (1.0, 1 / 12):
        loss, _ = gradients(model, batch, share=share, beta=2.0)
        assert not loss.requires_grad
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-14, atol=0)


def test_step_scales_gradients_by_share(model: VAE, batch: Batch) -> None:
    """The gradient is `share` times that of the sum over rows."""
    _, whole = gradients(model, batch, share=1.0)
    _, twelfth = gradients(model, batch, share=1 / 12)
    for one, other in zip(whole, twelfth, strict=True):
        torch.testing.assert_close(other * 12, one, rtol=1e-10, atol=1e-12)


def test_step_forgets_old_gradients(model: VAE, batch: Batch) -> None:
    """What lay in the gradients before a step does not enter it."""
    _, clean = gradients(model, batch, share=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    fit.step(model, fit.optimizer(model.parameters(), learning_rate=1e-3), *batch, share=1.0)
    for parameter, expected in zip(model.parameters(), clean, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, expected)


def test_step_is_one_step_of_adam(model: VAE, batch: Batch) -> None:
    """The first step of Adam moves every parameter by the learning rate against the sign of its gradient."""
    before = [parameter.detach().clone() for parameter in model.parameters()]
    adam = fit.optimizer(model.parameters(), learning_rate=1e-3)
    fit.step(model, adam, *batch, share=1.0)
    for old, parameter in zip(before, model.parameters(), strict=True):
        assert parameter.grad is not None
        moved = parameter.grad.abs() > 1e-3
        step = (parameter.detach() - old)[moved]
        torch.testing.assert_close(step, -1e-3 * parameter.grad[moved].sign(), rtol=1e-4, atol=0)


def test_steps_are_deterministic(model: VAE, batch: Batch) -> None:
    """Equal models on equal batches with equal noise stay equal to the bit: no randomness of its own."""
    ends = []
    for _ in range(2):
        worker = deepcopy(model)
        adam = fit.optimizer(worker.parameters(), learning_rate=1e-2)
        losses = [fit.step(worker, adam, *batch, share=1 / 12) for _ in range(3)]
        ends.append([*losses, *(parameter.detach() for parameter in worker.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_steps_go_uphill(model: VAE, batch: Batch) -> None:
    """On one batch with frozen noise, a hundred steps halve the loss at least."""
    adam = fit.optimizer(model.parameters(), learning_rate=2e-2)
    losses = [fit.step(model, adam, *batch, share=1 / 12).item() for _ in range(100)]
    assert 0 < losses[-1] < losses[0] / 2
