"""Fitted preprocessing: what goes to the model comes back as it was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import LEVELLED, WHOLE, batch, cells, column, family, feature, fitted

from pipeline.errors import DataError
from pipeline.features import Feature, Features, fitting, transforms
from pipeline.features import rows as features
from pipeline.schema import arrow_type
from vae.config import LEVELS, REALS, LikelihoodName
from vae.likelihoods import Columns

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


def there_and_back(
    array: pa.Array, kind: str, likelihood: LikelihoodName, **settings: Any
) -> tuple[pa.Array, Features]:
    """The column after transform and restore, and what was fitted."""
    found = fitted(array, kind, likelihood, **settings)
    values, observed = found.transform(batch(x=array))
    assert np.isfinite(values).all()
    assert not values[~observed].any(), "missing cells must be 0"
    assert values.dtype == np.float32
    restored = found.restore(values).field(0)
    assert restored.type == arrow_type(kind)
    return restored, found


@LAWS
@given(
    st.sampled_from(sorted({*REALS} - {"log_normal"})),
    st.lists(st.none() | st.floats(-1e12, 1e12, width=64), min_size=1, max_size=40),
)
def test_numbers_come_back_within_float32_of_their_scale(
    likelihood: LikelihoodName, numbers: list[float | None]
) -> None:
    """Reals: (x - center) / scale and back, to the precision of what the model sees."""
    array = pa.array(numbers, pa.float64())
    restored, found = there_and_back(array, "float64", likelihood)
    _, observed = found.transform(batch(x=array))
    assert observed.ravel().tolist() == [it is not None for it in numbers]
    for before, after in zip(numbers, restored.to_pylist(), strict=True):
        if before is not None:
            size = max(abs(before - found.columns[0].center), found.columns[0].scale)
            assert abs(before - after) <= 1e-6 * size + 1e-12 * abs(before), (before, after)


@LAWS
@given(st.lists(st.none() | st.floats(1e-30, 1e30), min_size=1, max_size=40))
def test_positive_numbers_come_back_within_float32_of_their_logarithm(numbers: list[float | None]) -> None:
    """log_normal: sixty orders of magnitude in one column, each number to a few digits in a million of itself."""
    restored, found = there_and_back(pa.array(numbers, pa.float64()), "float64", "log_normal")
    for before, after in zip(numbers, restored.to_pylist(), strict=True):
        if before is not None:
            apart = abs(math.log(before) - found.columns[0].center)
            assert abs(math.log(after) - math.log(before)) <= 1e-7 * apart + 1e-12, (before, after)


def test_no_count_is_beyond_what_the_column_can_hold() -> None:
    """A wild guess of a count is the largest that the model itself would take back."""
    found = fitted(cells([1, 3, 100], "int64"), "int64", "poisson")
    assert found.restore(np.array([[-5.0], [1e30]], np.float32)).field(0).to_pylist() == [0, 1 << 24]


def test_log_normal_holds_what_lies_beyond_float64() -> None:
    """A wild guess is the largest number of the column's type, or above zero: finite, and one the column can hold."""
    for kind in ("float64", "float32", "uint8"):
        found = fitted(cells([1, 3, 100], kind), kind, "log_normal")
        low, high = found.restore(np.array([[-1e30], [1e30]], np.float32)).field(0).to_pylist()
        assert low == 1 if kind == "uint8" else 0 < low < 1e-30
        assert 200 < high < math.inf
        found.transform(batch(x=found.restore(np.array([[-1e30]], np.float32)).field(0)))


