"""The rival: pPCA's likelihood is a Gaussian's, its fit is the maximum, and missing cells are integrated out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from torch import Tensor
from torch.distributions import MultivariateNormal

from vae import ppca
from vae.ppca import PPCA, em_step, fit


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that no global state is touched."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal float64."""
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def scalar(value: float) -> Tensor:
    """A float64 of no dimension."""
    return torch.tensor(value, dtype=torch.float64)


def covariance(model: PPCA) -> Tensor:
    """W W^T + sigma^2 I."""
    return model.weight @ model.weight.mT + torch.diag(model.variance.expand(len(model.mean)))


def scattered(shape: torch.Size, *, missing: float, seed: int) -> Tensor:
    """A mask that lacks about this share of the cells, and all of row 0 but for none of row 1."""
    observed = torch.rand(shape, generator=seeded(seed)) >= missing
    observed[0], observed[1] = False, True
    return observed


def close(actual: Tensor, expected: Tensor, *, atol: float = 1e-10) -> None:
    """Equal, to the digits that float64 leaves."""
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=atol)


def imputed() -> Tensor:
    """TRAIN with the mean of its column in each gap."""
    means = torch.where(OBSERVED, TRAIN, 0.0).sum(0) / OBSERVED.sum(0)
    return torch.where(OBSERVED, TRAIN, means)


TRUTH = PPCA(3 * normal(8, seed=1), normal(8, 3, seed=2), scalar(0.25))
TRAIN = TRUTH.sample(500, generator=seeded(3))
TEST = TRUTH.sample(2000, generator=seeded(4))
OBSERVED = scattered(TRAIN.shape, missing=0.3, seed=5)


def test_log_prob_is_the_full_covariance_gaussian() -> None:
    """log N(x; m, W W^T + sigma^2 I), to torch's and to scipy's opinion."""
    ours = TRUTH.log_prob(TEST)
    close(ours, MultivariateNormal(TRUTH.mean, covariance(TRUTH)).log_prob(TEST))
    theirs = multivariate_normal(TRUTH.mean.numpy(), covariance(TRUTH).numpy()).logpdf(TEST.numpy())
    close(ours, torch.from_numpy(theirs))


def test_masked_likelihood_is_the_marginal_over_observed_cells() -> None:
    """Row by row, log p(x_o) is the log-density of the Gaussian with the observed means and covariances only."""
    values = torch.where(OBSERVED, TRAIN, math.nan)
    for row, seen, ours in zip(values, OBSERVED, TRUTH.log_prob(values, OBSERVED), strict=True):
        marginal = MultivariateNormal(TRUTH.mean[seen], covariance(TRUTH)[seen][:, seen]) if seen.any() else None
        close(ours, marginal.log_prob(row[seen]) if marginal else scalar(0))


def test_masked_likelihood_is_an_integral_over_the_missing_cell() -> None:
    """p(x_o) is the integral of p(x) over the missing cell, by the trapezoid rule."""
    grid = torch.linspace(-60, 60, 4001, dtype=torch.float64)
    rows = TEST[7].repeat(len(grid), 1)
    rows[:, 2] = grid
    integral = torch.trapezoid(TRUTH.log_prob(rows).exp(), grid)
    observed = torch.arange(8)[None] != 2
    close(TRUTH.log_prob(TEST[7:8], observed).exp(), integral[None], atol=0)


@pytest.mark.parametrize("chunk", [1, 100, 10**6])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """However many rows are read at a time, likelihood, posterior and fit are the same."""
    known, model = TRUTH.posterior(TRAIN, OBSERVED), fit(TRAIN, OBSERVED, latent=3, iterations=2)
    log_prob, complete = TRUTH.log_prob(TRAIN, OBSERVED), fit(TRAIN, latent=3)
    monkeypatch.setattr(ppca, "CHUNK", chunk)
    rows = slice(0, 40 if chunk == 1 else None)
    close(TRUTH.log_prob(TRAIN[rows], OBSERVED[rows]), log_prob[rows])
    for ours, whole in zip(TRUTH.posterior(TRAIN[rows], OBSERVED[rows]), known, strict=True):
        close(ours, whole[rows])
    close(covariance(fit(TRAIN, latent=3)), covariance(complete))
    close(covariance(fit(TRAIN, OBSERVED, latent=3, iterations=2)), covariance(model))


