"""Where rows meet the model: a row's code is its own, and what is decoded is the table's again."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codec import LONGEST, SHAPE, Codec
from pipeline.columns import ColumnConfig
from pipeline.errors import DataError
from pipeline.features import fitting
from pipeline.schema import arrow_type
from vae import checkpoint
from vae.config import ModelConfig, Network
from vae.model import VAE

LAWS = settings(derandomize=True, deadline=None, max_examples=15)
ROWS = 5000
COLUMNS = {
    "city": ColumnConfig(type="string", likelihood="categorical", nullable=True),
    "size": ColumnConfig(type="float64", likelihood="gaussian", nullable=True),
    "sold": ColumnConfig(type="bool", likelihood="bernoulli"),
    "pixels": ColumnConfig(type="uint8[5]", likelihood="gaussian"),
    "rooms": ColumnConfig(type="int16", likelihood="gaussian"),
}


@cache
def table() -> pa.RecordBatch:
    """Rows of every kind, some cells missing, made without random numbers."""
    rows = range(ROWS)
    pixels = pa.array([i * j % 256 for i in rows for j in range(1, 6)], pa.uint8())
    return pa.RecordBatch.from_pydict(
        {
            "city": [None if i % 19 == 0 else f"c{i * i % 7}" for i in rows],
            "size": [None if i % 23 == 0 else (i * 7919 % 1000) / 7 for i in rows],
            "sold": [i * 31 % 5 < 2 for i in rows],
            "pixels": pa.FixedSizeListArray.from_arrays(pixels, type=arrow_type("uint8[5]")),
            "rooms": pa.array([i % 12 for i in rows], pa.int16()),
        }
    )


@cache
def codec(*, hidden: tuple[int, ...] = (64, 48), seed: int = 0) -> Codec:
    """A model that nobody trained, over these rows."""
    found = fitting.fit([table()], COLUMNS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VAE(ModelConfig(columns=found.model_columns(), network=Network(latent=6, hidden=hidden)))
    return Codec(model, found)


@cache
def codes() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """mu and logvar of all rows, side by side."""
    found = codec().encode(table())
    return np.concatenate([found.mu, found.logvar], axis=1)


def test_codes_have_the_rows_shape_and_are_finite() -> None:
    """One row each, in order, float32; rows differ."""
    found = codec().encode(table())
    assert found.mu.shape == found.logvar.shape == (ROWS, 6)
    assert found.mu.dtype == found.logvar.dtype == np.float32
    assert np.isfinite(codes()).all()
    assert len(np.unique(found.mu, axis=0)) > ROWS * 0.9


@LAWS
@given(st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=40))
def test_a_rows_code_depends_on_no_other_row(rows: list[int]) -> None:
    """Alone, in other company, in another order, repeated: the same code to the bit."""
    found = codec().encode(table().take(pa.array(rows)))
    assert np.array_equal(np.concatenate([found.mu, found.logvar], axis=1), codes()[rows])


@pytest.mark.parametrize("size", [1, 7, 500, SHAPE, LONGEST - 1, LONGEST, LONGEST + 1, ROWS])
def test_a_rows_code_depends_on_no_batch_size(size: int) -> None:
    """However a table is cut, the codes are the same to the bit."""
    starts = range(0, min(ROWS, 20 * size), size)
    pieces = [codec().encode(table().slice(start, size)) for start in starts]
    found = np.concatenate([np.concatenate([it.mu, it.logvar], axis=1) for it in pieces])
    assert np.array_equal(found, codes()[: len(found)])
    shuffled = [(i * 1009) % ROWS for i in range(ROWS)]
    again = codec().encode(table().take(pa.array(shuffled))).mu
    assert np.array_equal(again, codes()[shuffled, :6])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("row", [0, 1, 19, 1234])
def test_a_rows_code_depends_on_no_place_and_no_thread(row: int, threads: int) -> None:
    """At each of a batch's places, computed by one thread or by two: the same code and the same reconstruction."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = codec().encode(table().take(pa.array([row] * LONGEST)))
        restored = codec().decode(found.mu)
    finally:
        torch.set_num_threads(before)
    assert (np.concatenate([found.mu, found.logvar], axis=1) == codes()[row]).all()
    assert restored.equals(codec().decode(codes()[[row] * LONGEST, :6].copy()))
    assert len(set(map(str, restored.to_pylist()))) == 1


@pytest.mark.parametrize(("hidden", "shape"), [((64, 48), LONGEST), ((256, 64), 2048), ((384, 256), SHAPE)])
def test_the_wider_a_model_the_shorter_its_batches(hidden: tuple[int, ...], shape: int) -> None:
    """So that what a layer makes of a batch stays in a processor's cache."""
    assert codec(hidden=hidden).shape == shape


