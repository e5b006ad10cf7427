"""The judge: sums that add up over any split, figures that equal their formulae, and an NLL that can be repeated."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from exact import linear, log_evidence
from family import EVERY, build, network, table
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vae import evaluate, importance
from vae.config import CATEGORIES, REALS, Column, ModelConfig, Network, Objective
from vae.evaluate import BLOCK_ROWS, Evaluation, Sums, judge
from vae.model import VAE
from vae.objectives import elbo, log_weights
from vae.prior import Prior

Batch = tuple[Tensor, Tensor, Tensor]


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that no global state is touched."""
    return torch.Generator().manual_seed(seed)


def mixed(**settings: object) -> VAE:
    """A model over a column of every kind, off its first weights."""
    return build(ModelConfig(columns=EVERY, network=network(**settings)), seed=1, shake=0.2)


@pytest.fixture
def model() -> VAE:
    """Three latents and a prior N(0, I)."""
    return mixed()


@pytest.fixture
def batch(model: VAE) -> Batch:
    """Values, observed and noise of twelve rows, one draw each."""
    return *table(model.config, 12), torch.randn(12, 1, 3, generator=seeded(3), dtype=torch.float64)


@pytest.fixture
def many(model: VAE) -> tuple[Tensor, Tensor]:
    """More rows than two blocks hold."""
    return table(model.config, 2 * BLOCK_ROWS + 30)


def figures(model: VAE, batch: Batch) -> Evaluation:
    """The evaluation of one batch, without evidence."""
    return evaluate.conclude(model, evaluate.tally(model, *batch))


def wide() -> VAE:
    """One latent, and a q(z | x) wide enough for importance sampling to be quick."""
    model = mixed(latent=1)
    assert model.logvar is not None
    with torch.no_grad():
        model.logvar.weight.zero_()
        model.logvar.bias.zero_()
    return model


def linear_means(*weights: float) -> Evaluation:
    """The evaluation of a model with E[z_i | x] = weights[i] * x on rows x = -1, 1: Var(E[z_i | x]) = weights[i]^2."""
    model = linear(1, len(weights))
    with torch.no_grad():
        model.mean.weight.copy_(torch.tensor(weights)[:, None])
        model.mean.bias.fill_(0.7)
    values = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    return figures(model, (values, values < 2, torch.zeros(2, 1, len(weights), dtype=torch.float64)))


@pytest.mark.parametrize("sizes", [(6, 6), (1, 4, 7), (12, 0), (1,) * 12])
def test_sums_over_chunks_are_sums_over_the_whole(model: VAE, batch: Batch, sizes: tuple[int, ...]) -> None:
    """However rows are cut into batches, empty ones included, the sums are those of all rows at once."""
    total = evaluate.zero(model)
    for part in zip(*(tensor.split(sizes) for tensor in batch), strict=True):
        total += evaluate.tally(model, *part)
    whole = evaluate.tally(model, *batch)
    torch.testing.assert_close(total.packed, whole.packed, rtol=1e-12, atol=1e-12)
    assert (total.columns, total.latents) == (whole.columns, whole.latents) == (13, 3)


def test_zero_is_neutral(model: VAE, batch: Batch) -> None:
    """Adding the sums over no rows changes nothing, and a batch of no rows yields exactly those."""
    whole, nothing = evaluate.tally(model, *batch), evaluate.zero(model)
    assert torch.equal((whole + nothing).packed, whole.packed)
    none = [part[:0] for part in batch]
    assert torch.equal(evaluate.tally(model, *none).packed, nothing.packed)
    assert torch.equal(evaluate.weigh(model, *none[:2], samples=3, seed=0, block=0).packed, nothing.packed)


def test_sums_are_float64_for_any_model(model: VAE, batch: Batch) -> None:
    """Sums of a float32 model are float64, so that millions of rows add up."""
    values, observed, noise = batch
    sums = evaluate.tally(model.float(), values.float(), observed, noise.float())
    sums += evaluate.weigh(model, values.float(), observed, samples=3, seed=0, block=0)
    assert sums.packed.dtype == evaluate.zero(model).packed.dtype == torch.float64


@pytest.mark.parametrize("packed", [torch.zeros(3), torch.zeros(3, 2, dtype=torch.float64)])
def test_sums_of_another_kind_are_refused(packed: Tensor) -> None:
    """Under the shape checker sums are one-dimensional float64 and nothing else: the checker is awake here."""
    with pytest.raises(TypeCheckError, match="packed"):
        Sums(packed, 1, 0)


