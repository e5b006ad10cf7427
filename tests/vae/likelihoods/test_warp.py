"""Warps: what a model value stands for may bend, and every answer is still of x in the data's own units."""

from __future__ import annotations

import copy
import math
import pickle
import re
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import LIKELIHOODS, cdf, column, drawn, normal, of, only, outputs_of, repeated, seeded, seen, stretched
from scipy import stats
from torch import Tensor

from vae import latent_class, rival
from vae.config import REALS, WARPED, Column
from vae.likelihoods import Columns
from vae.likelihoods.real import Scaled
from vae.likelihoods.warp import Warps

BENT = {"warp": "knots", "scores": (-2.0, -1.0, 0.0, 0.5, 2.5), "knots": (-8.0, -1.0, -0.25, 0.0, 8.0)}
"""Slopes 7, 3/4, 1/2 and 4, which float32 holds exactly."""
WARPS: dict[str, dict[str, Any]] = {
    "log1p": {"warp": "log1p", "center": 1.0, "scale": 0.25},
    "knots": BENT,
    "later": {**BENT, "scores": (0.5, 1.5, 2.5, 3.0, 5.0)},
    "sooner": {**BENT, "scores": (-6.0, -5.0, -4.0, -3.5, -1.5)},
}
LEVELS = (1e-3, 0.3, 0.5, 0.95, 0.999)
warped = pytest.mark.parametrize("warp", WARPS)
kinds = pytest.mark.parametrize("kind", WARPED)


def bent(kind: str, warp: str, **more: Any) -> Column:
    """An example of a kind with a warp."""
    return column(kind, **{**WARPS[warp], **more})


def grid(warp: str, *, nodes: int = 60) -> tuple[Tensor, Tensor]:
    """Model values and dv: Gauss and Legendre's rule between knots, as exact as the smoothness in between allows."""
    knots = WARPS[warp].get("scores", ())
    edges = sorted({*np.linspace(-60, 60, 241), *knots})
    at, weight = np.polynomial.legendre.leggauss(nodes)
    values = np.concatenate([(a + b) / 2 + (b - a) / 2 * at for a, b in pairwise(edges)])
    weights = np.concatenate([(b - a) / 2 * weight for a, b in pairwise(edges)])
    return torch.from_numpy(values), torch.from_numpy(weights)


def density(likelihood: Columns, row: Tensor, values: Tensor) -> Tensor:
    """p(x) dx/dv of each value of one feature."""
    cells = values[:, None].requires_grad_()
    (slope,) = torch.autograd.grad(likelihood.units(cells).sum(), cells)
    log_prob = likelihood.log_prob(repeated(row, len(values)), cells.detach(), seen(cells))
    return (log_prob.exp() * slope)[:, 0].detach()


@warped
@kinds
def test_every_warped_density_integrates_to_one(kind: str, warp: str) -> None:
    """Over x in original units: the Jacobian of the warp is in log p, value by value."""
    likelihood = of(bent(kind, warp))
    for row in outputs_of(likelihood, 3, seed=1):
        u = torch.linspace(-7, 7, 4001, dtype=torch.float64)
        mass = stretched(likelihood, u, torch.sinh).mass(likelihood, row)
        assert mass.sum().item() == pytest.approx(1, abs=1e-11)


