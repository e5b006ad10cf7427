"""Fitting the preprocessing: one pass over the training rows, however they are cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import batch, cells, column, family, feature, fitted

from pipeline.errors import DataError
from pipeline.features import fitting, transforms
from vae.config import LikelihoodName

LAWS = settings(derandomize=True, deadline=None, max_examples=60)


@pytest.mark.parametrize("number", [0.0, 5.5, -1e9, 1e150])
def test_a_constant_column_has_scale_1(number: float) -> None:
    """No division by zero; the constant is what comes back."""
    rows = batch(x=pa.array([number] * 9))
    found = fitting.fit([rows], {"x": column("float64", "gaussian")})
    assert found.columns[0].scale == 1.0
    assert found.restore(found.transform(rows)[0]).field(0).to_pylist() == pytest.approx([number] * 9, rel=1e-12)


def test_small_units_are_not_constant() -> None:
    """Whether a column varies does not depend on its unit: picofarads in farads are standardised like any others."""
    numbers = np.array([1.0, 2.0, 3.0])
    plain, tiny = (feature(pa.array(numbers * unit), "float64", "gaussian") for unit in (1.0, 1e-13))
    assert tiny.scale == pytest.approx(plain.scale * 1e-13, rel=1e-9, abs=0)


def test_a_constant_bernoulli_column_restores_its_one_value() -> None:
    """A model may draw the other value, which nobody ever saw; what comes back is the one there is."""
    found = fitted(pa.array(["yes", "yes"]), "string", "bernoulli")
    assert found.columns[0].means == (0.0,)
    assert found.restore(np.array([[0.0], [1.0]], np.float32)).field(0).to_pylist() == ["yes", "yes"]


@LAWS
@given(
    st.lists(st.none() | st.floats(-1e6, 1e6).map(lambda it: it + 1e7), min_size=2, max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
)
def test_many_batches_fit_like_one(numbers: list[float | None], cuts: list[int]) -> None:
    """Moments agree to 1e-12 however the rows are cut, and with numpy's; categories and rates are equal."""
    names = pa.array([f"c{int(it or 0) % 5}" for it in numbers])
    whole = batch(x=pa.array(numbers, pa.float64()), c=names)
    edges = [0, *sorted(min(cut, len(numbers)) for cut in cuts), len(numbers)]
    pieces = [whole.slice(a, b - a) for a, b in pairwise(edges)]
    columns = {"x": column("float64", "gaussian"), "c": column("string", "categorical")}
    one, many = fitting.fit([whole], columns).columns, fitting.fit(pieces, columns).columns
    assert many[1] == one[1]
    assert many[0].center == pytest.approx(one[0].center, rel=1e-12)
    assert many[0].scale == pytest.approx(one[0].scale, rel=1e-12)
    present = np.array([it for it in numbers if it is not None])
    if len(present):
        assert one[0].center == pytest.approx(present.mean(), rel=1e-12)
        assert one[0].scale == pytest.approx(present.std() if np.ptp(present) > 1e-3 else one[0].scale, rel=1e-9)


def test_too_many_values_are_refused_with_the_cure() -> None:
    """Three values are not two; ten thousand categories are the limit."""
    with pytest.raises(
        DataError, match=r"column 'x' has more than 2 distinct values \('a', 'b', 'c', \.\.\.\)\n  cure: a"
    ):
        fitted(pa.array(["a", "b", "c"]), "string", "bernoulli")
    with pytest.raises(DataError, match=r"column 'x' has more than 10,000 distinct values"):
        fitted(pa.array(range(10_001)), "int64", "categorical")


def test_rates_are_shares_of_the_training_rows() -> None:
    """Bernoulli: of the second value; codes: one more of each than seen, so that none is impossible."""
    assert feature(pa.array([False, True, True, None, True]), "bool", "bernoulli").means == (0.75,)
    rates = feature(pa.array(["a", "b", "a", None]), "string", "categorical").rates
    assert rates == (1 / 6, 3 / 6, 2 / 6)
    assert math.fsum(rates) == pytest.approx(1)
    ranks = feature(pa.array(["a", "b", "a", None]), "string", "ordinal", order=("c", "b", "a")).rates
    assert ranks == (1 / 6, 2 / 6, 3 / 6)


def test_integers_claim_no_finer_scale_than_rounding() -> None:
    """The floor of an integer's standard deviation is 1 / sqrt(12) of a unit; of its logarithm there is none."""
    whole = feature(pa.array([0, 1, 2, 3]), "int64", "gaussian")
    assert whole.column().floor == pytest.approx(12**-0.5 / whole.scale)
    assert feature(pa.array([0.0, 1.0]), "float64", "gaussian").column().floor == transforms.REAL_FLOOR
    assert feature(pa.array([1, 2]), "int64", "log_normal").column().floor == transforms.REAL_FLOOR