def test_likelihood_figures_are_the_bounds(model: VAE, batch: Batch) -> None:
    """elbo is the mean bound of the rows, and log-likelihood minus KL; columns and latents add up to them."""
    found, (values, observed, noise) = figures(model, batch), batch
    terms = elbo(model, values, observed, model.encode(values, observed), noise)
    assert found.rows == 12
    assert found.elbo == found.score == pytest.approx(terms.per_row().mean().item(), rel=1e-12)
    assert found.elbo == pytest.approx(found.log_likelihood - found.kl, rel=1e-12)
    assert found.log_likelihood == pytest.approx(sum(found.log_likelihood_per_column.values()), rel=1e-12)
    assert found.kl == pytest.approx(sum(found.kl_per_latent), rel=1e-12)
    widths = [column.width for column in model.config.columns]
    per_column = [part.sum(1).mean().item() for part in terms.log_likelihood.split(widths, 1)]
    assert list(found.log_likelihood_per_column) == [column.name for column in EVERY]
    assert list(found.log_likelihood_per_column.values()) == pytest.approx(per_column, rel=1e-12)


def test_latent_figures_are_their_formulae(model: VAE, batch: Batch) -> None:
    """KL per latent is torch.distributions' averaged over rows; variance is that of the posterior means."""
    q, found = model.encode(*batch[:2]), figures(model, batch)
    divergence = kl_divergence(Normal(q.mean, (0.5 * q.logvar).exp()), Normal(0.0, 1.0)).mean(0)
    assert found.kl_per_latent == pytest.approx(divergence.tolist(), rel=1e-10)
    assert found.variance_per_latent == pytest.approx(q.mean.var(0, correction=0).tolist(), rel=1e-10)
    assert found.active_units == sum(variance > 0.01 for variance in found.variance_per_latent)


def test_latent_figures_under_a_mixture_are_each_dimensions_own() -> None:
    """With one latent the KL per latent is the KL, also under a mixture; its estimate there is that of the draws."""
    model = mixed(latent=1, prior="mixture")
    parts = (torch.randn(3, 1, generator=seeded(seed), dtype=torch.float64) for seed in (1, 2))
    model.set_prior(Prior(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log(), *parts))
    noise = torch.randn(12, 4, 1, generator=seeded(3), dtype=torch.float64)
    values, observed = table(model.config, 12)
    found, q = figures(model, (values, observed, noise)), model.encode(values, observed)
    z = q.sample(noise)
    assert found.kl == pytest.approx((q.log_prob(z)[:, :, 0] - model.prior().log_prob(z)).mean().item(), rel=1e-12)
    assert found.kl_per_latent == pytest.approx([found.kl], rel=1e-12)


def test_error_figures_are_their_formulae(model: VAE, batch: Batch) -> None:
    """Errors over observed cells only, from z = E[z | x]: RMSE in original units, or the share of wrong codes."""
    values, observed, _ = batch
    guess = model.reconstruct(model.encode(values, observed).mean).detach()
    found = figures(model, batch).error_per_column

    def original(column: Column, cells: Tensor) -> Tensor:
        if column.likelihood not in REALS:
            return cells
        plain = column.center + column.scale * cells
        return plain.exp() if column.likelihood == "log_normal" else plain

    first = 0
    for column in EVERY:
        cells = slice(first, first + column.width)
        seen = observed[:, cells]
        one, other = (original(column, part[:, cells])[seen] for part in (guess, values))
        if column.likelihood in CATEGORIES:
            expected = (one.round() != other).double().mean()
            assert 0 < expected < 1
        else:
            expected = ((one - other) ** 2).mean().sqrt()
        assert found[column.name] == pytest.approx(expected.item(), rel=1e-6)
        first = cells.stop


def test_a_column_without_cells_has_no_error(model: VAE, batch: Batch) -> None:
    """Where nothing of a column is observed its error is None, not zero, and its log-likelihood is zero."""
    values, observed, noise = batch
    observed = torch.cat([torch.zeros_like(observed[:, :1]), observed[:, 1:]], 1)
    found = figures(model, (values, observed, noise))
    assert found.error_per_column["price"] is None
    assert found.log_likelihood_per_column["price"] == 0
    assert found.error_per_column["city"] is not None


def test_errors_do_not_depend_on_the_draw(model: VAE, batch: Batch) -> None:
    """Noise moves the log-likelihood, but neither errors nor KL nor latent variances."""
    values, observed, noise = batch
    one, other = (figures(model, (values, observed, each)) for each in (noise, noise.flip(0)))
    assert one.log_likelihood != other.log_likelihood
    assert one.error_per_column == other.error_per_column
    assert (one.kl, one.variance_per_latent) == (other.kl, other.variance_per_latent)


