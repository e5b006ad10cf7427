"""Transforms of reals and times: each rises, is finite and comes back, and is fitted the same however rows are cut."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rows import batch, cells, column, feature, fitted
from sklearn.preprocessing import QuantileTransformer, RobustScaler

from pipeline import train
from pipeline.columns import ColumnConfig
from pipeline.config import Train
from pipeline.errors import DataError
from pipeline.features import Feature, Features, fitting
from pipeline.training import shards
from pipeline.training.job import Job
from vae.config import Network, Objective
from vae.likelihoods import Columns

LAWS = settings(derandomize=True, deadline=None, max_examples=40)
TRANSFORMS = ("standardise", "robust", "log1p", "rank_gauss")
FLOATS, WHOLE = ("float16", "float32", "float64"), ("int8", "uint8", "int32", "uint32", "int64")
STEP = 1e-7
"""A little over the rounding of float32, relative to a model value or to 1."""
every = pytest.mark.parametrize("transform", TRANSFORMS)


def unit(found: Feature, numbers: np.ndarray) -> np.ndarray:
    """Original units in one standardised unit about each number: the steeper side of a knot."""
    if found.scaling == "log1p":
        return found.scale * (1 + numbers)
    if not found.knots:
        return np.full_like(numbers, found.scale)
    slopes = np.diff(found.knots) / np.diff(found.scores)
    g = (numbers - found.center) / found.scale
    sides = [np.searchsorted(found.knots[1:-1], g + way * 1e-6 * (1 + np.abs(g))) for way in (-1, 1)]
    return found.scale * np.maximum(slopes[sides[0]], slopes[sides[1]])


def there_and_back(found: Feature, array: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers, their model values, and what is restored, of the cells that are there."""
    values, observed = found.transform(array)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert not values[~observed].any()
    restored = found.restore(values)
    assert restored.type == array.type
    before, after = (
        np.array(it.to_pylist(), dtype=float).reshape(observed.shape)[observed] for it in (array, restored)
    )
    assert np.isfinite(after).all()
    return before, values[observed].astype(float), after


def held(found: Feature, before: np.ndarray, values: np.ndarray, after: np.ndarray, *, kind: str) -> None:
    """What comes back is within the stated tolerance, and model values rise with the numbers."""
    off = STEP * np.maximum(np.abs(values), 1) * unit(found, before) + 1e-14 * np.abs(before)
    if kind == "float16":
        off += 2**-11 * np.abs(before) + 2.0**-25
    elif kind == "float32":
        off += 2**-24 * np.abs(before) + 1e-45
    elif "int" in kind:
        off += 0.5
        exact = off < 0.999
        assert (before[exact] == after[exact]).all()
    assert (np.abs(after - before) <= off).all()
    assert (np.diff(values[np.argsort(before, kind="stable")]) >= 0).all()


def numbers_in(kind: str, transform: str) -> st.SearchStrategy[Any]:
    """Cells of a type, some missing, that a transform takes: of all sizes, and with ties."""
    if kind in WHOLE:
        limits = np.iinfo(kind)
        low, high = max(int(limits.min), -(2**53)), min(int(limits.max), 2**53)
        cell: st.SearchStrategy[Any] = st.integers(0 if transform == "log1p" else low, high)
    else:
        most = 60_000.0 if kind == "float16" else 2.0**116
        cell = st.floats(0 if transform == "log1p" else -most, most, width=int(kind[5:]))
    few = st.lists(cell, min_size=1, max_size=3).flatmap(
        lambda it: st.lists(st.sampled_from(it), min_size=1, max_size=30)
    )
    return few | st.lists(cell, min_size=1, max_size=40)


@every
@pytest.mark.parametrize("kind", [*FLOATS, *WHOLE])
@LAWS
@given(data=st.data())
def test_every_number_comes_back(transform: str, kind: str, data: st.DataObject) -> None:
    """Of any type and size, with ties and gaps: within 1e-7 of a standardised unit there, whole numbers rounded."""
    numbers = data.draw(numbers_in(kind, transform))
    holes = data.draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)))
    array = cells([None if hole else it for it, hole in zip(numbers, holes, strict=True)], kind)
    assume(array.null_count < len(array))
    found = feature(array, kind, "gaussian", transform=transform)
    held(found, *there_and_back(found, array), kind=kind)