def test_a_wide_model_keeps_the_law() -> None:
    """Also where the matrix library would choose another path for fewer rows."""
    wide = codec(hidden=(384, 256))
    whole = wide.encode(table()).mu
    for rows in ([0], [ROWS - 1], [5, 2000, 3], list(range(1000, 1100))):
        assert np.array_equal(wide.encode(table().take(pa.array(rows))).mu, whole[rows])


def test_a_decoded_row_depends_on_no_other() -> None:
    """As encoding, so decoding: to the bit."""
    mu = codes()[:, :6].copy()
    whole = codec().decode(mu)
    for rows in ([0], [ROWS - 1, 3], list(range(1500, 1600))):
        assert codec().decode(mu[rows]).equals(whole.take(pa.array(rows)))


def test_no_rows_have_no_codes() -> None:
    """An empty batch is no special case."""
    found = codec().encode(table().slice(0, 0))
    assert found.mu.shape == found.logvar.shape == (0, 6)
    assert len(codec().decode(found.mu)) == 0


def test_decoding_gives_the_tables_own_columns() -> None:
    """Names, order, types and units as in the table; only values that were seen; no nulls."""
    restored = codec().decode(codes()[:, :6].copy())
    assert [(it.name, it.type) for it in restored.type] == [(it.name, it.type) for it in table().schema]
    assert len(restored) == ROWS
    assert all(restored.field(name).null_count == 0 for name in table().schema.names)
    assert set(restored.field("city").to_pylist()) <= {f"c{i}" for i in range(7)}
    assert np.isfinite(restored.field("size").to_numpy(zero_copy_only=False)).all()


def test_codes_beyond_all_reason_decode_within_the_types() -> None:
    """Far out in the latent space integers still do not wrap."""
    far = np.array([[1e4] * 6, [-1e4] * 6, [1e4, -1e4] * 3], np.float32)
    restored = codec().decode(far)
    assert all(0 <= it <= 255 for row in restored.field("pixels").to_pylist() for it in row)
    assert all(-(2**15) <= it < 2**15 for it in restored.field("rooms").to_pylist())


def test_samples_are_seeded() -> None:
    """The same seed is the same rows, another seed others, and the program's own randomness is left alone."""
    before = torch.random.get_rng_state()
    first, again, other = (codec().sample(200, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.equals(again)
    assert not first.equals(other)
    assert first.type == codec().features.struct()
    assert len(first) == 200


def test_samples_of_a_column_of_one_value_are_that_value() -> None:
    """A Bernoulli column that held one value in training: the model's draw of the other is not an IndexError."""
    rows = pa.RecordBatch.from_pydict({"flag": ["yes"] * 50, "x": [float(i) for i in range(50)]})
    columns = {
        "flag": ColumnConfig(type="string", likelihood="bernoulli"),
        "x": ColumnConfig(type="float64", likelihood="gaussian"),
    }
    found = fitting.fit([rows], columns)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VAE(ModelConfig(columns=found.model_columns(), network=Network(latent=2, hidden=(4,))))
    drawn = Codec(model, found).sample(20_000, seed=0)
    assert set(drawn.field("flag").to_pylist()) == {"yes"}


def test_more_or_other_columns_do_not_matter() -> None:
    """Columns are found by name; a missing one is named."""
    names = table().schema.names
    reordered = table().select(names[::-1]).append_column("extra", pa.nulls(ROWS))
    assert np.array_equal(codec().encode(reordered).mu, codes()[:, :6])
    assert np.array_equal(codec().encode(pa.Table.from_batches([table()])).mu, codes()[:, :6])
    with pytest.raises(DataError, match="column 'sold' is missing; the model was trained on it"):
        codec().encode(table().drop_columns(["sold"]))


def test_unseen_categories_are_encoded() -> None:
    """By the reserved code: finite, and the same for any of them."""
    head = table().slice(1, 2)
    codes_of = [
        codec().encode(head.set_column(0, "city", pa.array([name, name]))).mu for name in ("new", "newer", "<script>")
    ]
    assert np.isfinite(codes_of[0]).all()
    assert np.array_equal(codes_of[0], codes_of[1])
    assert np.array_equal(codes_of[0], codes_of[2])


def test_a_saved_model_encodes_the_same(tmp_path: Path) -> None:
    """From its sealed directory: to the bit; altered by a byte: refused."""
    checkpoint.save(codec().model, tmp_path / "model")
    codec().features.save(tmp_path / "model")
    checkpoint.seal(tmp_path / "model")
    again = Codec.load(tmp_path / "model")
    assert np.array_equal(again.encode(table()).mu, codes()[:, :6])
    path = tmp_path / "model/features.json"
    path.write_text(path.read_text().replace("c1", "c9"))
    with pytest.raises(DataError, match=r"features.json: altered since it was saved"):
        Codec.load(tmp_path / "model")
