"""The judge: sums that add up over any split, and figures that equal their formulae."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vae import evaluate
from vae.config import Column, ModelConfig, Network
from vae.evaluate import Evaluation, Sums
from vae.model import VAE
from vae.objectives import elbo

Batch = tuple[Tensor, Tensor, Tensor]


def linear_means(*weights: float) -> Evaluation:
    """The evaluation of a model with E[z_i | x] = weights[i] * x on rows x = -1, 1: Var(E[z_i | x]) = weights[i]^2."""
    column = Column(name="x", likelihood="gaussian")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VAE(ModelConfig(columns=(column,), network=Network(latent=len(weights), hidden=()))).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.mean.weight.copy_(torch.tensor(weights)[:, None])
        model.mean.bias.fill_(0.7)
    values = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    noise = torch.zeros(2, len(weights), dtype=torch.float64)
    seen = torch.ones_like(values, dtype=torch.bool)
    return evaluate.conclude(model, evaluate.tally(model, values, seen, noise))


@pytest.mark.parametrize("sizes", [(6, 6), (1, 4, 7), (12, 0), (1,) * 12])
def test_sums_over_chunks_are_sums_over_the_whole(model: VAE, batch: Batch, sizes: tuple[int, ...]) -> None:
    """However rows are cut into batches, empty ones included, the sums are those of all rows at once."""
    total = evaluate.zero(model)
    for part in zip(*(tensor.split(sizes) for tensor in batch), strict=True):
        total += evaluate.tally(model, *part)
    whole = evaluate.tally(model, *batch)
    torch.testing.assert_close(total.packed, whole.packed, rtol=1e-12, atol=1e-12)
    assert (total.columns, total.latents) == (whole.columns, whole.latents) == (6, 3)


def test_zero_is_neutral(model: VAE, batch: Batch) -> None:
    """Adding the sums over no rows changes nothing, and a batch of no rows yields exactly those."""
    whole, nothing = evaluate.tally(model, *batch), evaluate.zero(model)
    assert torch.equal((whole + nothing).packed, whole.packed)
    values, observed, noise = (part[:0] for part in batch)
    assert torch.equal(evaluate.tally(model, values, observed, noise).packed, nothing.packed)


def test_sums_are_float64_for_any_model(model: VAE, batch: Batch) -> None:
    """Sums of a float32 model are float64, so that millions of rows add up."""
    values, observed, noise = batch
    sums = evaluate.tally(model.float(), values.float(), observed, noise.float())
    assert sums.packed.dtype == evaluate.zero(model).packed.dtype == torch.float64


@pytest.mark.parametrize("packed", [torch.zeros(3), torch.zeros(3, 2, dtype=torch.float64)])
def test_sums_of_another_kind_are_refused(packed: Tensor) -> None:
    """Under the shape checker sums are one-dimensional float64 and nothing else: the checker is awake here."""
    with pytest.raises(TypeCheckError, match="packed"):
        Sums(packed, 1, 0)


def test_likelihood_figures_are_the_bounds(model: VAE, batch: Batch) -> None:
    """elbo is the mean bound of the rows, and log-likelihood minus KL; columns and latents add up to them."""
    found = evaluate.conclude(model, evaluate.tally(model, *batch))
    terms = elbo(model, *batch)
    assert found.rows == 12
    assert found.elbo == pytest.approx(terms.per_row().mean().item(), rel=1e-12)
    assert found.elbo == pytest.approx(found.log_likelihood - found.kl, rel=1e-12)
    assert found.log_likelihood == pytest.approx(sum(found.log_likelihood_per_column.values()), rel=1e-12)
    assert found.kl == pytest.approx(sum(found.kl_per_latent), rel=1e-12)
    widths = [column.width for column in model.config.columns]
    per_column = [part.sum(1).mean().item() for part in terms.log_likelihood.split(widths, 1)]
    assert list(found.log_likelihood_per_column) == ["price", "city", "sold", "pixels", "kind", "seen"]
    assert list(found.log_likelihood_per_column.values()) == pytest.approx(per_column, rel=1e-12)


def test_latent_figures_are_their_formulae(model: VAE, batch: Batch) -> None:
    """KL per latent is torch.distributions' averaged over rows; variance is that of the posterior means."""
    values, observed, _ = batch
    found = evaluate.conclude(model, evaluate.tally(model, *batch))
    q = model.encode(values, observed)
    kl = kl_divergence(Normal(q.mean, (0.5 * q.logvar).exp()), Normal(0.0, 1.0)).mean(0)
    assert found.kl_per_latent == pytest.approx(kl.tolist(), rel=1e-10)
    assert found.variance_per_latent == pytest.approx(q.mean.var(0, correction=0).tolist(), rel=1e-10)
    assert found.active_units == sum(variance > 0.01 for variance in found.variance_per_latent)