@every
@LAWS
@given(data=st.data())
def test_every_vector_comes_back(transform: str, data: st.DataObject) -> None:
    """Element by element, by one map for all of them; missing vectors and elements stay missing."""
    cell = st.none() | st.floats(0, 1e9, width=32)
    rows = data.draw(st.lists(st.none() | st.lists(cell, min_size=3, max_size=3), min_size=1, max_size=15))
    assume(any(it is not None for row in rows for it in row or ()))
    array = cells(rows, "float32[3]")
    found = feature(array, "float32[3]", "mixture", transform=transform)
    values, observed = found.transform(array)
    assert observed.tolist() == [[it is not None for it in row or [None] * 3] for row in rows]
    before = np.array([it for row in rows for it in row or () if it is not None])
    after = np.array(found.restore(values).to_pylist())[observed]
    held(found, before, values[observed].astype(float), after, kind="float32")


HARD: dict[str, list[float]] = {
    "huge": [1e300, 2e300, 3e300],
    "outlier": [1.0, 2.0, 3.0, 4.0, 1e25],
    "denormal": [5e-324, 1e-310, 3e-310],
    "tiny": [1e-30, 2e-30, 5e-30],
    "constant": [5.5] * 9,
    "zero": [0.0] * 4,
    "constant huge": [1e300] * 3,
    "two": [1.0, 2.0],
    "twice two": [0.0, 1.0] * 50,
    "one": [7.0],
    "ties": [0.0] * 90 + [3.0, 8.0, 9.5, 1e6],
    "ties above": [4.0] * 90 + [3.0, 2.0, 1.0],
    "neighbours": [1.0, math.nextafter(1, 2), math.nextafter(1, 0), 2.0],
}


@every
@pytest.mark.parametrize("case", HARD)
def test_no_column_is_too_hard(transform: str, case: str) -> None:
    """Finite, rising and back again, or refused by name; never a division by zero; new numbers of any size too."""
    array = pa.array(HARD[case])
    if case == "huge" and transform != "log1p":
        with pytest.raises(DataError, match=r"^column 'x' holds numbers too large to standardise, up to 3e\+300"):
            feature(array, "float64", "gaussian", transform=transform)
        return
    found = feature(array, "float64", "gaussian", transform=transform)
    assert 0 < found.scale < math.inf
    Columns([found.column()])
    before, values, after = there_and_back(found, array)
    tolerance = STEP * np.maximum(np.abs(values), 1) * unit(found, before) + 1e-14 * np.abs(before)
    assert (np.abs(after - before) <= tolerance).all()
    values, _ = found.transform(pa.array([0.0, 5e-324, 1.0, 1e300]))
    assert np.isfinite(values).all()
    assert (np.diff(values.ravel()) >= 0).all()
    low, high = found.restore(np.array([[-3e38], [3e38]], np.float32)).to_pylist()
    assert low <= before.min()
    assert high >= before.max()
    assert math.isfinite(low)
    assert math.isfinite(high)


@every
@LAWS
@given(data=st.data())
def test_every_fit_is_of_all_batches(transform: str, data: st.DataObject) -> None:
    """However the rows are cut: quantiles, knots and scores to the bit, moments to 1e-12."""
    numbers = data.draw(st.lists(st.floats(0, 1e6) | st.sampled_from([0.0, 1.0]), min_size=2, max_size=60))
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(numbers)), max_size=4))), len(numbers)]
    whole = batch(x=pa.array(numbers))
    columns = {"x": column("float64", "gaussian", transform=transform)}
    one = fitting.fit([whole], columns).columns[0]
    many = fitting.fit([whole.slice(a, b - a) for a, b in pairwise(edges)], columns).columns[0]
    assert many.center == pytest.approx(one.center, rel=1e-12)
    assert many.scale == pytest.approx(one.scale, rel=1e-9)
    if transform in fitting.RANKED and np.ptp(np.quantile(numbers, [0.25, 0.75], method="inverted_cdf")) > 0:
        assert (many.center, many.scale, many.knots, many.scores) == (one.center, one.scale, one.knots, one.scores)