@LAWS
@given(st.sampled_from(WHOLE), st.data())
def test_whole_numbers_come_back_exactly(likelihood: LikelihoodName, data: st.DataObject) -> None:
    """Counts up to 2^24 and levels reach the model as they are, and come back as they were, in their own type."""
    most = 10 if likelihood in LEVELS else transforms.EXACT
    kind = data.draw(st.sampled_from(["int32", "uint32", "int64", "uint64"] + ["float32"] * (likelihood in LEVELS)))
    numbers = data.draw(st.lists(st.none() | st.integers(0, most), min_size=1, max_size=40))
    array, extra = cells(numbers, kind), LEVELLED.get(likelihood, {})
    restored, found = there_and_back(array, kind, likelihood, **extra)
    values, observed = found.transform(batch(x=array))
    present = [it for it in numbers if it is not None]
    assert values[observed].tolist() == present
    assert [b for a, b in zip(numbers, restored.to_pylist(), strict=True) if a is not None] == present


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("string", ("small", "medium", "large")),
        ("string", ("b", "", "a", "é")),
        ("int8", (3, -1, 2)),
        ("float64", (0.5, 2.5, -1.0)),
        ("float32", (0.1, 0.7)),
    ],
)
def test_ordinals_are_ranks_of_the_declared_order(kind: str, order: tuple[Any, ...]) -> None:
    """Code 0 is the first that the order names, whatever the alphabet says; each value comes back as itself."""
    array = cells([*reversed(order), None, order[0]], kind)
    restored, found = there_and_back(array, kind, "ordinal", order=order)
    values, observed = found.transform(batch(x=array))
    ranks = range(len(order))
    assert values.ravel().tolist() == [*reversed(ranks), 0, 0]
    assert observed.ravel().tolist() == [True] * len(order) + [False, True]
    *known, _, first = array.to_pylist()
    assert restored.to_pylist() == [*known, first, first]
    assert found.model_columns()[0].codes == len(order)


def test_ordinals_without_an_order_are_sorted() -> None:
    """Numbers have one of their own; no rank is invented between them."""
    restored, found = there_and_back(cells([30, 10, 20, 10], "int16"), "int16", "ordinal")
    assert found.transform(batch(x=cells([30, 10, 20, 10], "int16")))[0].ravel().tolist() == [2, 0, 1, 0]
    assert restored.to_pylist() == [30, 10, 20, 10]


IMAGES = [[0, 15, 7, 8] * 16, [15] * 64, None, [1, 2, 3, 14] * 16]


@pytest.mark.parametrize("likelihood", LEVELS)
def test_images_of_levels_come_back_exactly(likelihood: LikelihoodName) -> None:
    """A vector of 8-bit pixels: each is its level to the model, and itself again."""
    array = cells(IMAGES, "uint8[64]")
    restored, found = there_and_back(array, "uint8[64]", likelihood, levels=16, shape=(8, 8))
    values, observed = found.transform(batch(x=array))
    assert values[[0, 1, 3]].tolist() == [IMAGES[0], IMAGES[1], IMAGES[3]]
    assert observed.sum(1).tolist() == [64, 64, 0, 64]
    assert restored.take(pa.array([0, 1, 3])).to_pylist() == [IMAGES[0], IMAGES[1], IMAGES[3]]
    assert (found.model_columns()[0].shape, found.model_columns()[0].codes) == ((8, 8, 1), 16)


def test_static_binarisation_is_about_the_middle() -> None:
    """Above half of the highest level a pixel is 1; it comes back as the nearer end of the levels."""
    array = cells([[0, 7, 8, 15], [None, 1, 14, 7]], "uint8[4]")
    restored, found = there_and_back(array, "uint8[4]", "bernoulli", levels=16, binarise="static")
    assert found.transform(batch(x=array))[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 0]]
    assert restored.to_pylist() == [[0, 0, 15, 15], [0, 0, 15, 0]]
    assert not found.model_columns()[0].dynamic


def test_dynamic_binarisation_keeps_the_probability() -> None:
    """The model is given the share of the highest level, to draw by in every step; the levels come back exactly."""
    array = cells([[0, 3, 8, 15], [None, 1, 14, 7]], "uint8[4]")
    restored, found = there_and_back(array, "uint8[4]", "bernoulli", levels=16, binarise="dynamic")
    expected = np.array([[0, 3, 8, 15], [0, 1, 14, 7]]) / 15
    assert found.transform(batch(x=array))[0] == pytest.approx(expected, rel=1e-6)
    assert restored.to_pylist() == [[0, 3, 8, 15], [0, 1, 14, 7]]
    assert found.model_columns()[0].dynamic