def test_error_figures_are_their_formulae(model: VAE, batch: Batch) -> None:
    """Errors over observed cells only, from z = E[z | x]: RMSE in original units, or the share of wrong cells."""
    values, observed, _ = batch
    found = evaluate.conclude(model, evaluate.tally(model, *batch)).error_per_column
    guess = model.reconstruct(model.encode(values, observed).mean).detach()
    first = 0
    for column in model.config.columns:
        cells = slice(first, first + column.width)
        seen = observed[:, cells]
        one, other = guess[:, cells][seen], values[:, cells][seen]
        if column.likelihood == "gaussian":
            expected = ((one * column.scale - other * column.scale) ** 2).mean().sqrt()
        elif column.likelihood == "bernoulli":
            expected = ((one > 0.5) != (other == 1)).double().mean()
        else:
            expected = (one != other).double().mean()
        assert found[column.name] == pytest.approx(expected.item(), rel=1e-10)
        first = cells.stop
    assert 0 < found["kind"] < 1


def test_errors_do_not_depend_on_the_draw(model: VAE, batch: Batch) -> None:
    """Noise moves the log-likelihood, but neither errors nor KL nor latent variances."""
    values, observed, noise = batch
    one, other = (
        evaluate.conclude(model, evaluate.tally(model, values, observed, each)) for each in (noise, noise.flip(0))
    )
    assert one.log_likelihood != other.log_likelihood
    assert one.error_per_column == other.error_per_column
    assert (one.kl, one.variance_per_latent) == (other.kl, other.variance_per_latent)


def test_content_of_missing_cells_changes_nothing(model: VAE, batch: Batch) -> None:
    """The sums are equal to the bit with NaN in the missing cells."""
    values, observed, noise = batch
    spoilt = torch.where(observed, values, torch.nan)
    one, other = (evaluate.tally(model, cells, observed, noise) for cells in (values, spoilt))
    assert torch.equal(one.packed, other.packed)


def test_evaluation_leaves_no_graph(model: VAE, batch: Batch) -> None:
    """Evaluating builds no graph and touches no gradient."""
    assert not evaluate.tally(model, *batch).packed.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_active_units_count_variance_above_a_hundredth() -> None:
    """A latent dimension is active exactly if the variance of its posterior mean exceeds 0.01."""
    found = linear_means(0.09, 0.11, 2.0, 0.0)
    assert found.variance_per_latent == pytest.approx([0.0081, 0.0121, 4.0, 0.0], rel=1e-6, abs=1e-12)
    assert found.active_units == 2
    assert found.verdict == "2 of 4 latent dimensions unused"


def test_a_dead_latent_is_called_dead() -> None:
    """One latent dimension that the rows do not move is counted out in plain words."""
    assert linear_means(1.0, 0.0, 1.0).verdict == "1 of 3 latent dimensions unused"


def test_a_full_latent_space_is_called_full() -> None:
    """If every latent dimension is active the verdict says so."""
    assert linear_means(1.0, -1.0).verdict == "all 2 latent dimensions in use"


def test_collapse_is_called_collapse() -> None:
    """If no latent dimension is active the verdict says so and how to cure it."""
    expected = "collapsed: no latent dimension carries information; lower beta or train longer"
    assert linear_means(0.0, 0.05).verdict == expected


def test_no_rows_have_no_figures(model: VAE) -> None:
    """An evaluation of nothing is refused rather than a division by zero."""
    with pytest.raises(ValueError, match=r"^an evaluation needs at least one row$"):
        evaluate.conclude(model, evaluate.zero(model))
