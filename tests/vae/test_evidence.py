"""What a model says of one row, against closed forms and against the judge, which adds up over rows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from exact import corners, gaussian_rows, linear, noise_scale, optimum
from family import EVERY, build, network, table
from torch import Tensor

from vae import evaluate, importance, ppca
from vae.config import CATEGORIES, Column, ModelConfig
from vae.evidence import Witness
from vae.importance import parts
from vae.model import VAE, Posterior
from vae.ppca import PPCA

ROWS = 40


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that no global state is touched."""
    return torch.Generator().manual_seed(seed)


def mixed(**settings: object) -> VAE:
    """A model over a column of every kind, off its first weights."""
    return build(ModelConfig(columns=EVERY, network=network(**settings)), seed=1, shake=0.2)


def noise(rows: int, draws: int, latent: int) -> Tensor:
    """Standard normal draws."""
    return torch.randn(rows, draws, latent, generator=seeded(3), dtype=torch.float64)


@pytest.mark.parametrize("prior", ["normal", "vamp"])
def test_the_mean_elbo_is_the_judges(prior: str) -> None:
    """Over columns of every kind with missing cells: the mean of the rows' bounds is `evaluate`'s ELBO."""
    model = mixed(prior=prior)
    values, observed = table(model.config, ROWS)
    drawn = noise(ROWS, 2, 3)
    found = Witness(model).elbo(values, observed, model.encode(values, observed), drawn)
    judged = evaluate.conclude(model, evaluate.tally(model, values, observed, drawn))
    assert found.mean().item() == pytest.approx(judged.elbo, rel=1e-12)


def test_a_rows_nll_is_the_judges() -> None:
    """At the same draws, however they are cut, it is minus the log-evidence that `weigh` adds up."""
    model = mixed()
    values, observed = table(model.config, ROWS)
    expected = importance.log_evidence(model, values, observed, samples=7, generator=seeded(4))
    drawn = torch.randn(ROWS, 7, 3, generator=seeded(4)).double()
    cuts = [drawn[:, :2], drawn[:, 2:6], drawn[:, 6:]]
    found = Witness(model).nll(values, observed, model.encode(values, observed), cuts)
    torch.testing.assert_close(found, -expected, rtol=1e-12, atol=1e-12)
    assert [number for part in parts(50, rows=1024) for number in part] == list(range(50))


def test_at_ppcas_optimum_both_are_the_exact_likelihood() -> None:
    """Where q(z | x) is the exact posterior the weight is constant: NLL = -log p(x) at any draws, the ELBO as exact."""
    raw, _ = gaussian_rows([9.0, 3.0, 0.4, 0.3, 0.2], rows=60, seed=0)
    rival = ppca.fit(raw, latent=2)
    model = optimum(rival)
    observed = torch.ones_like(raw, dtype=torch.bool)
    posterior, witness = model.encode(raw, observed), Witness(model)
    nll = witness.nll(raw, observed, posterior, [5 * noise(60, 3, 2)])
    elbo = witness.elbo(raw, observed, posterior, corners(60, 2))
    torch.testing.assert_close(nll, -rival.log_prob(raw), rtol=0, atol=1e-10)
    torch.testing.assert_close(elbo, rival.log_prob(raw), rtol=0, atol=1e-10)


def test_in_other_units_only_the_jacobian_changes() -> None:
    """A column in thousandths: each row's bound falls by log 1000 if the cell is there, and its error is 1000 times."""
    model = mixed()
    values, observed = table(model.config, ROWS)
    fine = tuple(replace(it, center=1e3 * it.center, scale=1e3 * it.scale, sigma=it.sigma) for it in EVERY[:1])
    other = build(ModelConfig(columns=(*fine, *EVERY[1:]), network=network()))
    other.load_state_dict(model.state_dict())
    posterior, drawn = model.encode(values, observed), noise(ROWS, 1, 3)
    one, two = Witness(model), Witness(other)
    apart = one.elbo(values, observed, posterior, drawn) - two.elbo(values, observed, posterior, drawn)
    torch.testing.assert_close(apart, observed[:, 0].double() * math.log(1e3), rtol=0, atol=1e-5)
    guess = model.reconstruct(posterior.mean)
    errors = [it.errors(values, observed, guess)[:, 0] for it in (one, two)]
    torch.testing.assert_close(errors[1], 1e3 * errors[0], equal_nan=True, rtol=1e-6, atol=0)


def test_errors_are_the_judges_and_missing_where_nothing_is_there() -> None:
    """Of each column the root mean square over rows is `evaluate`'s error, or its root of a code's share of wrong."""
    model = mixed()
    values, observed = table(model.config, ROWS)
    posterior = model.encode(values, observed)
    found = Witness(model).errors(values, observed, model.reconstruct(posterior.mean))
    judged = evaluate.conclude(model, evaluate.tally(model, values, observed, noise(ROWS, 1, 3))).error_per_column
    for index, column in enumerate(EVERY):
        expected = judged[column.name]
        assert expected is not None
        square = found[:, index].square().nanmean().item()
        assert square == pytest.approx(expected if column.likelihood in CATEGORIES else expected**2, rel=1e-5)
        there = observed[:, model.columns.owner == index].any(1)
        assert torch.equal(found[:, index].isnan(), ~there)
    assert found[:, 0].isnan().any()


