"""Noise: drawn before a step and the same again, and corruptions of the size that they claim."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from family import EVERY, MEMBERS, build, network, table
from torch import Generator, Tensor

from vae.config import CATEGORIES, COUNTS, LEVELS, REALS, Column, ModelConfig, Objective
from vae.likelihoods import Columns
from vae.noise import Noise, binarise, corrupt, draw

COLUMNS = Columns(EVERY).double()
REAL = torch.tensor([column.likelihood in REALS for column in EVERY for _ in range(column.width)])
ROWS = 4000


def rows(count: int = ROWS) -> tuple[Tensor, Tensor]:
    """Values and observed of some rows."""
    return table(ModelConfig(columns=EVERY, network=network()), count)


def noise(objective: Objective, count: int = ROWS, *, seed: int = 0) -> Noise:
    """The noise of some rows with three latent dimensions."""
    return draw(objective, COLUMNS, rows=count, latent=3, generator=Generator().manual_seed(seed))


def corrupted(kind: Any, level: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values and observed of some rows, and what the encoder is shown instead."""
    objective = Objective(noise=kind, noise_level=level)
    values, observed = rows()
    return values, observed, *corrupt(objective, COLUMNS, values, observed, noise(objective).corruption)


@pytest.mark.parametrize("member", list(MEMBERS))
def test_noise_is_reproducible(member: str) -> None:
    """Equal generators give equal noise to the bit, other seeds other noise, and torch's global one is left alone."""
    _, objective = MEMBERS[member]
    before = torch.random.get_rng_state()
    one, again, other = (noise(objective, 6, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(*pair) for pair in zip(one, again, strict=True))
    assert not torch.equal(one.posterior, other.posterior)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("member", list(MEMBERS))
def test_what_is_not_needed_has_no_width(member: str) -> None:
    """Draws as the objective asks; corruption and probe only where they are used, else of width zero."""
    _, objective = MEMBERS[member]
    drawn, features = noise(objective, 6), len(REAL)
    width = {"none": 0, "gaussian": features}.get(objective.noise, 2 * features)
    assert drawn.posterior.shape == (6, objective.draws, 3)
    assert drawn.corruption.shape == (6, width)
    assert drawn.probe.shape == (6, 3 if objective.contraction else 0)
    assert drawn.binary.shape == (6, 0)


def test_take_is_the_noise_of_those_rows() -> None:
    """`take` picks the same rows of every part, in the order asked for, again and again if asked."""
    drawn = noise(Objective(noise="masking", noise_level=0.5, contraction=1.0, draws=2), 5)
    index = torch.tensor([4, 0, 0])
    taken = drawn.take(index)
    assert all(torch.equal(part[index], other) for part, other in zip(drawn, taken, strict=True))
    assert {part.device.type for part in drawn.take(index, device="meta")} == {"meta"}
    assert not any(len(part) for part in drawn.take(torch.zeros(0, dtype=torch.long)))
    assert all(torch.equal(part[1:3], other) for part, other in zip(drawn, drawn.take(slice(1, 3)), strict=True))


def test_the_posteriors_noise_and_the_probes_are_standard_normal() -> None:
    """Mean 0, variance 1, and no correlation between the directions of a probe: E[v v'] = I, as Hutchinson needs."""
    drawn = noise(Objective(contraction=1.0), 20_000)
    for part in (drawn.posterior.flatten(1), drawn.probe):
        moment = part.T @ part / len(part)
        worst = (moment - torch.eye(part.shape[1])).abs()
        assert worst.diagonal().max() < 5 * math.sqrt(2 / len(part))
        assert (worst - worst.diagonal().diag()).max() < 5 / math.sqrt(len(part))
        assert part.mean(0).abs().max() < 5 / math.sqrt(len(part))


def test_dynamic_columns_are_binarised_by_their_probabilities() -> None:
    """Zeros and ones whose mean is the probability, within four standard errors; other columns keep their values."""
    columns = Columns([EVERY[0], Column(name="ink", likelihood="bernoulli", width=3, dynamic=True), EVERY[1]])
    drawn = draw(Objective(), columns, rows=20_000, latent=1, generator=Generator().manual_seed(0))
    assert drawn.binary.shape == (20_000, 5)
    assert drawn.binary.min() >= 0
    assert drawn.binary.max() < 1
    values = torch.tensor([[0.3, 0.0, 0.25, 1.0, 2.0]]).expand(20_000, -1)
    shown = binarise(columns, values, drawn.binary)
    assert torch.equal(shown[:, [0, 1, 3, 4]], values[:, [0, 1, 3, 4]])
    assert set(shown[:, 2].unique().tolist()) == {0.0, 1.0}
    assert shown[:, 2].mean().item() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 20_000))


def test_no_noise_changes_nothing() -> None:
    """noise = 'none' hands on what it was given."""
    values, observed = rows(5)
    shown = corrupt(Objective(), COLUMNS, values, observed, torch.zeros(5, 0))
    assert shown[0] is values
    assert shown[1] is observed


def test_gaussian_noise_has_its_standard_deviation() -> None:
    """Reals get noise of mean 0 and standard deviation `noise_level`; everything else keeps its values."""
    values, observed, shown, seen = corrupted("gaussian", 0.7)
    apart = (shown - values)[:, REAL]
    assert torch.equal(seen, observed)
    assert torch.equal(shown[:, ~REAL], values[:, ~REAL])
    assert apart.mean(0).abs().max() < 4 * 0.7 / math.sqrt(ROWS)
    assert (apart.std(0) - 0.7).abs().max() < 4 * 0.7 / math.sqrt(2 * ROWS)
    correlation = torch.corrcoef(apart.T) - torch.eye(apart.shape[1])
    assert correlation.abs().max() < 5 / math.sqrt(ROWS)