def test_chunks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No chunk holds more rows than `CHUNK` allows, by features or by squared latents; together they are the table."""
    monkeypatch.setattr(ppca, "CHUNK", 100)
    for latent, rows in ((0, 12), (3, 6), (50, 1)):
        values, observed = zip(*ppca._chunks(TRAIN, OBSERVED, latent), strict=True)
        assert {len(part) for part in values[:-1]} == {rows}
        assert torch.equal(torch.cat(values), TRAIN)
        assert torch.equal(torch.cat(observed), OBSERVED)


def test_an_all_true_mask_is_no_mask() -> None:
    """Rows without gaps count the same under a mask, without one, and beside rows with gaps."""
    everything = torch.ones_like(TRAIN, dtype=torch.bool)
    close(TRUTH.log_prob(TRAIN, everything), TRUTH.log_prob(TRAIN), atol=0)
    close(TRUTH.log_prob(TRAIN[:2], OBSERVED[:2])[1], TRUTH.log_prob(TRAIN)[1], atol=0)
    close(fit(TRAIN, everything, latent=3).weight, fit(TRAIN, latent=3).weight, atol=0)
    assert TRUTH.log_prob(TRAIN[:0]).shape == TRUTH.encode(TRAIN[:0], OBSERVED[:0]).shape[:1] == (0,)


def test_posterior_is_the_conditional_gaussian() -> None:
    """E and Cov of z given x_o are those of the joint Gaussian of (z, x_o); the prior where nothing is observed."""
    mean, spread = TRUTH.posterior(TRAIN, OBSERVED)
    for row in range(50):
        seen = OBSERVED[row]
        weight, rest = TRUTH.weight[seen], (TRAIN[row] - TRUTH.mean)[seen]
        gain = weight.mT @ torch.linalg.inv(covariance(TRUTH)[seen][:, seen])
        close(mean[row], gain @ rest)
        close(spread[row], torch.eye(3).double() - gain @ weight)
    close(TRUTH.encode(TRAIN, OBSERVED), mean, atol=0)
    assert torch.equal(spread[0], torch.eye(3).double())


def test_reconstruction_is_the_conditional_mean_of_a_missing_cell() -> None:
    """W E[z | x_o] + m fills a gap with E[x_u | x_o] = m_u + C_uo C_oo^-1 (x_o - m_o)."""
    seen = OBSERVED[2]
    whole = covariance(TRUTH)
    expected = TRUTH.mean + whole[:, seen] @ torch.linalg.solve(whole[seen][:, seen], (TRAIN[2] - TRUTH.mean)[seen])
    close(TRUTH.reconstruct(TRUTH.encode(TRAIN[2:3], OBSERVED[2:3]))[0][~seen], expected[~seen])


def test_samples_have_the_models_moments() -> None:
    """Mean and covariance of many samples are m and W W^T + sigma^2 I, within five standard errors."""
    rows = 40_000
    values, whole = TRUTH.sample(rows, generator=seeded(6)), covariance(TRUTH)
    variances = whole.diagonal()
    assert ((values.mean(0) - TRUTH.mean).abs() < 5 * (variances / rows).sqrt()).all()
    error = (whole**2 + torch.outer(variances, variances)).div(rows).sqrt()
    assert ((torch.cov(values.mT) - whole).abs() < 5 * error).all()


@pytest.mark.parametrize("latent", range(8))
def test_likelihood_at_the_fit_is_the_closed_form(latent: int) -> None:
    """The mean log-likelihood is -(d ln 2 pi + sum_{j<=q} ln l_j + (d - q) ln sigma^2 + d) / 2."""
    model = fit(TRAIN, latent=latent)
    lengths = torch.linalg.eigvalsh(torch.cov(TRAIN.mT, correction=0)).flip(0)
    close(model.variance, lengths[latent:].mean())
    log_det = lengths[:latent].log().sum() + (8 - latent) * model.variance.log()
    close(model.log_prob(TRAIN).mean(), -0.5 * (8 * math.log(2 * math.pi) + log_det + 8))


def test_sklearn_agrees() -> None:
    """sklearn divides the covariance by n - 1; with that undone, scores and per-row scores are the same."""
    theirs, model, bessel = PCA(3).fit(TRAIN.numpy()), fit(TRAIN, latent=3), 500 / 499
    rescaled = PPCA(model.mean, model.weight * bessel**0.5, model.variance * bessel)
    close(rescaled.log_prob(TEST), torch.from_numpy(theirs.score_samples(TEST.numpy())))
    close(rescaled.log_prob(TRAIN).mean(), scalar(theirs.score(TRAIN.numpy())))


def test_no_neighbour_is_likelier() -> None:
    """A step in any direction away from the fit lowers the likelihood of the rows it was fitted to."""
    model = fit(TRAIN, latent=3)
    best = model.log_prob(TRAIN).mean()
    for seed in range(20):
        step = normal(8, 5, seed=seed) * 0.01
        moved = PPCA(model.mean + step[:, 3], model.weight + step[:, :3], model.variance * step[0, 4].exp())
        assert moved.log_prob(TRAIN).mean() < best


def test_axes_are_orthogonal_ordered_and_signed() -> None:
    """W^T W is diagonal and descending, each column's largest entry positive, with and without gaps."""
    for model in (fit(TRAIN, latent=4), fit(TRAIN, OBSERVED, latent=4)):
        gram = model.weight.mT @ model.weight
        close(gram, torch.diag(gram.diagonal()))
        assert (gram.diagonal().diff() < 0).all()
        assert (model.weight.gather(0, model.weight.abs().argmax(0, keepdim=True)) > 0).all()


