"""Rows to the loop: the same batches from memory and from files, on one worker or on many."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from harness import ROOT, small_settings
from rows import column
from safetensors.torch import load_file

from pipeline import runfile
from pipeline.arena import Arena
from pipeline.config import Train
from pipeline.errors import ConfigError, InfrastructureError
from pipeline.features import fitting
from pipeline.training import feed, filed, rows, shards, worker
from pipeline.training.feed import Batch, Feed
from pipeline.training.filed import Filed
from pipeline.training.job import ALONE, CPU, Job, Place
from pipeline.training.rows import Rows
from vae.checkpoint import WEIGHTS
from vae.config import Network, Objective

COLUMNS = {
    "wave": column("float64[24]", "gaussian"),
    "ink": column("uint8[6]", "bernoulli", levels=17, binarise="dynamic"),
    "whole": column("float32", "gaussian", nullable=False),
}
ROWS, PARTS = 9_000, (0, 4_000, 4_100, 4_100, 8_999, 9_000)
"""1.4 MB, in parts of which one is empty and one has a single row."""


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 1,024 rows and runs of 16, so that a small table has some."""
    monkeypatch.setattr(shards, "WINDOW_BYTES", 1_024 * 31 * 4)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A training of a table with missing cells, prepared."""
    return prepared(tmp_path / "job")


def prepared(folder: Path, *, names: tuple[str, ...] = tuple(COLUMNS), **train: Any) -> Job:
    """A job in a new folder, its preprocessing fitted on all rows."""
    random = np.random.default_rng(1)
    hidden = random.standard_normal((ROWS, 1))
    wave = np.sin(hidden + np.arange(24) / 4) + 0.1 * random.standard_normal((ROWS, 24))
    ink = np.clip(8 + 3 * hidden + random.integers(-2, 3, (ROWS, 6)), 0, 16).astype(np.uint8)
    gaps = pa.array(random.random(ROWS * 24) < 0.05)
    holed = pa.array(np.where(gaps, np.nan, wave.ravel()), from_pandas=True)
    table = pa.table(
        {
            "id": pa.array(range(ROWS)),
            "wave": pa.FixedSizeListArray.from_arrays(holed, 24),
            "ink": pa.FixedSizeListArray.from_arrays(pa.array(ink.ravel()), 6),
            "whole": pa.array(hidden[:, 0], pa.float32()),
        }
    ).select(["id", *names])
    folder.mkdir()
    parts = [folder / f"{number}.parquet" for number in range(len(PARTS) - 1)]
    for part, start, stop in zip(parts, PARTS[:-1], PARTS[1:], strict=True):
        pq.write_table(table.slice(start, stop - start), part, write_page_checksum=True)
    fitting.fit(table.to_batches(), {name: COLUMNS[name] for name in names}).save(folder)
    settings = {"epochs": 3, "batch_rows": 500, "learning_rate": 0.01, "importance_samples": 3, **train}
    return Job(
        directory=str(folder),
        parts=tuple(map(str, parts)),
        id_column="id",
        validation=0.1,
        test=0.1,
        network=Network(latent=2, hidden=(16,), prior="mixture", prior_components=3),
        objective=Objective(),
        train=Train(**settings),
    )


def whole(job: Job) -> dict[int, Filed]:
    """The splits in files."""
    tables = filed.load(job, ALONE)
    assert all(isinstance(table, Filed) for table in tables.values())
    return tables


def everything(batches: list[Batch]) -> list[torch.Tensor]:
    """What the loop is given, as tensors."""
    return [torch.cat([getattr(it, name) for it in batches]) for name in ("values", "observed")]


def test_files_hold_what_memory_holds(job: Job) -> None:
    """Every split, every row, every cell and every fixed draw, whichever rows are asked for."""
    columns = rows.Features.load(job.path).model_columns()
    resident = rows.resident(job, CPU)
    for split, table in whole(job).items():
        there, here = (rows.binarised(columns, it, seed=4) for it in (table, resident[split]))
        picked = torch.randperm(len(here))[:300]
        for index in (slice(None), slice(3, 2_500), slice(0), picked, picked[:0], picked.repeat(2)):
            for mine, yours in zip(there.take(index), here.take(index), strict=True):
                assert torch.equal(mine, yours)
        assert (len(there), there.width, there.complete) == (len(here), 31, False)
        assert sum(len(values) for values, _ in rows.blocks(there)) == len(here)
        assert not torch.equal(there.take(slice(None))[0], table.take(slice(None))[0])
    assert sum(map(len, resident.values())) == ROWS
    assert len(rows.affordable(whole(job)[shards.TRAIN], 1)) == len(range(0, len(resident[shards.TRAIN]), 5))
    assert rows.affordable(resident[shards.TRAIN], 1) is resident[shards.TRAIN]


def test_a_split_without_gaps_is_complete(tmp_path: Path) -> None:
    """The mask is then all true, is not read, and costs no gathering."""
    job = prepared(tmp_path / "job", names=("ink", "whole"))
    for tables in (rows.resident(job, CPU), whole(job)):
        for table in tables.values():
            values, observed = table.take(torch.tensor([5, 2, 9]))
            assert table.complete
            assert observed.all()
            assert values.shape == observed.shape == (3, 7)


@pytest.mark.parametrize(("world_size", "batch_rows", "start"), [(1, 512, 0), (2, 500, 3), (3, 64, 0), (4, 7_199, 0)])
def test_batches_know_neither_residency_nor_ranks(job: Job, world_size: int, batch_rows: int, start: int) -> None:
    """All ranks' rows at their places make the global batches, which are those of one rank that has all in memory."""
    resident, files = rows.resident(job, CPU)[shards.TRAIN], whole(job)[shards.TRAIN]
    alone = list(Feed(resident, batch_rows=batch_rows, seed=3).batches(5))[start:]
    given = np.concatenate([it.numbers for it in alone])
    assert len(np.unique(given)) == len(given) == len(resident) - start * batch_rows
    for table in (resident, files):
        feeds = [
            Feed(table, batch_rows=batch_rows, seed=3, place=Place(rank, world_size)) for rank in range(world_size)
        ]
        ranks = [list(it.batches(5, start=start)) for it in feeds]
        assert {len(batches) for batches in ranks} == {len(alone)}
        for one, *mine in zip(alone, *ranks, strict=True):
            assert sum(len(it.values) for it in mine) == one.size
            for it in mine:
                assert it.size == one.size
                assert np.array_equal(it.numbers, one.numbers[it.places])
                assert torch.equal(it.values, one.values[it.places])
                assert torch.equal(it.observed, one.observed[it.places])
                assert torch.equal(it.values, resident.take(torch.from_numpy(it.numbers))[0])
        assert all(it.waited_s > 0 for it in feeds)
        assert not list(feeds[0].batches(5, start=len(alone) + start))


