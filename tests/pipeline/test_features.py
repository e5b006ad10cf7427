"""Fitted preprocessing: what goes to the model comes back as it was."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import features
from pipeline.columns import ColumnConfig
from pipeline.errors import DataError
from pipeline.features import Feature, Features
from pipeline.schema import arrow_type
from vae.config import LikelihoodName

LAWS = settings(derandomize=True, deadline=None, max_examples=60)
ODD_NAMES = (
    "Rome",
    "",
    " ",
    "日本",
    "é",
    "e\u0301",
    "<script>alert(1)</script>",
    '"; DROP TABLE x; --',
    "a\nb\t\x00c",
    "😀",
)
INTEGERS = {f"{sign}int{bits}": bits for sign in ("", "u") for bits in (8, 16, 32, 64)}


def batch(**columns: pa.Array) -> pa.RecordBatch:
    """Rows by column."""
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def column(kind: str, likelihood: LikelihoodName, *, nullable: bool = True) -> ColumnConfig:
    """A feature."""
    return ColumnConfig(type=kind, likelihood=likelihood, nullable=nullable)


def fitted(array: pa.Array, kind: str, likelihood: LikelihoodName) -> Features:
    """Fitted to one column named x."""
    return features.fit([batch(x=array)], {"x": column(kind, likelihood)})


def there_and_back(array: pa.Array, kind: str, likelihood: LikelihoodName) -> tuple[pa.Array, Features]:
    """The column after transform and restore, and what was fitted."""
    found = fitted(array, kind, likelihood)
    values, observed = found.transform(batch(x=array))
    assert np.isfinite(values).all()
    assert not values[~observed].any(), "missing cells must be 0"
    assert values.dtype == np.float32
    restored = found.restore(values).field(0)
    assert restored.type == arrow_type(kind)
    return restored, found


@LAWS
@given(st.lists(st.none() | st.floats(-1e12, 1e12, width=64), min_size=1, max_size=40))
def test_numbers_come_back_within_float32_of_their_scale(numbers: list[float | None]) -> None:
    """Gaussian features: (x - center) / scale and back, to the precision of what the model sees."""
    array = pa.array(numbers, pa.float64())
    restored, found = there_and_back(array, "float64", "gaussian")
    _, observed = found.transform(batch(x=array))
    assert observed.ravel().tolist() == [it is not None for it in numbers]
    for before, after in zip(numbers, restored.to_pylist(), strict=True):
        if before is not None:
            size = max(abs(before - found.columns[0].center), found.columns[0].scale)
            assert abs(before - after) <= 1e-6 * size + 1e-12 * abs(before), (before, after)


@LAWS
@given(st.sampled_from(sorted(INTEGERS)), st.data())
def test_small_integers_come_back_exactly(kind: str, data: st.DataObject) -> None:
    """Rounding makes up for float32: whole numbers within a few thousand of each other are themselves again."""
    limits = np.iinfo(kind)
    low = max(-2000, limits.min)
    numbers = data.draw(st.lists(st.none() | st.integers(low, min(2000, limits.max)), min_size=1, max_size=40))
    restored, _ = there_and_back(pa.array(numbers, arrow_type(kind)), kind, "gaussian")
    assert [b for a, b in zip(numbers, restored.to_pylist(), strict=True) if a is not None] == [
        it for it in numbers if it is not None
    ]


@pytest.mark.parametrize("kind", [name for name, bits in INTEGERS.items() if bits < 64])
def test_integers_never_wrap(kind: str) -> None:
    """What a model says beyond a type's range is held at the range's end."""
    limits = np.iinfo(kind)
    restored, found = there_and_back(pa.array([limits.min, 0, limits.max], arrow_type(kind)), kind, "gaussian")
    assert restored.to_pylist() == pytest.approx([limits.min, 0, limits.max], abs=limits.max * 1e-6)
    wild = found.restore(np.array([[-1e30], [1e30]], np.float32)).field(0)
    assert wild.to_pylist() == [limits.min, limits.max]


@pytest.mark.parametrize("kind", ["int64", "uint64"])
def test_integers_beyond_2_to_the_53_are_numbers_too(kind: str) -> None:
    """The ends of 64 bits can be fitted, transformed and restored, near enough and without wrapping."""
    limits = np.iinfo(kind)
    restored, _ = there_and_back(pa.array([limits.min, 5, limits.max], arrow_type(kind)), kind, "gaussian")
    assert restored.to_pylist() == pytest.approx([limits.min, 5, limits.max], abs=limits.max * 1e-6)


@pytest.mark.parametrize("kind", ["int64", "uint64"])
def test_64_bit_integers_never_wrap(kind: str) -> None:
    """A wild guess stays within 2^63 or 2^64, on its own side of zero."""
    limits = np.iinfo(kind)
    found = Features((Feature(name="x", type=kind, likelihood="gaussian", nullable=False),))
    low, high = found.restore(np.array([[-1e30], [1e30]], np.float32)).field(0).to_pylist()
    assert low == limits.min
    assert limits.max * 0.999 < high <= limits.max


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_floats_stay_finite(kind: str) -> None:
    """What a model says beyond a float type's range is held at its end: a table never gains infinities."""
    largest = float(np.finfo(kind).max)
    found = Features((Feature(name="x", type=kind, likelihood="gaussian", nullable=False, scale=largest / 2),))
    restored = found.restore(np.array([[-3.0], [3.0], [1.0]], np.float32)).field(0).to_pylist()
    assert restored == pytest.approx([-largest, largest, largest / 2], rel=1e-3)