def test_units_and_offsets_only_add_a_constant() -> None:
    """In other units everything but the density's unit stays: log p falls by d ln(unit), gaps or none."""
    for observed in (None, OBSERVED):
        model = fit(TRAIN, observed, latent=3)
        other = fit(TRAIN * 1e6 + 1e7, observed, latent=3, floor=1e3)
        cells = TRAIN.new_full((), 8) if observed is None else observed.sum(1).double()
        shifted = other.log_prob(TRAIN * 1e6 + 1e7, observed) + cells * math.log(1e6)
        torch.testing.assert_close(shifted, model.log_prob(TRAIN, observed), rtol=0, atol=1e-9)


@pytest.mark.parametrize("latent", [0, 1, 3, 7])
def test_the_closed_form_is_a_fixed_point_of_em(latent: int) -> None:
    """With no gaps, an EM step from the closed form stays there."""
    model = fit(TRAIN, latent=latent)
    after, score = em_step(model, TRAIN, torch.ones_like(TRAIN, dtype=torch.bool), floor=1e-3)
    close(covariance(after), covariance(model))
    close(after.mean, model.mean)
    close(score, model.log_prob(TRAIN).sum())


def test_em_finds_the_closed_form() -> None:
    """With no gaps, EM from a random start has the mean after one step and ends at the closed form."""
    model = PPCA(normal(8, seed=7), normal(8, 3, seed=8), scalar(5))
    for _ in range(100):
        model, _ = em_step(model, TRAIN, torch.ones_like(TRAIN, dtype=torch.bool), floor=1e-3)
        close(model.mean, TRAIN.mean(0))
    close(covariance(model), covariance(fit(TRAIN, latent=3)), atol=1e-8)


@pytest.mark.parametrize(("missing", "floor"), [(0.1, 1e-3), (0.3, 1e-3), (0.6, 1e-3), (0.9, 1e-3), (0.3, 0.7)])
def test_em_never_falls(missing: float, floor: float) -> None:
    """Each step's log-likelihood is at least the last one's, from a random start, floor met or not."""
    observed = scattered(TRAIN.shape, missing=missing, seed=9)
    model, scores = PPCA(100 * normal(8, seed=7), normal(8, 3, seed=8), scalar(5)), []
    for _ in range(60):
        model, score = em_step(model, TRAIN, observed, floor=floor)
        scores.append(score)
    assert (torch.stack(scores).diff() > -1e-9).all()
    assert model.variance >= floor**2