def test_content_of_missing_cells_changes_nothing(model: VAE, batch: Batch) -> None:
    """The sums are equal to the bit with NaN in the missing cells, the evidence included."""
    values, observed, noise = batch
    found = []
    for cells in (values, values.where(observed, math.nan)):
        sums = evaluate.tally(model, cells, observed, noise)
        found.append(sums + evaluate.weigh(model, cells, observed, samples=5, seed=0, block=0))
    assert torch.equal(found[0].packed, found[1].packed)
    assert found[0].packed.isfinite().all()


def test_evaluation_leaves_no_graph(model: VAE, batch: Batch) -> None:
    """Evaluating builds no graph and touches no gradient."""
    assert not evaluate.tally(model, *batch).packed.requires_grad
    assert not evaluate.weigh(model, *batch[:2], samples=2, seed=0, block=0).packed.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("sizes", [(50, 108), (1, 63, 64, 30), (7,) * 22 + (4,), (0, 158, 0)])
def test_judging_a_stream_is_judging_it_whole(model: VAE, many: tuple[Tensor, Tensor], sizes: tuple[int, ...]) -> None:
    """Ragged batches, short ones and empty ones leave every figure as it is, to the bit: a row counts once."""
    whole = evaluate.judge(model, [many], samples=5, seed=4)
    stream = zip(*(part.split(sizes) for part in many), strict=True)
    assert evaluate.judge(model, stream, samples=5, seed=4) == whole
    assert whole.rows == len(many[0])


def test_judging_is_repeatable_by_its_seed(model: VAE, many: tuple[Tensor, Tensor]) -> None:
    """k and seed stand beside the NLL; the same seed gives it again, to the bit, and another seed another."""
    one, again, other = (evaluate.judge(model, [many], samples=3, seed=seed) for seed in (5, 5, 6))
    assert one == again
    assert (one.importance_samples, one.seed, other.seed) == (3, 5, 6)
    assert one.nll != other.nll
    bare = evaluate.judge(model, [many], samples=0, seed=5)
    assert (bare.nll, bare.importance_samples) == (None, 0)
    assert replace(one, nll=None, importance_samples=0) == bare