def test_rows_held_out_leave_no_trace(tmp_path: Path) -> None:
    """What a training fits is the same to the bit whatever stands in its validation and test rows."""
    columns = {name: column("float64", "gaussian", transform=name) for name in TRANSFORMS}
    columns["city"] = column("string", "categorical")
    shares = {"validation": 0.2, "test": 0.2}
    ids = pa.array(range(300))
    out = shards.splits(ids, **shares) != shards.TRAIN
    numbers, found = np.random.default_rng(5).lognormal(size=300), []
    for name, spoilt, city in (("clean", 1.0, "Rome"), ("spoilt", 1e30, "Atlantis")):
        cells_of = {it: pa.array(np.where(out, spoilt, numbers)) for it in TRANSFORMS}
        rows = batch(id=ids, **cells_of, city=pa.array(np.where(out, city, "Oslo").tolist()))
        pq.write_table(pa.Table.from_batches([rows]), tmp_path / name)
        parts, network, objective = (str(tmp_path / name),), Network(), Objective()
        job = Job(
            directory=str(tmp_path),
            parts=parts,
            id_column="id",
            **shares,
            network=network,
            objective=objective,
            train=Train(),
        )
        counts = dict.fromkeys((shards.TRAIN, shards.VALIDATION, shards.TEST), 0)
        found.append(fitting.fit(train._training_rows(job, counts), columns))
        assert counts[shards.TRAIN] == 300 - out.sum()
    assert found[0] == found[1]


def test_robust_is_scikit_learns() -> None:
    """Median and interquartile range of many numbers, the latter as the normal's standard deviation: 1.349."""
    draw = np.random.default_rng(1).standard_cauchy(4001)
    peer = RobustScaler(unit_variance=True).fit(draw[:, None])
    found = feature(pa.array(draw), "float64", "student_t", transform="robust")
    assert found.center == pytest.approx(peer.center_[0], rel=1e-12)
    assert found.scale == pytest.approx(peer.scale_[0], rel=2e-3)


def test_an_outlier_does_not_move_the_others() -> None:
    """Robust and rank_gauss: the bulk has standard deviation about 1, whatever lies far out."""
    bulk = np.random.default_rng(2).normal(50, 3, 2000)
    numbers = pa.array([*bulk, 1e25, -1e20])
    for transform in fitting.RANKED:
        values, _ = feature(numbers, "float64", "gaussian", transform=transform).transform(numbers)
        assert values[:2000].std() == pytest.approx(1, abs=0.05), transform


@pytest.mark.parametrize("draw", ["lognormal", "standard_cauchy", "exponential", "normal"])
def test_rank_gauss_makes_it_normal(draw: str) -> None:
    """Scores of 20,000 numbers are standard normal within 0.01, and scikit-learn's within 0.05 but for the tails."""
    numbers = getattr(np.random.default_rng(3), draw)(size=20_000)
    found = feature(pa.array(numbers), "float64", "gaussian", transform="rank_gauss")
    values = found.transform(pa.array(numbers))[0].ravel()
    assert values.mean() == pytest.approx(0, abs=0.01)
    assert values.std() == pytest.approx(1, abs=0.01)
    peer = QuantileTransformer(output_distribution="normal", n_quantiles=1000, subsample=None).fit(numbers[:, None])
    inner = np.abs(values) < 2.5
    assert np.abs(peer.transform(numbers[:, None]).ravel() - values)[inner].max() < 0.05


def test_log1p_is_standardised_log1p() -> None:
    """Mean 0 and standard deviation 1 of log(1 + x); its spread is that of x."""
    numbers = np.array([0.0, 1.0, 5.0, 1e6])
    found = feature(pa.array(numbers), "float64", "mixture", transform="log1p")
    logs = np.log1p(numbers)
    assert (found.center, found.scale) == (pytest.approx(logs.mean()), pytest.approx(logs.std()))
    assert found.deviation == pytest.approx(numbers.std())
    assert found.restore(np.array([[-1e30]], np.float32)).to_pylist() == [0.0]
    with pytest.raises(DataError) as caught:
        found.transform(pa.array([-0.5]))
    assert str(caught.value) == (
        "column 'x' holds -0.5, which is negative (log1p)\n"
        "  cure: transform = 'rank_gauss' under columns.x, or set such rows aside before"
    )