def test_em_starts_at_mean_imputation_and_obeys_its_limits() -> None:
    """No iteration is the closed form of the imputed rows, two are two steps, and a gain too small is the last."""
    start = fit(imputed(), latent=3)
    close(covariance(fit(TRAIN, OBSERVED, latent=3, iterations=0)), covariance(start))
    one, _ = em_step(start, TRAIN, OBSERVED, floor=1e-3)
    two, _ = em_step(one, TRAIN, OBSERVED, floor=1e-3)
    close(covariance(fit(TRAIN, OBSERVED, latent=3, tolerance=1e9)), covariance(one))
    close(covariance(fit(TRAIN, OBSERVED, latent=3, iterations=2)), covariance(two))


def test_em_survives_a_start_far_off() -> None:
    """From a mean 1e9 away, where float64 has no digits for the latents' covariance, a step is still finite."""
    for seed in range(10):
        start = PPCA(1e9 * normal(8, seed=seed), normal(8, 3, seed=8), scalar(1e-6))
        after, _ = em_step(start, TRAIN[2:4], OBSERVED[2:4], floor=1e-3)
        assert all(part.isfinite().all() for part in (after.mean, after.weight, after.variance))


def test_em_ends_where_the_likelihood_is_flat() -> None:
    """At the fit, the gradient of the observed cells' likelihood in m, W and sigma^2 is nil."""
    model = fit(TRAIN, OBSERVED, latent=3, iterations=1000, tolerance=0.0)
    free = [part.clone().requires_grad_() for part in (model.mean, model.weight, model.variance)]
    PPCA(*free).log_prob(TRAIN, OBSERVED).mean().backward()
    assert max(float(part.grad.abs().max()) for part in free) < 1e-6


def test_em_with_gaps_nearly_reaches_the_truth() -> None:
    """With 30% of cells missing, held-out rows are within 0.1 nats of the truth, and far above mean imputation."""
    models = TRUTH, fit(TRAIN, OBSERVED, latent=3), fit(imputed(), latent=3)
    truth, ours, naive = (model.log_prob(TEST).mean() for model in models)
    assert truth - 0.1 < ours < truth
    assert naive < ours - 0.5


def test_what_lies_in_a_gap_is_never_read() -> None:
    """NaN, infinity or nonsense in missing cells: the same fit, to the last bit."""
    clean = fit(torch.where(OBSERVED, TRAIN, 0.0), OBSERVED, latent=3)
    for junk in (math.nan, math.inf, 1e300):
        values = torch.where(OBSERVED, TRAIN, junk)
        assert torch.equal(fit(values, OBSERVED, latent=3).weight, clean.weight)
        assert torch.equal(clean.log_prob(values, OBSERVED), clean.log_prob(TRAIN, OBSERVED))


def test_float32_rows_are_computed_in_float64() -> None:
    """A float32 table is judged as its float64 copy."""
    rows = TRAIN.float()
    assert torch.equal(fit(rows, latent=3).log_prob(rows), fit(rows.double(), latent=3).log_prob(rows.double()))


def test_a_latent_too_many_is_one_fewer_than_features() -> None:
    """latent >= d is d - 1; one feature leaves none, and the plain normal."""
    assert fit(TRAIN, latent=8).weight.shape == fit(TRAIN, OBSERVED, latent=99).weight.shape == (8, 7)
    column, model = TRAIN[:, :1], fit(TRAIN[:, :1], latent=2)
    assert model.weight.shape == (1, 0)
    normal_fit = torch.distributions.Normal(column.mean(), column.std(correction=0))
    close(model.log_prob(column), normal_fit.log_prob(column[:, 0]))
    gaps = fit(column, OBSERVED[:, :1], latent=2)
    close(gaps.mean[0], column[OBSERVED[:, 0]].mean())
    close(gaps.variance, column[OBSERVED[:, 0]].var(correction=0))