@LAWS
@given(st.lists(st.none() | st.sampled_from(ODD_NAMES) | st.text(max_size=8), min_size=1, max_size=40))
def test_categories_come_back_exactly(names: list[str | None]) -> None:
    """Any text is a category: unicode, HTML, SQL, control characters, the empty string."""
    if not any(it is not None for it in names):
        names.append("")
    restored, found = there_and_back(pa.array([it for it in names if it is not None]), "string", "categorical")
    assert restored.to_pylist() == [it for it in names if it is not None]
    values, observed = found.transform(batch(x=pa.array(names, pa.string())))
    assert observed.ravel().tolist() == [it is not None for it in names]
    assert (values[observed] >= 1).all(), "code 0 is reserved"


@LAWS
@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_bools_come_back_exactly(flags: list[bool]) -> None:
    """As Bernoulli and as categories."""
    for likelihood in ("bernoulli", "categorical"):
        restored, _ = there_and_back(pa.array(flags), "bool", likelihood)
        assert restored.to_pylist() == flags


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("int64", [3, -(2**63), 2**63 - 1]),
        ("uint64", [2**64 - 1, 0]),
        ("float64", [0.1, -1e300]),
        ("float32", [0.5, 2.0]),
    ],
)
def test_categories_of_numbers_come_back_exactly(kind: str, values: list[Any], tmp_path: Path) -> None:
    """Numbers as categories are never computed with; they survive `features.json`."""
    array = pa.array(values, arrow_type(kind))
    found = fitted(array, kind, "categorical")
    found.save(tmp_path)
    again = Features.load(tmp_path)
    assert again == found
    assert again.restore(again.transform(batch(x=array))[0]).field(0).to_pylist() == values


def test_float16_can_be_categories() -> None:
    """Every type of number that `gaussian` takes can be counted, too."""
    restored, _ = there_and_back(pa.array(np.array([1, 2, 1], np.float16)), "float16", "categorical")
    assert restored.to_pylist() == [1, 2, 1]


@pytest.mark.parametrize("likelihood", ["bernoulli", "categorical"])
def test_zero_is_one_category_whatever_its_sign(likelihood: LikelihoodName) -> None:
    """0.0 and -0.0 are equal, so they are the same category, seen and known."""
    array = pa.array([0.0, -0.0, 1.0])
    found = fitted(array, "float64", likelihood)
    values, observed = found.transform(batch(x=array))
    assert observed.all()
    assert values[0] == values[1] != values[2]
    assert found.restore(values).field(0).to_pylist() == [0.0, 0.0, 1.0]


def test_an_unseen_category_is_code_0_or_unobserved() -> None:
    """A category that training did not see: the reserved code; a third value of two: not there."""
    seen, later = pa.array(["a", "b", None]), pa.array(["b", "c", None])
    values, observed = fitted(seen, "string", "categorical").transform(batch(x=later))
    assert (values.ravel().tolist(), observed.ravel().tolist()) == ([2, 0, 0], [True, True, False])
    values, observed = fitted(seen, "string", "bernoulli").transform(batch(x=later))
    assert (values.ravel().tolist(), observed.ravel().tolist()) == ([1, 0, 0], [True, False, False])