@pytest.mark.parametrize("level", [0.1, 0.5, 1.0])
def test_masking_hides_its_share_of_cells(level: float) -> None:
    """A cell there is hidden with probability `noise_level`, by itself; none appears, and no value changes."""
    values, observed, shown, seen = corrupted("masking", level)
    assert torch.equal(shown, values)
    assert not (seen & ~observed).any()
    for feature in range(len(REAL)):
        there = observed[:, feature]
        hidden = 1 - seen[there, feature].double().mean().item()
        assert hidden == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / int(there.sum())) + 1e-12)
    if level < 1:
        struck = (~seen[:, ~torch.tensor([column.nullable for column in EVERY]).repeat_interleave(_widths())]).double()
        worst = (torch.corrcoef(struck.T) - torch.eye(struck.shape[1])).abs().max()
        assert worst < 5 / math.sqrt(ROWS)


def _widths() -> Tensor:
    return torch.tensor([column.width for column in EVERY])


@pytest.mark.parametrize("level", [0.2, 1.0])
def test_salt_and_pepper_strikes_its_share(level: float) -> None:
    """A cell takes an end of its column, either as often, with probability `noise_level`; a categorical any known code.

    What is missing stays missing.
    """
    values, observed, shown, seen = corrupted("salt_and_pepper", level)
    assert torch.equal(seen, observed)
    for column, (start, end) in zip(EVERY, pairwise([0, *_widths().cumsum(0).tolist()]), strict=True):
        cells, before = shown[:, start:end], values[:, start:end]
        ends = _ends(column)
        struck = torch.isin(cells, torch.tensor(ends).double()) & (cells != before)
        assert torch.equal(cells[~struck], before[~struck])
        for each in ends:
            free = before != each
            share, count = (cells[free] == each).double().mean().item(), int(free.sum())
            own = level / len(ends)
            already = (before[free] == each).double().mean().item()
            assert share == pytest.approx(own + already, abs=4 * math.sqrt(own * (1 - own) / count) + 1e-12)


def _ends(column: Any) -> list[float]:
    """What salt and pepper may turn a cell of a column into."""
    if column.likelihood == "categorical":
        return [float(code) for code in range(1, column.codes)]
    if column.likelihood in (*CATEGORIES, *LEVELS):
        return [0.0, float((column.codes or 2) - 1)]
    return [column.low, column.high]


@pytest.mark.parametrize("kind", ["gaussian", "masking", "salt_and_pepper"])
def test_corrupted_cells_stay_in_the_support(kind: Literal["gaussian", "masking", "salt_and_pepper"]) -> None:
    """Codes, levels and counts stay whole numbers in their range: what the encoder sees can be embedded."""
    _, _, shown, seen = corrupted(kind, 0.9)
    for column, (start, end) in zip(EVERY, pairwise([0, *_widths().cumsum(0).tolist()]), strict=True):
        cells = shown[:, start:end]
        if column.likelihood in (*COUNTS, *LEVELS, *CATEGORIES):
            assert torch.equal(cells, cells.round())
            assert cells.min() >= 0
        if column.likelihood in (*LEVELS, *CATEGORIES):
            assert cells.max() < (column.codes or 2)
    assert COLUMNS.embed(shown, seen).isfinite().all()


@pytest.mark.parametrize("kind", ["gaussian", "masking", "salt_and_pepper"])
def test_missing_cells_stay_missing(kind: Literal["gaussian", "masking", "salt_and_pepper"]) -> None:
    """No corruption brings a missing cell back, and what lies in it, NaN included, reaches nothing."""
    objective = Objective(noise=kind, noise_level=0.5)
    values, observed = rows(50)
    drawn, embedded = noise(objective, 50), []
    for cells in (values, torch.where(observed, values, math.nan)):
        shown, seen = corrupt(objective, COLUMNS, cells, observed, drawn.corruption)
        assert not (seen & ~observed).any()
        embedded.append(COLUMNS.embed(shown, seen))
    assert torch.equal(*embedded)


@pytest.mark.parametrize("kind", ["gaussian", "masking", "salt_and_pepper"])
def test_a_rows_corruption_is_its_own(kind: Literal["gaussian", "masking", "salt_and_pepper"]) -> None:
    """A row is corrupted by its own noise alone: with `take` any part of the rows gives the same cells."""
    objective = Objective(noise=kind, noise_level=0.5)
    values, observed = rows(20)
    drawn, index = noise(objective, 20), torch.tensor([7, 3])
    whole = corrupt(objective, COLUMNS, values, observed, drawn.corruption)
    part = corrupt(objective, COLUMNS, values[index], observed[index], drawn.take(index).corruption)
    assert all(torch.equal(one[index], other) for one, other in zip(whole, part, strict=True))


@pytest.mark.parametrize("kind", ["gaussian", "masking", "salt_and_pepper"])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_corruption_keeps_the_precision(
    kind: Literal["gaussian", "masking", "salt_and_pepper"], precision: torch.dtype
) -> None:
    """The noise is float32, the rows may be float64: what comes out is what went in."""
    objective = Objective(noise=kind, noise_level=0.5)
    model = build(ModelConfig(columns=EVERY, network=network()), dtype=precision)
    values, observed = (part[:9] for part in rows(9))
    shown, _ = corrupt(objective, model.columns, values.to(precision), observed, noise(objective, 9).corruption)
    assert shown.dtype == precision