def test_judging_leaves_the_global_generator_alone(model: VAE, many: tuple[Tensor, Tensor]) -> None:
    """No figure depends on, or moves, the state of torch's own generator."""
    before = torch.get_rng_state()
    evaluate.judge(model, [many], samples=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_evidence_does_not_depend_on_who_weighs_which_block(model: VAE, many: tuple[Tensor, Tensor]) -> None:
    """Blocks weighed by two workers, in any order, add up to what one worker finds; each block has its own samples."""
    blocks = list(enumerate(zip(*(part.split(BLOCK_ROWS) for part in many), strict=True)))

    def weighed(share: list[tuple[int, tuple[Tensor, ...]]]) -> Sums:
        total = evaluate.zero(model)
        for block, part in share:
            total += evaluate.weigh(model, *part, samples=4, seed=9, block=block)
        return total

    alone, apart = weighed(blocks), weighed(blocks[::-2]) + weighed(blocks[1::2])
    torch.testing.assert_close(apart.packed, alone.packed, rtol=1e-14, atol=0)
    assert alone.packed[1] == len(many[0])
    first = blocks[0][1]
    one, other = (evaluate.weigh(model, *first, samples=4, seed=9, block=block) for block in (0, 1))
    assert one.packed[2] != other.packed[2]


@pytest.mark.parametrize("size", [1, 17, 50])
def test_parts_of_the_samples_are_averaged_as_weights(
    model: VAE, batch: Batch, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded 1, 17 or 50 at a time, 50 samples give the log of the mean of their weights, not a mean of logarithms."""
    values, observed, _ = batch
    monkeypatch.setattr(importance, "WEIGHED", len(values) * size)
    found = importance.log_evidence(model, values, observed, samples=50, generator=seeded(2))
    generator, posterior = seeded(2), model.encode(values, observed)
    noise = [torch.randn(12, min(size, 50 - start), 3, generator=generator) for start in range(0, 50, size)]
    weights = log_weights(model, values, observed, posterior.sample(torch.cat(noise, 1)), posterior)
    torch.testing.assert_close(found, weights.logsumexp(1).detach() - math.log(50), rtol=0, atol=1e-12)


def test_nll_tightens_with_samples() -> None:
    """NLL of 1 > of 10 > of 100 samples > -log p(x): each an upper bound on the next, on average over rows."""
    model = wide()
    rows = table(model.config, 2 * BLOCK_ROWS)
    exact = -log_evidence(model, *rows).mean().item()
    one, ten, hundred = (evaluate.judge(model, [rows], samples=samples).nll for samples in (1, 10, 100))
    assert one > ten > hundred > exact - 0.01
    assert hundred == pytest.approx(exact, abs=0.1)


def test_a_deterministic_encoder_is_judged_by_its_fit() -> None:
    """It has neither ELBO nor NLL nor KL; its score is its log-likelihood, and every other figure is a number."""
    model = mixed(encoder="deterministic")
    judged = evaluate.judge(model, [table(model.config, 20)], samples=9)
    assert (judged.elbo, judged.nll, judged.importance_samples, judged.kl) == (None, None, 0, 0)
    assert judged.score == judged.log_likelihood
    assert judged.kl_per_latent == (0, 0, 0)
    numbers = [judged.log_likelihood, *judged.variance_per_latent, *judged.log_likelihood_per_column.values()]
    errors = [error for error in judged.error_per_column.values() if error is not None]
    assert all(map(math.isfinite, numbers + errors))
    assert len(errors) == len(EVERY)
    with pytest.raises(ValueError, match=r"^a deterministic encoder has no likelihood: its q\(z \| x\) is a point$"):
        importance.log_evidence(model, *table(model.config, 2), samples=1, generator=seeded(0))


@pytest.mark.parametrize("encoder", ["stochastic", "deterministic"])
def test_an_evaluation_survives_json(encoder: str) -> None:
    """Written as JSON and read back it is the same, None included."""
    model = mixed(encoder=encoder)
    judged = evaluate.judge(model, [table(model.config, 5)], samples=2)
    assert Evaluation.from_plain(json.loads(json.dumps(asdict(judged)))) == judged


def test_active_units_count_variance_above_a_hundredth() -> None:
    """A latent dimension is active exactly if the variance of its posterior mean exceeds 0.01."""
    found = linear_means(0.09, 0.11, 2.0, 0.0)
    assert found.variance_per_latent == pytest.approx([0.0081, 0.0121, 4.0, 0.0], rel=1e-6, abs=1e-12)
    assert found.active_units == 2
    assert found.verdict == "2 of 4 latent dimensions unused"


def test_a_full_latent_space_is_called_full() -> None:
    """If every latent dimension is active the verdict says so."""
    assert linear_means(1.0, -1.0).verdict == "all 2 latent dimensions in use"


def test_collapse_is_called_collapse() -> None:
    """If no latent dimension is active the verdict says so and how to cure it."""
    expected = "collapsed: no latent dimension carries information; lower beta or train longer"
    assert linear_means(0.0, 0.05).verdict == expected


def test_gain_is_over_the_rival() -> None:
    """Nats above pPCA: by the NLL where there is one, else by the ELBO; None without a rival or a likelihood."""
    found = linear_means(1.0)
    assert found.elbo is not None
    assert found.gain is None
    assert replace(found, rival_nll=3.0).gain == pytest.approx(3.0 + found.elbo)
    assert replace(found, rival_nll=3.0, nll=2.5).gain == pytest.approx(0.5)
    assert replace(found, rival_nll=3.0, elbo=None).gain is None


def test_no_rows_have_no_figures(model: VAE) -> None:
    """An evaluation of nothing is refused rather than a division by zero."""
    for batches in ([], [table(model.config, 0)]):
        with pytest.raises(ValueError, match=r"^an evaluation needs at least one row$"):
            evaluate.judge(model, batches)


def test_probabilities_are_judged_as_the_zeros_and_ones_they_stand_for() -> None:
    """A dynamic column's probabilities are binarised once, by the seed; zeros and ones stay what they are."""
    column = Column(name="x", likelihood="bernoulli", width=4, means=(0.5,), dynamic=True)
    model = build(ModelConfig(columns=(column,), network=Network(latent=1, hidden=())))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    half, seen = torch.full((2_000, 4), 0.5, dtype=torch.float64), torch.ones(2_000, 4, dtype=torch.bool)
    once, again = (judge(model, [(half, seen)], samples=5) for _ in range(2))
    assert once == again
    assert once.error_per_column["x"] == pytest.approx(0.5, abs=0.02)
    assert once.nll == pytest.approx(4 * math.log(2), abs=1e-6)
    ones = judge(model, [(torch.ones_like(half), seen)], samples=5)
    assert ones.error_per_column["x"] in (0.0, 1.0)


def test_the_judge_tells_what_cannot_be_summed() -> None:
    """Information and prior gap from a few rows; the compatibility gap of a denoising objective, by column."""
    model = build(ModelConfig(columns=(Column(name="x", likelihood="gaussian"),), network=Network(latent=2)))
    rows = [(torch.randn(100, 1, generator=seeded(0)).double(), torch.ones(100, 1, dtype=torch.bool))]
    plain, denoising = judge(model, rows), judge(model, rows, objective=Objective(noise="masking", noise_level=0.5))
    assert plain.informed_rows == 100
    assert plain.mutual_information is not None
    assert plain.prior_gap is not None
    assert plain.compatibility is None
    assert denoising.compatibility is not None
    assert 0 <= denoising.compatibility["x"] <= 1