@warped
@kinds
def test_a_forgotten_bend_is_seen(kind: str, warp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta: with one unit for all values, as without a warp, the integral is not 1."""
    likelihood = of(bent(kind, warp))
    monkeypatch.setattr(only(likelihood), "log_unit", lambda values: torch.zeros_like(values) + math.log(2.5))
    values, weights = grid(warp)
    row = outputs_of(likelihood, 1, seed=1)[0]
    assert abs((density(likelihood, row, values) * weights).sum().item() - 1) > 0.05


@warped
@pytest.mark.parametrize("kind", WARPED)
def test_every_warped_mean_is_the_integral_of_x(kind: str, warp: str) -> None:
    """`units(mean)` is E[x] in original units: of bent lines exactly, by the hinges at their knots."""
    likelihood = of(bent(kind, warp))
    values, weights = grid(warp)
    for row in outputs_of(likelihood, 4, seed=2):
        x = likelihood.units(values[:, None])[:, 0]
        expected = (x * density(likelihood, row, values) * weights).sum().item()
        found = likelihood.units(likelihood.mean(row[None])).item()
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@warped
@pytest.mark.parametrize("kind", WARPED)
def test_every_warped_deviation_is_that_of_x(kind: str, warp: str) -> None:
    """The root of the integral of (x - E[x])^2: under a logarithm exactly, of bent lines to a hundredth."""
    likelihood = of(bent(kind, warp))
    values, weights = grid(warp)
    for row in outputs_of(likelihood, 4, seed=2):
        x, mass = likelihood.units(values[:, None])[:, 0], density(likelihood, row, values) * weights
        expected = ((x - (x * mass).sum()) ** 2 * mass).sum().sqrt().item()
        nothing = torch.zeros(1, 1, dtype=torch.float64)
        found = likelihood.moments(row[None], nothing, nothing.bool())[1].item()
        assert found == pytest.approx(expected, rel=1e-4 if warp == "log1p" else 0.01)


@warped
@kinds
def test_every_warped_quantile_inverts_the_cdf(kind: str, warp: str) -> None:
    """A warp rises, so quantiles of model values are those of x."""
    likelihood = of(bent(kind, warp))
    row = outputs_of(likelihood, 1, seed=3)[0]
    for level in LEVELS:
        assert cdf(likelihood, kind, row, likelihood.quantile(row[None], level)[0, 0]) == pytest.approx(level, abs=1e-9)


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_the_mode_of_log1p_is_where_x_is_most_probable(kind: str) -> None:
    """In original units, not in those of its logarithm: nowhere on a fine grid is p(x) higher."""
    likelihood = of(bent(kind, "log1p"))
    values = torch.linspace(-30, 30, 20001, dtype=torch.float64)[:, None]
    for row in outputs_of(likelihood, 20, seed=4):
        at = likelihood.log_prob(row[None], likelihood.mode(row[None]), seen(row[None, :1])).item()
        assert likelihood.log_prob(repeated(row, len(values)), values, seen(values)).max().item() <= at + 1e-9


@kinds
def test_the_mode_of_bent_lines_is_that_of_the_score(kind: str) -> None:
    """The density jumps at knots where a fit happened to put them: the mode is that without the lines."""
    plain, lines = of(column(kind)), of(bent(kind, "knots"))
    outputs = outputs_of(plain, 20, seed=5)
    assert torch.equal(lines.mode(outputs), plain.mode(outputs))


@warped
def test_every_warp_rises_and_says_how_fast(warp: str) -> None:
    """units(v) is increasing, its slope is exp(log_unit), and float32 agrees with float64."""
    warps = Warps([bent("gaussian", warp)], torch.float64)
    values = torch.linspace(-30, 30, 5001, dtype=torch.float64)[:, None].requires_grad_()
    units = warps.units(values)
    (slope,) = torch.autograd.grad(units.sum(), values)
    assert (units.diff(dim=0) > 0).all()
    torch.testing.assert_close(warps.log_unit(values), slope.log(), rtol=1e-12, atol=1e-12)
    single = Warps([bent("gaussian", warp)])
    torch.testing.assert_close(single.log_unit(values.float()).double(), slope.log(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(single.units(values.detach()), units, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("output", [-3.0, 0.7])
def test_log1p_is_scipys_shifted_log_normal(output: float) -> None:
    """Density, mean, median of 1 + x log-normal."""
    each = bent("gaussian", "log1p")
    likelihood, values = of(each), 5 * normal(40, 1, seed=6)
    s = each.scale * cast(Scaled, only(likelihood)).scale().item()
    scipy = stats.lognorm(s, loc=-1, scale=math.exp(each.center + each.scale * output))
    x = likelihood.units(values)
    found = likelihood.log_prob(torch.full_like(values, output), values, seen(values))
    torch.testing.assert_close(found, torch.from_numpy(scipy.logpdf(x.numpy())), rtol=1e-11, atol=1e-10)
    row = torch.full((1, 1), output, dtype=torch.float64)
    assert likelihood.units(likelihood.mean(row)).item() == pytest.approx(scipy.mean(), rel=1e-12)
    assert likelihood.units(likelihood.quantile(row, 0.5)).item() == pytest.approx(scipy.median(), rel=1e-12)


@kinds
def test_straight_lines_change_nothing(kind: str) -> None:
    """Knots on the diagonal are no warp: every answer is the plain column's."""
    plain = of(column(kind))
    lines = of(column(kind, warp="knots", scores=(-1.0, 0.0, 2.0), knots=(-1.0, 0.0, 2.0)))
    outputs = outputs_of(plain, 30, seed=7)
    values = drawn(plain, outputs, seed=8)
    for answer in ("mean", "mode"):
        torch.testing.assert_close(getattr(lines, answer)(outputs), getattr(plain, answer)(outputs))
    torch.testing.assert_close(lines.units(values), plain.units(values))
    torch.testing.assert_close(
        lines.log_prob(outputs, values, seen(values)), plain.log_prob(outputs, values, seen(values))
    )


@kinds
def test_every_warped_block_is_its_columns(kind: str) -> None:
    """All warps side by side in one block, numbers of knots apart: each column answers as it does alone."""
    shorter = {"warp": "knots", "scores": (-1.0, 0.5), "knots": (-2.0, 1.0)}
    examples = [{}, *WARPS.values(), shorter, {"width": 2}]
    columns = [column(kind, name=str(index), **each) for index, each in enumerate(examples)]
    warps, widths = Warps(columns, torch.float64), [each.width for each in columns]
    values, scale = 3 * normal(50, 8, seed=9), normal(50, 8, seed=10).abs()
    each = zip(columns, values.split(widths, 1), scale.split(widths, 1), strict=True)
    parts = [(Warps([one], torch.float64), value, size) for one, value, size in each]
    assert torch.equal(warps.units(values), torch.cat([one.units(value) for one, value, _ in parts], 1))
    assert torch.equal(warps.log_unit(values), torch.cat([one.log_unit(value) for one, value, _ in parts], 1))
    for answer in ("mean", "mode", "log_mass"):
        alone = torch.cat([getattr(one, answer)(value, size) for one, value, size in parts], 1)
        torch.testing.assert_close(getattr(warps, answer)(values, scale), alone, rtol=1e-12, atol=1e-12)
    assert len(Columns(columns).blocks) == 1


def test_a_joint_mixture_may_mix_its_warps() -> None:
    """log p of the group is that of its standardised values minus every feature's own log unit; draws complete it."""
    columns = [column("joint_mixture", name="a"), bent("joint_mixture", "log1p"), bent("joint_mixture", "knots")]
    plain = [column("joint_mixture", name=str(index), scale=1.0, center=0.0) for index in range(3)]
    group, straight = of(*columns), of(*plain)
    outputs = outputs_of(group, 40, seed=11)
    values, observed = drawn(group, outputs, seed=12), torch.rand(40, 3, generator=seeded(13)) > 0.3
    units = torch.where(observed, Warps(columns, torch.float64).log_unit(values), 0.0)
    expected = straight.log_prob(outputs, values, observed) - units
    torch.testing.assert_close(group.log_prob(outputs, values, observed), expected)
    assert torch.equal(group.complete(outputs, values, observed, seeded(14))[observed], values[observed])


def test_rivals_know_every_warp() -> None:
    """pPCA and mixtures of independent columns count in the data's own units too."""
    columns = [column("gaussian", name="a"), bent("gaussian", "log1p"), bent("mixture", "knots")]
    plain = [column("gaussian", name=str(index), scale=1.0) for index in range(3)]
    values = normal(80, 3, seed=15)
    observed = torch.rand(80, 3, generator=seeded(16)) > 0.2
    units = torch.where(observed, Warps(columns, torch.float64).log_unit(values), 0.0).sum(1)
    for fit in (
        lambda those: rival.fit(those, values, observed, latent=1),
        lambda those: latent_class.fit(those, values, observed, classes=1),
    ):
        found, straight = (fit(those).log_prob(values, observed) for those in (columns, plain))
        torch.testing.assert_close(found, straight - units)


ANY = st.floats(-(2.0**127), 2.0**127, width=32) | st.sampled_from([0.0, 1.0, -1.0, 1e9, -1e18, 1e18])


@warped
@kinds
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_every_warped_answer_is_finite(kind: str, warp: str, data: st.DataObject) -> None:
    """For any float32 outputs and values, however extreme; gradients too."""
    likelihood = Columns([bent(kind, warp)])
    width = sum(likelihood.outputs)
    outputs = torch.tensor([data.draw(st.lists(ANY, min_size=width, max_size=width))]).requires_grad_()
    values = torch.tensor([[data.draw(ANY)]])
    log_prob = likelihood.log_prob(outputs, values, seen(values))
    gradients = torch.autograd.grad(log_prob.sum(), (outputs, *likelihood.parameters()))
    answers = (likelihood.mean(outputs), likelihood.mode(outputs), likelihood.quantile(outputs, 0.5))
    for answer in (log_prob, *answers, *gradients):
        assert answer.isfinite().all()


def test_a_warp_is_copied_and_sent() -> None:
    """Deep copies and pickles of a model's columns give the same answers: workers are sent them."""
    likelihood = of(*(column("gaussian", name=name, **WARPS[name]) for name in WARPS))
    values = normal(9, len(WARPS), seed=17)
    for again in (copy.deepcopy(likelihood), pickle.loads(pickle.dumps(likelihood))):
        assert torch.equal(again.units(values), likelihood.units(values))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "t": ({"likelihood": "student_t", "warp": "log1p"}, "warp = 'log1p' with likelihood 'student_t', sigma = 0"),
    "count": ({"likelihood": "poisson", "warp": "log1p"}, "warp = 'log1p' with likelihood 'poisson', sigma = 0"),
    "sigma": ({"sigma": 0.5, "warp": "log1p"}, "warp = 'log1p' with likelihood 'gaussian', sigma = 0.5"),
    "none": ({"warp": "knots"}, "0 knots, 0 scores with warp = 'knots': as many, rising, at least two"),
    "one": ({**BENT, "knots": (0.0,), "scores": (0.0,)}, "1 knots, 1 scores with warp = 'knots'"),
    "uneven": ({**BENT, "knots": (0.0, 1.0)}, "2 knots, 5 scores with warp = 'knots'"),
    "falling": ({**BENT, "scores": (0.0, 1.0), "knots": (1.0, 0.0)}, "2 knots, 2 scores with warp = 'knots'"),
    "unasked": ({**BENT, "warp": "none"}, "5 knots, 5 scores with warp = 'none'"),
    "infinite": ({**BENT, "scores": (0.0, math.inf), "knots": (0.0, 1.0)}, "a setting is not finite"),
    "waves": ({"likelihood": "log_normal", "periods": (7.0,)}, "periods with likelihood 'log_normal', warp = 'none'"),
    "bent waves": ({**BENT, "periods": (7.0,)}, "periods with likelihood 'gaussian', warp = 'knots'"),
    "shape": ({"periods": (7.0,), "shape": (1, 1, 1)}, "periods with a shape: an image has none"),
    "vector": ({"embedding": 3}, "embedding = 3 with likelihood 'gaussian'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_has_no_meaning_is_refused(case: str) -> None:
    """By the column's name, the setting, and what it does not go with."""
    wrong, message = WRONG[case]
    with pytest.raises(ValueError, match=re.escape(f"column 'x': {message}")):
        Column(**{"name": "x", "likelihood": "gaussian", **wrong})


def test_student_t_has_neither_mean_nor_mode_under_a_logarithm() -> None:
    """Why it is left out: all other reals but log_normal, itself a logarithm, may be warped."""
    assert {*REALS} - {*WARPED} == {"log_normal", "student_t"}
    assert {*WARPED} < {*LIKELIHOODS}


DAY = 86_400.0


def test_periods_are_sine_and_cosine_behind_the_numbers() -> None:
    """Of x in original units, zero where a cell is missing; p(x) does not know of them."""
    when = column("gaussian", center=1.7e9, scale=4e6, periods=(DAY, 7 * DAY), nullable=True)
    likelihood = of(when, column("gaussian", name="y"))
    values, observed = normal(200, 2, seed=18), torch.rand(200, 2, generator=seeded(19)) > 0.3
    shown = likelihood.embed(values, observed)
    assert shown.shape == (200, likelihood.width) == (200, 2 + 4 + 1)
    x = 1.7e9 + 4e6 * values[:, 0]
    for index, period in enumerate((DAY, 7 * DAY)):
        angle = 2 * math.pi * (x / period)
        for part, wave in ((0, angle.sin()), (2, angle.cos())):
            expected = torch.where(observed[:, 0], wave, 0.0)
            torch.testing.assert_close(shown[:, 2 + part + index], expected, rtol=0, atol=1e-4)
    plain = of(Column(**{**vars(when), "periods": ()}), column("gaussian", name="y"))
    outputs = outputs_of(plain, 200, seed=20)
    assert torch.equal(likelihood.log_prob(outputs, values, observed), plain.log_prob(outputs, values, observed))


@pytest.mark.parametrize("kind", [kind for kind in REALS if kind != "log_normal"])
def test_float32_knows_the_time_of_day_to_a_minute(kind: str) -> None:
    """Of values over ten years the angle is within 2 pi / 1440 of float64's."""
    when = column(kind, center=1.7e9, scale=1e8, periods=(DAY,))
    values = normal(500, 1, seed=21).clamp(-1.6, 1.6).float().double()
    single, double = (it.embed(values.to(it.means.dtype), seen(values)) for it in blocks(when))
    assert (single - double).abs()[:, 1:].max().item() < 2 * math.pi / 1440


def blocks(each: Column) -> tuple[Any, Any]:
    """The one block of a column in float32, and in float64 throughout."""
    single = only(Columns([each]))
    double = copy.deepcopy(single).double()
    double.turns.copy_(torch.tensor([each.scale / DAY], dtype=torch.float64))
    double.phase.copy_(torch.tensor([each.center / DAY % 1], dtype=torch.float64))
    return single, double