def test_constant_and_empty_columns_have_no_weight() -> None:
    """A constant column has its value for mean, one never observed 0, neither any weight, with and without gaps."""
    values, observed = TRAIN.clone(), OBSERVED.clone()
    values[:, 2], observed[:, 5] = 7.5, False
    plain, gaps = fit(values, latent=3), fit(torch.where(observed, values, math.nan), observed, latent=3)
    for model in (plain, gaps):
        close(model.mean[2], scalar(7.5), atol=1e-6)
        assert model.weight[2].abs().max() < 1e-3
    assert gaps.mean[5] == 0
    assert (gaps.weight[5] == 0).all()


def test_noise_stops_at_the_floor() -> None:
    """Rows on a plane, equal rows, one row, no observed cell: sigma is the floor, and every likelihood finite."""
    plane = normal(50, 2, seed=10) @ normal(2, 5, seed=11)
    gaps = scattered(plane.shape, missing=0.3, seed=12)
    cases = [(plane, None), (plane, gaps), (plane[:1].expand(9, 5), None), (plane[:1], None), (plane[1:2], gaps[2:3])]
    for values, observed in [*cases, (plane, torch.zeros_like(gaps))]:
        model = fit(values, observed, latent=3, floor=0.01)
        close(model.variance, scalar(1e-4))
        assert model.log_prob(values, observed).isfinite().all()
    large = fit(plane * 1e12, latent=3)
    close(large.variance, scalar(1e-12) * torch.cov(plane.mT * 1e12, correction=0).trace())


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 9), st.integers(1, 5), st.integers(0, 6), st.sampled_from([1.0, 1e-30]))
def test_every_finite_table_has_a_finite_likelihood(
    data: st.DataObject, rows: int, features: int, latent: int, unit: float
) -> None:
    """Any rows, any gaps, values up to 1e30, whatever their ratio: nothing is infinite or NaN."""
    number = st.floats(-1e30, 1e30) | st.floats(-1, 1) | st.sampled_from([0.0, 1.0, 3.0, 1e-20])
    cells = data.draw(st.lists(number, min_size=rows * features, max_size=rows * features))
    values = unit * torch.tensor(cells, dtype=torch.float64).reshape(rows, features)
    flags = st.lists(st.booleans(), min_size=rows * features, max_size=rows * features)
    observed = torch.tensor(data.draw(flags)).reshape(rows, features)
    for mask in (None, observed):
        model = fit(values, mask, latent=latent, iterations=20)
        assert all(part.isfinite().all() for part in (model.mean, model.weight, model.variance))
        for judged in (None, observed):
            assert model.log_prob(values, judged).isfinite().all()
            assert all(part.isfinite().all() for part in model.posterior(values, judged))


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        (torch.zeros(0, 3), {}, r"at least one row and one feature, got \(0, 3\): give it some cells"),
        (torch.zeros(3, 0), {}, r"at least one row and one feature, got \(3, 0\)"),
        (
            torch.tensor([[0.0, 1.0], [2.0, math.nan]]),
            {},
            r"at most 1e\+100, got nan at row 1, feature 1 \(1 such cells\)",
        ),
        (
            torch.tensor([[0.0, -math.inf], [math.inf, 1.0]]),
            {},
            r"got -inf at row 0, feature 1 \(2 such cells\): mark it",
        ),
        (torch.tensor([[1e101]], dtype=torch.float64), {}, r"got 1e\+101 at row 0, feature 0 .* rescale it"),
        (torch.ones(2, 2), {"latent": -1}, "latent >= 0 and floor > 0, got latent=-1, floor=0.001"),
        (torch.ones(2, 2), {"floor": 0.0}, r"got latent=1, floor=0\.0: raise them"),
    ],
)
def test_what_cannot_be_fitted_is_named(values: Tensor, changes: dict[str, float], message: str) -> None:
    """An error says what is wrong, where, and what to do."""
    with pytest.raises(ValueError, match=message):
        fit(values, **{"latent": 1, **changes})