def test_where_rows_are_changes_no_bit_of_a_training(tmp_path: Path) -> None:
    """Weights, fitted prior, metrics, figures: memory_mb = 1 streams, 64 does not; the files go with the training."""
    streaming, resident = (prepared(tmp_path / str(memory), memory_mb=memory) for memory in (1, 64))
    tables = [feed.load(job, ALONE) for job in (streaming, resident)]
    assert [{type(table) for table in it.values()} for it in tables] == [{Filed}, {Rows}]
    (progress, found), (again, same) = worker.run(streaming), worker.run(resident)
    assert progress.without_times() == again.without_times()
    some = len(range(0, len(tables[0][shards.TRAIN]), 5))
    assert found.rival == f"pPCA and independent columns by {some:,} training rows"
    assert found == replace(same, rival=found.rival, rival_nll=found.rival_nll)
    assert found.rival_nll == pytest.approx(same.rival_nll, abs=1)
    weights, others = (load_file(job.path / "model" / WEIGHTS) for job in (streaming, resident))
    assert all(torch.equal(tensor, others[name]) for name, tensor in weights.items())
    assert not (streaming.path / filed.FOLDER).exists()


def cut_short(folder: Path) -> None:
    """Take the last byte of a file."""
    path = folder / "train.observed"
    os.truncate(path, path.stat().st_size - 1)


def forgotten(folder: Path) -> None:
    """Take the facts."""
    (folder / filed.FACTS).unlink()


def another(folder: Path) -> None:
    """Make it that of another file."""
    path = folder / filed.FACTS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"part": "other.parquet"}))