@every
def test_the_model_has_the_same_units(transform: str) -> None:
    """vae's units of a model value are the pipeline's, and its Jacobian is their slope."""
    numbers = pa.array(np.random.default_rng(4).lognormal(size=3000))
    found = feature(numbers, "float64", "gaussian", transform=transform)
    product = Columns([found.column()]).double()
    values = np.linspace(-2.5, 4, 1001)
    inside = torch.from_numpy(values)[:, None].requires_grad_()
    units = product.units(inside)
    (slope,) = torch.autograd.grad(units.sum(), inside)
    expected = units.detach().numpy()[:, 0].clip(0 if transform == "log1p" else None)
    assert found.units(values) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    at = product.log_prob(inside.detach(), inside.detach(), torch.ones(1001, 1, dtype=torch.bool)).exp()
    peak = Columns([Feature(name="x", type="float64", likelihood="gaussian", nullable=False).column()]).double()
    plain = peak.log_prob(inside.detach(), inside.detach(), torch.ones(1001, 1, dtype=torch.bool)).exp()
    assert (at * slope).detach().numpy() == pytest.approx(plain.detach().numpy(), rel=1e-5)


@every
def test_every_transform_is_saved(transform: str, tmp_path: Path) -> None:
    """`features.json` holds center, scale, knots and scores to the last digit."""
    found = fitted(pa.array([0.0, 0.1, 0.1, 7.5, 1e6]), "float64", "gaussian", transform=transform)
    found.save(tmp_path)
    again = Features.load(tmp_path)
    assert again == found
    assert again.columns[0].scaling == transform


@pytest.mark.parametrize("transform", ["log1p", "rank_gauss"])
def test_rounding_counts_in_the_middle(transform: str) -> None:
    """Integers claim no finer standard deviation than rounding has, by the unit in the middle of the column."""
    numbers = np.arange(1, 41)
    found = feature(pa.array(numbers), "int64", "gaussian", transform=transform)
    middle = found.units(np.array([-1e-3, 1e-3]))
    assert found.column().floor == pytest.approx(12**-0.5 / (np.diff(middle)[0] / 2e-3), rel=0.1)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "count": (
        {"type": "int64", "likelihood": "poisson", "transform": "robust"},
        "transform = 'robust' with likelihood = 'poisson': only for 'gaussian', 'log_normal', 'student_t', 'mixture', ",
    ),
    "levels": (
        {"type": "uint8", "likelihood": "binomial", "levels": 9, "transform": "log1p"},
        "transform = 'log1p' with likelihood = 'binomial': only for 'gaussian', 'mixture', 'joint_mixture'",
    ),
    "category": (
        {"type": "string", "likelihood": "categorical", "transform": "rank_gauss"},
        "transform = 'rank_gauss' with likelihood = 'categorical': only for 'gaussian', 'mixture', 'joint_mixture'",
    ),
    "passthrough": (
        {"type": "float64", "role": "passthrough", "transform": "robust"},
        "transform = 'robust' with likelihood = None: only for 'gaussian'",
    ),
    "t": (
        {"type": "float64", "likelihood": "student_t", "transform": "log1p"},
        "transform = 'log1p' with likelihood = 'student_t': only for 'gaussian', 'mixture', 'joint_mixture'",
    ),
    "logarithm": (
        {"type": "float64", "likelihood": "log_normal", "transform": "rank_gauss"},
        "transform = 'rank_gauss' with likelihood = 'log_normal': only for",
    ),
    "sigma": (
        {"type": "float64", "likelihood": "gaussian", "sigma": 2.0, "transform": "log1p"},
        "transform = 'log1p' with sigma = 2: its scale is not the same everywhere",
    ),
    "calendar": (
        {"type": "timestamp", "likelihood": "gaussian", "transform": "rank_gauss"},
        "transform = 'rank_gauss' with type = 'timestamp': its zero is but a convention",
    ),
    "log of a date": (
        {"type": "date", "likelihood": "log_normal"},
        "likelihood = 'log_normal' with type = 'date': its zero is but a convention",
    ),
    "coded time": (
        {"type": "time", "likelihood": "categorical"},
        "likelihood = 'categorical' with type = 'time': use 'gaussian', 'student_t' or 'mixture'",
    ),
    "three of two": (
        {"type": "string", "likelihood": "bernoulli", "categories": ("a", "b", "c")},
        "categories = ['a', 'b', 'c'] with likelihood = 'bernoulli': it is over two",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_transform_without_meaning_is_refused(case: str) -> None:
    """By both settings that do not go together, before a row is read."""
    settings, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ColumnConfig(**settings)