STRANGE: dict[str, tuple[str, LikelihoodName, dict[str, Any], list[Any], str]] = {
    "log of zero": ("float64", "log_normal", {}, [1.0, 0.0], "holds 0, which is not positive (log_normal)"),
    "log of less": ("float64", "log_normal", {}, [1.0, -2.5], "holds -2.5, which is not positive (log_normal)"),
    "negative": ("int8", "poisson", {}, [1, -3], "holds -3, which is no count from 0 to 16,777,216 (poisson)"),
    "too many": ("int64", "negative_binomial", {}, [1, 2**24 + 1], "which is no count from 0 to 16,777,216"),
    "above": ("int8", "binomial", {"levels": 4}, [3, 4], "holds 4, which is no level from 0 to 3 (binomial)"),
    "below": ("int8", "discretised_logistic", {"levels": 4}, [3, -1], "holds -1, which is no level from 0 to 3"),
    "between": ("float32", "binomial", {"levels": 4}, [3, 0.5], "holds 0.5, which is no level from 0 to 3"),
    "bright": ("uint8", "bernoulli", {"levels": 4, "binarise": "dynamic"}, [0, 9], "holds 9, which is no level from"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_values_that_a_likelihood_cannot_have_are_refused(case: str) -> None:
    """Column, value and cure are named, in training rows and in rows that come later."""
    kind, likelihood, extra, (good, bad), words = STRANGE[case]
    found = fitted(cells([good, None], kind), kind, likelihood, **extra)
    for attempt in (
        lambda: fitted(cells([good, bad], kind), kind, likelihood, **extra),
        lambda: found.transform(batch(x=cells([None, bad], kind))),
    ):
        with pytest.raises(DataError) as caught:
            attempt()
        assert str(caught.value).startswith("column 'x' holds ")
        assert words in str(caught.value)
        assert "under columns.x, or set such rows aside before" in str(caught.value)


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
    """A category that training did not see: the reserved code; a third value of two, or one without rank: not there."""
    seen, later = pa.array(["a", "b", None]), pa.array(["b", "c", None])
    values, observed = fitted(seen, "string", "categorical").transform(batch(x=later))
    assert (values.ravel().tolist(), observed.ravel().tolist()) == ([2, 0, 0], [True, True, False])
    values, observed = fitted(seen, "string", "bernoulli").transform(batch(x=later))
    assert (values.ravel().tolist(), observed.ravel().tolist()) == ([1, 0, 0], [True, False, False])
    values, observed = fitted(seen, "string", "ordinal", order=("b", "a")).transform(batch(x=later))
    assert (values.ravel().tolist(), observed.ravel().tolist()) == ([0, 0, 0], [True, False, False])


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
    return rows, fitting.fit([rows], columns)


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
    tally = fitting.fit([batch(x=array.slice(1, 4))], {"x": column("float32[3]", "gaussian")}).columns[0]
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
    every = fitting.fit([family()[0]], family()[1])
    every.save(tmp_path)
    assert Features.load(tmp_path) == every
    assert "Infinity" not in (tmp_path / features.FILE).read_text()


@pytest.mark.parametrize(
    ("age", "what"), [(features.FORMAT + 1, "a newer version"), (1, "an older version; train again")]
)
def test_another_format_is_refused(tmp_path: Path, age: int, what: str) -> None:
    """By name, not by a stranger's KeyError."""
    _, found = mixed()
    found.save(tmp_path)
    path = tmp_path / features.FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": age}))
    with pytest.raises(DataError, match=rf"features.json: format {age}, not {features.FORMAT}: written by {what}"):
        Features.load(tmp_path)


def test_a_missing_column_is_named() -> None:
    """What the model was trained on must be there."""
    rows, found = mixed()
    with pytest.raises(DataError, match="column 'sold' is missing; the model was trained on it"):
        found.transform(rows.drop_columns(["sold"]))


def test_a_column_of_another_type_is_refused() -> None:
    """What is served is what was trained on, and nothing that only looks like it."""
    rows, found = mixed()
    at = rows.schema.get_field_index("sold")
    wider = rows.set_column(at, "sold", rows.column("sold").cast(pa.float64()))
    with pytest.raises(DataError, match=f"column 'sold' is double; the model was trained on {rows.column(at).type}"):
        found.transform(wider)


def test_a_table_of_the_whole_family_goes_there_and_back() -> None:
    """Every likelihood side by side: each cell that is there comes back in its own column, type and units."""
    rows, columns = family()
    found = fitting.fit([rows], columns)
    values, observed = found.transform(rows)
    assert values.shape == observed.shape == (5, sum(it.width for it in found.columns))
    assert not values[~observed].any()
    restored = found.restore(values)
    assert [(it.name, it.type) for it in restored.type] == [(it.name, it.type) for it in rows.schema]
    for name in rows.schema.names:
        for before, after in zip(rows.column(name).to_pylist(), restored.field(name).to_pylist(), strict=True):
            if isinstance(before, list):
                assert [b for a, b in zip(before, after, strict=True) if a is not None] == pytest.approx(
                    [it for it in before if it is not None], rel=1e-6, abs=1e-6
                )
            elif before is not None:
                assert after == (before if isinstance(before, str) else pytest.approx(before, rel=1e-6)), name


def test_layout_puts_together_what_one_block_can_hold() -> None:
    """Groups of a joint_mixture, equal numbers of components: the model has no block more than it must."""
    found = fitting.fit([family()[0]], family()[1])
    assert [it.name for it in found.layout] == [
        *("height", "price", "change", "age"),
        *("up", "down", "north", "east"),
        *("visits", "clicks", "stars", "pixels"),
        *("sold", "mask", "ink", "city", "size"),
    ]
    blocks = Columns(found.model_columns()).blocks
    assert [type(block).__name__ for block in blocks] == [
        *("Gaussian", "LogNormal", "StudentT", "Mixture", "JointMixture", "JointMixture", "Poisson"),
        *("NegativeBinomial", "Binomial", "DiscretisedLogistic", "Bernoulli", "Bernoulli", "Categorical", "Ordinal"),
    ]


def test_what_the_config_says_reaches_the_model() -> None:
    """Settings of a column, in the model's standardised units where it has them."""
    rows, columns = family()
    found = fitting.fit([rows], columns)
    of = {it.name: it for it in found.model_columns()}
    height = found.columns[rows.schema.names.index("height")]
    assert of["height"].sigma == pytest.approx(2.0 / height.scale)
    assert (of["north"].group, of["north"].components, of["age"].components) == ("place", 3, 2)
    assert (of["stars"].codes, of["pixels"].codes, of["city"].codes, of["size"].codes) == (6, 256, 4, 3)
    assert (of["pixels"].shape, of["ink"].shape, of["change"].shape) == ((2, 2, 1), (2, 2, 1), ())
    assert (of["ink"].dynamic, of["mask"].dynamic, of["mask"].codes) == (True, False, 0)
    assert all(it.nullable for it in of.values())
    for name in ("visits", "clicks", "stars", "pixels", "ink", "mask"):
        assert (of[name].center, of[name].scale) == (0, 1), name


def test_spread_is_the_error_of_the_best_constant() -> None:
    """RMSE in the column's units, or the share of wrong codes: of an image about all its pixels, not its darkest."""
    assert feature(pa.array([1.0, 3.0]), "float64", "gaussian").spread == 1.0
    assert feature(pa.array([True, True, False, True]), "bool", "bernoulli").spread == 0.25
    mask = cells([[0, 9], [0, 0], [0, 9], [0, 9]], "uint8[2]")
    assert feature(mask, "uint8[2]", "bernoulli", levels=10, binarise="static").spread == 3 / 8
    assert feature(pa.array([3, 5]), "int64", "poisson").spread == 1.0
    assert feature(pa.array(["a"] * 6 + ["b"]), "string", "categorical").spread == pytest.approx(3 / 10)