def test_a_dynamic_column_counts_by_the_mean_over_its_draws() -> None:
    """Of a pixel on with probability r: r log p(1) + (1 - r) log p(0); its error is a distance, not a code's."""
    ink = Column(name="ink", likelihood="bernoulli", width=3, dynamic=True)
    model = build(ModelConfig(columns=(ink,), network=network()), shake=0.2)
    shares = torch.rand(ROWS, 3, generator=seeded(5), dtype=torch.float64)
    observed, drawn = torch.ones_like(shares, dtype=torch.bool), noise(ROWS, 1, 3)
    posterior, witness = model.encode(shares, observed), Witness(model)
    fits = [
        model.log_likelihood(torch.full_like(shares, bit), observed, posterior.sample(drawn))[:, 0] for bit in (0, 1)
    ]
    expected = (shares * fits[1] + (1 - shares) * fits[0]).sum(1) - posterior.kl().sum(1)
    torch.testing.assert_close(witness.elbo(shares, observed, posterior, drawn), expected)
    guess = model.reconstruct(posterior.mean)
    torch.testing.assert_close(witness.errors(shares, observed, guess)[:, 0], (guess - shares).square().mean(1).sqrt())


def half_seen(observed: Tensor) -> tuple[PPCA, VAE, Tensor]:
    """A pPCA in units of its own, its linear VAE with the exact posterior of rows seen in part, and rows.

    W_o'W_o is diagonal, and so is the posterior's covariance, as a VAE's is.
    """
    axes, _ = torch.linalg.qr(noise(1, 3, 2)[0])
    weight = torch.cat([axes * torch.tensor([2.0, 0.7]).double(), noise(1, 2, 2)[0]])
    inside = PPCA(torch.linspace(-1, 1, 5).double(), weight, torch.tensor(0.3).double())
    model = linear(5, 2, center=7.0, scale=2.5)
    seen = weight * observed[:, None]
    precision = (seen.mT @ seen).diagonal() + inside.variance
    assert model.logvar is not None
    with torch.no_grad():
        model.decoder.head.weight.copy_(weight)
        model.decoder.head.bias.copy_(inside.mean)
        model.mean.weight.copy_((seen / precision).mT)
        model.mean.bias.copy_(-(seen / precision).mT @ inside.mean)
        model.logvar.weight.zero_()
        model.logvar.bias.copy_((inside.variance / precision).log())
        block = noise_scale(model)
        block.log_scale.copy_((inside.variance.sqrt() - block.floor[0]).log())
    return inside, model, inside.sample(ROWS, generator=seeded(6))


def test_imputed_cells_are_the_conditional_gaussian() -> None:
    """Of pPCA rows seen in part: E[x_m | x_o] and its sd by the covariance matrix, in original units, to ten digits."""
    observed = torch.tensor([True, True, True, False, False])
    inside, model, rows = half_seen(observed)
    mask = observed.expand(ROWS, -1)
    found = Witness(model).imputed(rows, mask, model.encode(rows, mask), corners(ROWS, 2))
    whole = inside.weight @ inside.weight.mT + inside.variance * torch.eye(5).double()
    back = whole[~observed][:, observed] @ whole[observed][:, observed].inverse()
    mean = inside.mean[~observed] + (rows - inside.mean)[:, observed] @ back.mT
    variance = (whole[~observed][:, ~observed] - back @ whole[observed][:, ~observed]).diagonal()
    torch.testing.assert_close(found.value[:, ~observed], 7 + 2.5 * mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.sd[:, ~observed], 2.5 * variance.sqrt().expand(ROWS, -1), rtol=0, atol=1e-10)
    assert found.probability.isnan().all()


def test_an_imputed_code_has_its_probability() -> None:
    """Of codes: the one reconstructed from the mean, and its p(x | z) by the mean over the draws; no sd by itself."""
    model = mixed()
    values, observed = table(model.config, ROWS)
    posterior, drawn = model.encode(values, observed), noise(ROWS, 2, 3)
    found = Witness(model).imputed(values, observed, posterior, drawn)
    guess, every = model.reconstruct(posterior.mean).round(), torch.ones_like(observed)
    coded = [column.likelihood in CATEGORIES for column in EVERY]
    features = torch.tensor(coded)[model.columns.owner]
    z = posterior.sample(drawn).unbind(1)
    chances = [model.columns.log_prob(model.decode(it), torch.where(features, guess, values), every).exp() for it in z]
    gone = features & ~observed
    torch.testing.assert_close(found.value[gone], guess[gone])
    torch.testing.assert_close(found.probability[gone], (sum(chances) / 2)[gone])
    assert ((found.probability[gone] > 0) & (found.probability[gone] <= 1)).all()
    assert torch.equal(found.probability.isnan(), ~features.expand(ROWS, -1))


def test_an_imputed_number_is_a_draws_mean_and_spread() -> None:
    """Numbers of every kind: mean and sd are those of 20,000 completions by p(x_m | z, x_o), z by q(z | x_o)."""
    model = mixed()
    values, observed = table(model.config, 1, seed=4)
    observed = torch.tensor([not column.nullable for column in EVERY])[model.columns.owner][None]
    posterior, count = model.encode(values, observed), 20_000
    found = Witness(model).imputed(values, observed, posterior, noise(1, 200, 3))
    z = Posterior(posterior.mean, posterior.logvar).sample(noise(1, count, 3))[0]
    rows, there = values.expand(count, -1), observed.expand(count, -1)
    with torch.no_grad():
        drawn = model.columns.complete(model.decode(z), torch.where(there, rows, 0.0), there, seeded(7))
    units = model.columns.units(drawn)
    number = torch.tensor([column.likelihood not in CATEGORIES for column in EVERY])[model.columns.owner]
    for feature in (number & ~observed[0]).nonzero().flatten().tolist():
        mean, sd = found.value[0, feature], found.sd[0, feature]
        assert units[:, feature].mean().item() == pytest.approx(mean.item(), abs=6 * sd.item() * 200**-0.5)
        assert units[:, feature].std().item() == pytest.approx(sd.item(), rel=0.12)
