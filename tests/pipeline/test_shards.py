"""Who trains on which row: every row once, on one worker or on many."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import shards

LAWS = settings(derandomize=True, deadline=None, max_examples=80)
SHAPES = {"rows": st.integers(0, 300), "batch_rows": st.integers(1, 70), "seed": st.integers(0, 2**32)}


def global_order(rows: int, batch_rows: int, seed: int, epoch: int, world_size: int) -> list[list[int]]:
    """Each global batch, put together from what every rank holds and where."""
    batches: list[list[int]] = [[-1] * min(batch_rows, rows - start) for start in range(0, rows, batch_rows)]
    for rank in range(world_size):
        steps = list(
            shards.epoch(rows, batch_rows=batch_rows, seed=seed, epoch=epoch, world_size=world_size, rank=rank)
        )
        assert len(steps) == len(batches) == -(-rows // batch_rows), "every rank has every step"
        for batch, (mine, places) in zip(batches, steps, strict=True):
            taken = batch[places]
            assert taken == [-1] * len(mine), "two ranks hold one place"
            batch[places] = mine.tolist()
    return batches


@LAWS
@given(**SHAPES, epoch=st.integers(0, 1000), world_size=st.integers(1, 9))
def test_every_row_comes_once_an_epoch_whatever_the_workers(
    rows: int, batch_rows: int, seed: int, epoch: int, world_size: int
) -> None:
    """Over all ranks each row once, the same number of steps on each, in an order that knows no world size."""
    alone = global_order(rows, batch_rows, seed, epoch, 1)
    assert sorted(row for batch in alone for row in batch) == list(range(rows))
    assert global_order(rows, batch_rows, seed, epoch, world_size) == alone


def test_the_order_depends_on_seed_and_epoch() -> None:
    """Another epoch, another seed: another order; the same two: the same one."""
    orders = {(seed, epoch): str(global_order(100, 10, seed, epoch, 1)) for seed in range(3) for epoch in range(3)}
    assert len(set(orders.values())) == 9
    assert str(global_order(100, 10, 1, 2, 1)) == orders[1, 2]


def test_a_rank_without_rows_keeps_its_steps() -> None:
    """A last batch of one row: four ranks, one of them with work, none with fewer steps."""
    last = [
        list(shards.epoch(9, batch_rows=8, seed=0, epoch=0, world_size=4, rank=rank))[-1][0].tolist()
        for rank in range(4)
    ]
    assert [len(it) for it in last] == [1, 0, 0, 0]


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


@pytest.mark.parametrize(("rows", "batch", "steps"), [(0, 4, 0), (1, 4, 1), (4, 4, 1), (5, 4, 2), (8, 1, 8)])
def test_steps_round_up(rows: int, batch: int, steps: int) -> None:
    """The last batch may be smaller."""
    batches = shards.epoch(rows, batch_rows=batch, seed=0, epoch=0, world_size=1, rank=0)
    assert len(list(batches)) == steps
