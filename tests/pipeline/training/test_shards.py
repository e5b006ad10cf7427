"""Who trains on which row: every row once, on one worker or on many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training import shards

LAWS = settings(derandomize=True, deadline=None, max_examples=80)
SHAPES = {"rows": st.integers(0, 700), "window_rows": st.integers(1, 300), "seed": st.integers(0, 2**32)}


def shared(
    windows: list[npt.NDArray[np.int64]], batch_rows: int, world_size: int, *, start: int = 0
) -> list[list[int]]:
    """Each global batch from `start` on, put together from what every rank holds."""
    rows = sum(map(len, windows))
    batches = [[-1] * min(batch_rows, rows - first) for first in range(start * batch_rows, rows, batch_rows)]
    for rank in range(world_size):
        mine = shards.share(windows, batch_rows=batch_rows, world_size=world_size, rank=rank, start=start)
        left = [row for window in mine for row in window.tolist()]
        for batch in batches:
            count = shards.held(len(batch), world_size=world_size, rank=rank)
            batch[rank::world_size], left = left[:count], left[count:]
        assert not left, "a rank has rows of no batch"
    return batches


@LAWS
@given(**SHAPES, batch_rows=st.integers(1, 70), epoch=st.integers(0, 1000), world_size=st.integers(1, 9))
def test_every_row_comes_once_an_epoch_whatever_the_workers(
    *, rows: int, window_rows: int, seed: int, batch_rows: int, epoch: int, world_size: int
) -> None:
    """Over all ranks each row once, the same steps on each, in an order that knows neither batches nor world size."""
    windows = list(shards.order(rows, window_rows=window_rows, seed=seed, epoch=epoch))
    batches = shared(windows, batch_rows, world_size)
    flat = [row for batch in batches for row in batch]
    assert sorted(flat) == list(range(rows))
    assert flat == [row for window in windows for row in window.tolist()]
    assert [len(batch) for batch in batches[:-1]] == [batch_rows] * (len(batches) - 1)


@LAWS
@given(**SHAPES, batch_rows=st.integers(1, 70), world_size=st.integers(1, 9), start=st.integers(0, 40))
def test_an_epoch_goes_on_from_any_batch(
    *, rows: int, window_rows: int, seed: int, batch_rows: int, world_size: int, start: int
) -> None:
    """From global batch `start` on it is what the whole epoch is from there on; after its end it is nothing."""
    windows = list(shards.order(rows, window_rows=window_rows, seed=seed, epoch=3))
    assert shared(windows, batch_rows, world_size, start=start) == shared(windows, batch_rows, world_size)[start:]


@LAWS
@given(**SHAPES)
def test_no_window_holds_more_than_it_may(rows: int, window_rows: int, seed: int) -> None:
    """So many rows are ever shuffled among each other; where one window holds all, it is a plain permutation."""
    windows = list(shards.order(rows, window_rows=window_rows, seed=seed, epoch=7))
    assert all(0 < len(window) <= window_rows for window in windows) or rows == 0
    if rows <= window_rows:
        assert windows[0].tolist() == np.random.default_rng((seed, 7)).permutation(rows).tolist()


@pytest.mark.parametrize("window_rows", [100, 1000])
def test_the_order_depends_on_seed_and_epoch(window_rows: int) -> None:
    """Another epoch, another seed: another order; the same two: the same one."""

    def told(seed: int, epoch: int) -> str:
        return str([it.tolist() for it in shards.order(999, window_rows=window_rows, seed=seed, epoch=epoch)])

    orders = {(seed, epoch): told(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len(set(orders.values())) == 9
    assert told(1, 2) == orders[1, 2]


def test_windows_mix_rows_from_everywhere() -> None:
    """Where a row was tells nothing of when it comes, and each window is drawn from the whole table.

    400,000 rows in 25 windows of 64 runs: the correlation of place and position is that of a permutation of the 1,563
    runs, and the mean and spread of a window's rows are those of 64 runs drawn at random, each within four standard
    deviations; a tenth of the table has no row in a window with probability 0.9^64 = 0.001.
    """
    rows, runs = 400_000, 400_000 / 256
    windows = list(shards.order(rows, window_rows=64 * 256, seed=0, epoch=0))
    order = np.concatenate(windows)
    assert abs(np.corrcoef(order, np.arange(rows))[0, 1]) < 4 / runs**0.5
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.15, "neighbours in time: 1/64 by chance of one run"
    for window in windows[:-1]:
        assert abs(window.mean() / rows - 0.5) < 4 / (12 * 64) ** 0.5
        assert abs(window.std() / rows - 12**-0.5) < 0.08
        assert len(np.unique(window * 10 // rows)) >= 9


def test_a_rank_without_rows_keeps_its_steps() -> None:
    """A last batch of one row: four ranks, one of them with work, none with fewer steps."""
    assert [shards.held(1, world_size=4, rank=rank) for rank in range(4)] == [1, 0, 0, 0]
    assert [shards.held(8, world_size=3, rank=rank) for rank in range(3)] == [3, 3, 2]


@pytest.mark.parametrize(("width", "rows", "run"), [(64, 262_144, 256), (784, 21_399, 256), (8192, 2048, 32)])
def test_a_window_has_many_runs_however_wide_its_rows(width: int, rows: int, run: int) -> None:
    """64 MiB of values: runs get shorter where rows are wide, so that there are at least 64 of them."""
    assert (shards.window_rows(width), shards.run_rows(rows)) == (rows, run)
    assert shards.run_rows(shards.window_rows(1 << 25)) == 1


IDS = {
    "int64": pa.array(range(20_000)),
    "negative": pa.array(range(-20_000, 0)),
    "spread": pa.array([i * 7919 * 2**32 % 2**62 for i in range(20_000)]),
    "uint64": pa.array([2**64 - 1 - i for i in range(20_000)], pa.uint64()),
    "int32": pa.array(range(20_000), pa.int32()),
    "string": pa.array([f"row-{i}" for i in range(20_000)]),
    "unicode": pa.array([f"行{i}😀" for i in range(20_000)]),
}


@pytest.mark.parametrize("kind", IDS)
def test_shares_are_about_right(kind: str) -> None:
    """Within five standard deviations of what was asked for, for ids of every kind."""
    found = shards.splits(IDS[kind], validation=0.1, test=0.25)
    for split, share in ((shards.VALIDATION, 0.1), (shards.TEST, 0.25), (shards.TRAIN, 0.65)):
        expected, deviation = share * len(found), (share * (1 - share) * len(found)) ** 0.5
        assert abs((found == split).sum() - expected) < 5 * deviation, (kind, split)
    assert set(np.unique(found)) == {0, 1, 2}


@pytest.mark.parametrize("kind", IDS)
def test_hashes_hardly_collide_and_are_spread(kind: str) -> None:
    """No two of 20,000 ids share a hash, and every bit is about half the time set."""
    found = shards.hashes(IDS[kind])
    assert len(np.unique(found)) == len(found)
    bits = (found[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.02


ANY_IDS = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=40) | st.lists(
    st.text(max_size=12), unique=True, max_size=40
)


@LAWS
@given(ANY_IDS, st.integers(0, 40), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_rows_split_depends_on_its_id_alone(ids: list[int | str], cut: int, validation: float, test: float) -> None:
    """Other ids may be added or reordered: no row changes sides, so no test row was ever trained on."""
    kind = pa.string() if ids and isinstance(ids[0], str) else pa.int64()
    array = pa.array(ids, kind)
    whole = shards.splits(array, validation=validation, test=test)
    assert shards.splits(array.slice(cut), validation=validation, test=test).tolist() == whole[cut:].tolist()
    assert shards.splits(pa.array(ids[::-1], kind), validation=validation, test=test).tolist() == whole[::-1].tolist()


def test_more_test_rows_are_taken_from_training_alone() -> None:
    """Raising the test share moves no row between validation and test."""
    few, many = (shards.splits(IDS["int64"], validation=0.1, test=share) for share in (0.1, 0.3))
    assert ((few == shards.VALIDATION) == (many == shards.VALIDATION)).all()
    assert (many[few == shards.TEST] == shards.TEST).all()
    assert not shards.splits(IDS["int64"], validation=0, test=0).any()


def test_the_hash_is_the_published_one() -> None:
    """SplitMix64's first outputs from seed 0, so that a split is the same on every machine for ever."""
    golden = 0x9E3779B97F4A7C15
    states = pa.array([0, golden, 2 * golden % 2**64], pa.uint64())
    assert [hex(it) for it in shards.hashes(states)] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]
    assert shards.hashes(pa.array([5], pa.int8())) == shards.hashes(pa.array([5], pa.int64()))