@pytest.mark.parametrize("harm", [cut_short, forgotten, another, shutil.rmtree])
def test_a_part_that_is_not_whole_is_written_anew(job: Job, harm: Any) -> None:
    """And only that part: the others stay as they are, and what an interrupted try left behind is gone."""
    values = whole(job)[shards.TRAIN].take(slice(None))[0]
    folders = sorted((job.path / filed.FOLDER).iterdir())
    before = [(folder / filed.FACTS).stat().st_mtime_ns for folder in folders]
    harm(folders[3])
    folders[3].with_suffix(".partial").mkdir()
    assert torch.equal(whole(job)[shards.TRAIN].take(slice(None))[0], values)
    assert sorted((job.path / filed.FOLDER).iterdir()) == folders
    after = [(folder / filed.FACTS).stat().st_mtime_ns for folder in folders]
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, True, True, False, True]


def test_a_file_cut_short_under_way_is_a_clear_error(job: Job) -> None:
    """The loop hears of it from the thread that reads ahead."""
    batches = Feed(whole(job)[shards.TRAIN], batch_rows=100, seed=0).batches(0)
    next(batches)
    for path in (job.path / filed.FOLDER).glob("*/train.values"):
        os.truncate(path, 0)
    with pytest.raises(InfrastructureError, match=r"train.values: cannot read: cut short\n  cure: run again"):
        list(batches)


def test_a_full_disk_is_told_by_size(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written: what the rows take, what there is, and the setting that needs no files."""
    usage = namedtuple("usage", "free")(1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InfrastructureError, match=r"take 2 MB in files, and 1 MB are free\n.*train.memory_mb=2"):
        filed.load(job, ALONE)


@pytest.mark.parametrize(
    ("total", "width", "memory_mb", "cure"),
    [
        (10**9, 64, 159, 160),
        (10**9, 64, 160, None),
        (10**9, 10**6, 1, 153),
        (10**5, 64, 30, 31),
        (10**5, 64, 31, None),
    ],
)
def test_memory_for_two_windows_is_needed(
    monkeypatch: pytest.MonkeyPatch, total: int, width: int, memory_mb: int, cure: int | None
) -> None:
    """However many rows there are; fewer rows than that must fit as they are."""
    monkeypatch.undo()
    if cure is None:
        return feed.check_memory(total, width, memory_mb=memory_mb)
    with pytest.raises(ConfigError, match=f"--set train.memory_mb={cure},"):
        feed.check_memory(total, width, memory_mb=memory_mb)
    return None


def test_compare_holds_all_rows_in_memory(job: Job, tmp_path: Path) -> None:
    """Its rivals are fitted to all of them: too little memory is a clear error."""
    config = runfile.parse(small_settings(tmp_path, train={"memory_mb": 1}))
    with pytest.raises(ConfigError, match=r"all rows, 2 MB, in memory; train.memory_mb allows 1\n.*memory_mb=2"):
        Arena.of(config, job)


RANK = """
import sys
from pathlib import Path
import torch
from pipeline.training import filed
from pipeline.errors import LatentpipeError
from pipeline.training.job import Job, Place
from pipeline.config import Train
from vae.config import Network, Objective
rank, store, *jobs = sys.argv[1:]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
for folder in map(Path, jobs):
    parts = tuple(map(str, sorted(folder.glob("*.parquet"))))
    job = Job(directory=str(folder), parts=parts, id_column="id", validation=0.1, test=0.1, network=Network(),
              objective=Objective(), train=Train())
    try:
        print(len(filed.load(job, Place(int(rank), 2))[0]))
    except LatentpipeError as error:
        print(error)
torch.distributed.destroy_process_group()
"""


def test_two_workers_make_the_files_together(job: Job, tmp_path: Path) -> None:
    """Both see all rows; where one finds its part damaged, both say so and neither waits."""
    damaged = tmp_path / "damaged"
    shutil.copytree(job.path, damaged)
    with (damaged / "3.parquet").open("r+b") as file:
        file.seek(5_000)
        file.write(bytes(1_000))
    command = [sys.executable, "-c", RANK]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), str(job.path), str(damaged)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    one, two = (process.communicate(timeout=100)[0] for process in workers)
    assert one == two
    assert one.startswith(f"{len(rows.resident(job, CPU)[shards.TRAIN])}\n{damaged}/3.parquet: damaged: ")
    assert (damaged / filed.FOLDER / "00002" / filed.FACTS).is_file(), "the other worker's part of that round"