HOLES = [[1, 2, 0], [3, None, 0], None, [8, 4, 0], [0, 6, 0]]
MEANS: dict[str, tuple[LikelihoodName, dict[str, Any], Callable[[Any], Any]]] = {
    "gaussian": ("gaussian", {}, lambda x: (x - np.nanmean(x)) / np.nanstd(x)),
    "log_normal": ("log_normal", {}, lambda x: (np.log(x) - np.nanmean(np.log(x))) / np.nanstd(np.log(x))),
    "student_t": ("student_t", {}, lambda x: (x - np.nanmean(x)) / np.nanstd(x)),
    "poisson": ("poisson", {}, lambda x: x),
    "binomial": ("binomial", {"levels": 10}, lambda x: x),
    "static": ("bernoulli", {"levels": 10, "binarise": "static"}, lambda x: np.where(np.isnan(x), x, x > 4.5)),
    "dynamic": ("bernoulli", {"levels": 10, "binarise": "dynamic"}, lambda x: x / 9),
}


@pytest.mark.parametrize("case", MEANS)
def test_every_feature_of_a_vector_has_its_own_mean(case: str) -> None:
    """Where the output bias starts: the mean model value of each pixel over the rows that have it."""
    likelihood, extra, model_value = MEANS[case]
    shift = int(likelihood == "log_normal")
    rows = [row and [it if it is None else it + shift for it in row] for row in HOLES]
    found = feature(cells(rows, "uint8[3]"), "uint8[3]", likelihood, **extra)
    table = np.array([row or [None] * 3 for row in rows], dtype=float)
    expected = model_value(table)
    assert found.means == pytest.approx(np.nanmean(expected, axis=0), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((np.nanmin(expected), np.nanmax(expected)))


def test_a_feature_that_no_row_has_starts_at_the_columns_centre() -> None:
    """A pixel missing in all training rows: no NaN, and no pull on the others."""
    array = pa.array([[1.0, None], [3.0, None]], pa.list_(pa.float64(), 2))
    assert feature(array, "float64[2]", "gaussian").means == (0.0, 0.0)
    nothing = feature(cells([None, None], "float64"), "float64", "gaussian")
    assert (nothing.center, nothing.scale, nothing.means, nothing.low, nothing.high) == (0, 1, (), 0, 0)


FOUND = ("center", "scale", "deviation", "low", "high", "means", "rates")


@pytest.mark.parametrize("cuts", [(1,), (1, 2, 3, 4), (0, 0, 3), (2, 5)])
def test_the_whole_family_fits_batch_by_batch_as_at_once(cuts: tuple[int, ...]) -> None:
    """Merged as in Chan et al. (1979): means, extremes, rates and order of every likelihood."""
    rows, columns = family()
    pieces = [rows.slice(a, b - a) for a, b in pairwise((0, *cuts, len(rows)))]
    for one, many in zip(fitting.fit([rows], columns).columns, fitting.fit(pieces, columns).columns, strict=True):
        numbers = {name: getattr(one, name) for name in FOUND}
        assert replace(many, **numbers) == one
        for name, value in numbers.items():
            assert getattr(many, name) == pytest.approx(value, rel=1e-12, abs=1e-12), (one.name, name)


def test_an_ordinal_refuses_what_its_order_does_not_name() -> None:
    """The value, the column and the setting that cures it; too few ranks are refused, too."""
    with pytest.raises(DataError) as caught:
        fitted(pa.array(["low", "huge", None]), "string", "ordinal", order=("low", "high"))
    assert str(caught.value) == (
        "column 'x' holds 'huge', which its order does not name\n  cure: add it to columns.x.order"
    )
    with pytest.raises(DataError, match="column 'x' has 1 distinct values to train on, 'ordinal' needs 2"):
        fitted(pa.array([3, 3, None]), "int64", "ordinal")


def test_a_categorical_without_any_value_is_refused() -> None:
    """All training rows miss it, so there is no code to learn: said by name."""
    with pytest.raises(DataError, match=r"column 'x' has 0 distinct values to train on, 'categorical' needs 1\n  cure"):
        fitted(cells([None, None], "string"), "string", "categorical")


def test_numbers_too_large_are_refused_by_name() -> None:
    """What cannot be squared in float64 cannot be standardised."""
    with pytest.raises(DataError, match=r"column 'x' holds numbers too large to standardise, up to 1e\+200"):
        fitted(pa.array([1e200, -1e200]), "float64", "gaussian")
    assert feature(pa.array([1e200, 1e-200]), "float64", "log_normal").deviation == np.finfo(float).max