@pytest.mark.parametrize("number", [0.0, 5.5, -1e9, 1e150])
def test_a_constant_column_has_scale_1(number: float) -> None:
    """No division by zero; the constant is what comes back."""
    restored, found = there_and_back(pa.array([number] * 9), "float64", "gaussian")
    assert found.columns[0].scale == 1.0
    assert restored.to_pylist() == pytest.approx([number] * 9, rel=1e-12)


def test_small_units_are_not_constant() -> None:
    """Whether a column varies does not depend on its unit: picofarads in farads are standardised like any others."""
    numbers = np.array([1.0, 2.0, 3.0])
    plain, tiny = (fitted(pa.array(numbers * unit), "float64", "gaussian").columns[0] for unit in (1.0, 1e-13))
    assert tiny.scale == pytest.approx(plain.scale * 1e-13, rel=1e-9, abs=0)


def test_a_constant_bernoulli_column_restores_its_one_value() -> None:
    """A model may draw the other value, which nobody ever saw; what comes back is the one there is."""
    found = fitted(pa.array(["yes", "yes"]), "string", "bernoulli")
    assert found.columns[0].rates == (0.0,)
    assert found.restore(np.array([[0.0], [1.0]], np.float32)).field(0).to_pylist() == ["yes", "yes"]


@LAWS
@given(
    st.lists(st.none() | st.floats(-1e6, 1e6).map(lambda it: it + 1e7), min_size=2, max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
)
def test_many_batches_fit_like_one(numbers: list[float | None], cuts: list[int]) -> None:
    """Moments agree to 1e-12 however the rows are cut, and with numpy's; categories and rates are equal."""
    names = pa.array([None if it is None else f"c{int(it) % 5}" for it in numbers], pa.string())
    whole = batch(x=pa.array(numbers, pa.float64()), c=names)
    edges = [0, *sorted(min(cut, len(numbers)) for cut in cuts), len(numbers)]
    pieces = [whole.slice(a, b - a) for a, b in pairwise(edges)]
    columns = {"x": column("float64", "gaussian"), "c": column("string", "categorical")}
    one, many = features.fit([whole], columns).columns, features.fit(pieces, columns).columns
    assert many[1] == one[1]
    assert many[0].center == pytest.approx(one[0].center, rel=1e-12)
    assert many[0].scale == pytest.approx(one[0].scale, rel=1e-12)
    present = np.array([it for it in numbers if it is not None])
    if len(present):
        assert one[0].center == pytest.approx(present.mean(), rel=1e-12)
        assert one[0].scale == pytest.approx(present.std() if np.ptp(present) > 1e-3 else one[0].scale, rel=1e-9)


def mixed() -> tuple[pa.RecordBatch, Features]:
    """A table whose order is not the model's, and its fit."""
    rows = batch(
        city=pa.array(["Rome", None, "Oslo", "Rome"]),
        size=pa.array([1.5, 2.5, None, 4.0]),
        sold=pa.array([True, False, True, None]),
        pixels=pa.array([[1, 2], None, [3, None], [5, 6]], arrow_type("int8[2]")),
        kind=pa.array([3, 4, 3, 5], pa.int8()),
    )
    columns = {
        "city": column("string", "categorical"),
        "size": column("float64", "gaussian"),
        "sold": column("bool", "bernoulli"),
        "pixels": column("int8[2]", "gaussian"),
        "kind": column("int8", "categorical", nullable=False),
    }
    return rows, features.fit([rows], columns)


def test_layout_is_by_likelihood_and_the_table_keeps_its_order() -> None:
    """The model sees one block per likelihood; what is restored has the table's names, order and types."""
    rows, found = mixed()
    assert [it.name for it in found.layout] == ["size", "pixels", "sold", "city", "kind"]
    assert [(it.name, it.width) for it in found.model_columns()] == [
        ("size", 1),
        ("pixels", 2),
        ("sold", 1),
        ("city", 1),
        ("kind", 1),
    ]
    values, observed = found.transform(rows)
    assert values.shape == observed.shape == (4, 6)
    restored = found.restore(values[[0, 3]])
    assert restored.type == found.struct()
    assert [(it.name, it.type) for it in restored.type] == [(it.name, it.type) for it in rows.schema]
    assert restored.field("kind").to_pylist() == [3, 5]
    assert restored.field("city").to_pylist() == ["Rome", "Rome"]
    assert restored.field("pixels").to_pylist() == [[1, 2], [5, 6]]
    shuffled = rows.select(["kind", "pixels", "sold", "size", "city"])
    assert np.array_equal(found.transform(shuffled)[0], values), "columns are found by name"


def test_vectors_with_holes_and_offsets() -> None:
    """A missing vector is all its elements missing, a null element is one; a slice sees its own rows."""
    kind = arrow_type("float32[3]")
    array = pa.array([[9, 9, 9], [1, 2, 3], None, [4, None, 6], None, [7, 8, 9]], kind)
    found = Features((Feature(name="x", type="float32[3]", likelihood="gaussian", nullable=True, center=1, scale=2),))
    for cut in (array, array.slice(1), array.slice(2, 3), array.slice(4, 1), array.slice(5), array.slice(6)):
        rows = cut.to_pylist()
        values, observed = found.transform(batch(x=cut))
        cells = [it if it is not None else [None] * 3 for it in rows]
        assert observed.tolist() == [[it is not None for it in row] for row in cells]
        assert values.tolist() == [[0 if it is None else (it - 1) / 2 for it in row] for row in cells]
    tally = features.fit([batch(x=array.slice(1, 4))], {"x": column("float32[3]", "gaussian")}).columns[0]
    assert tally.center == pytest.approx(16 / 5)


def test_chunks_do_not_matter() -> None:
    """A table in chunks is transformed as one in a piece."""
    rows, found = mixed()
    table = pa.Table.from_batches([rows.slice(0, 1), rows.slice(1, 0), rows.slice(1)])
    assert np.array_equal(found.transform(table)[0], found.transform(rows)[0])
    assert np.array_equal(found.transform(table)[1], found.transform(rows)[1])


def test_a_saved_fit_is_the_fit(tmp_path: Path) -> None:
    """`features.json` holds all of it, to the last digit."""
    _, found = mixed()
    found.save(tmp_path)
    assert Features.load(tmp_path) == found
    odd = fitted(pa.array(ODD_NAMES), "string", "categorical")
    odd.save(tmp_path)
    assert Features.load(tmp_path) == odd


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """By name, not by a stranger's KeyError."""
    _, found = mixed()
    found.save(tmp_path)
    path = tmp_path / features.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": features.FORMAT + 1}))
    with pytest.raises(DataError, match=r"features.json: written by a newer version; this one reads format 1"):
        Features.load(tmp_path)


def test_a_missing_column_is_named() -> None:
    """What the model was trained on must be there."""
    rows, found = mixed()
    with pytest.raises(DataError, match="column 'sold' is missing; the model was trained on it"):
        found.transform(rows.drop_columns(["sold"]))


def test_too_many_values_are_refused_with_the_cure() -> None:
    """Three values are not two; ten thousand categories are the limit."""
    with pytest.raises(
        DataError, match=r"column 'x' has more than 2 distinct values \('a', 'b', 'c', \.\.\.\)\n  cure: a"
    ):
        fitted(pa.array(["a", "b", "c"]), "string", "bernoulli")
    with pytest.raises(DataError, match=r"column 'x' has more than 10,000 distinct values"):
        fitted(pa.array(range(10_001)), "int64", "categorical")


def test_rates_are_shares_of_the_training_rows() -> None:
    """Bernoulli: of the second value; categories: one more of each than seen, so that none is impossible."""
    assert fitted(pa.array([False, True, True, None, True]), "bool", "bernoulli").columns[0].rates == (0.75,)
    rates = fitted(pa.array(["a", "b", "a", None]), "string", "categorical").columns[0].rates
    assert rates == (1 / 6, 3 / 6, 2 / 6)
    assert math.fsum(rates) == pytest.approx(1)


def test_integers_claim_no_finer_scale_than_rounding() -> None:
    """The floor of an integer's standard deviation is 1 / sqrt(12) of a unit."""
    whole = fitted(pa.array([0, 1, 2, 3]), "int64", "gaussian").columns[0]
    assert whole.column().floor == pytest.approx(12**-0.5 / whole.scale)
    assert fitted(pa.array([0.0, 1.0]), "float64", "gaussian").columns[0].column().floor == features.REAL_FLOOR
