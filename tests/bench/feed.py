"""What rows cost the training loop: gathered from memory, streamed from files, and the memory that streaming takes.

    PYTHONPATH=. python tests/bench/feed.py [gather | stream | memory] ...

One thread computes; where rows are streamed a second one reads ahead. Ways are interleaved; medians.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Generator, Tensor

from pipeline.columns import ColumnConfig
from pipeline.config import Train
from pipeline.features import fitting
from pipeline.training import feed, filed, shards
from pipeline.training.feed import Feed
from pipeline.training.job import ALONE, Job
from pipeline.training.rows import Rows
from vae import fit, noise
from vae.config import Network, Objective
from vae.model import VAE, ModelConfig

PART_ROWS = 262_144
SHAPES = {64: (400_000, 1_024), 784: (60_000, 256)}
"""Rows and batch, by width."""


def gather() -> None:
    """Nanoseconds a row: a bare loop's `x[order[i : i + batch]]`, and a feed's batches with and without gaps."""
    for width, (rows, batch) in SHAPES.items():
        values = torch.randn(rows, width)
        whole = torch.ones(rows, width, dtype=torch.bool)
        gaps = whole.clone()
        gaps[0, 0] = False

        def bare(values: Tensor = values, batch: int = batch) -> None:
            order = torch.randperm(len(values))
            for start in range(0, len(values), batch):
                values[order[start : start + batch]]

        def fed(observed: Tensor, values: Tensor = values, batch: int = batch) -> None:
            for _ in Feed(Rows(values, observed), batch_rows=batch, seed=0).batches(0):
                pass

        ways = {"bare": bare, "feed, complete": lambda: fed(whole), "feed, gaps": lambda: fed(gaps)}  # noqa: B023
        for name, seconds in interleaved(ways, times=7).items():
            print(f"gather  {width:4} columns  {name:15} {statistics.median(seconds) / rows * 1e9:7.0f} ns/row")


def stream() -> None:
    """Rows/s of a model's steps from memory and from files."""
    for width, hidden, latent, rows, batch, steps in (
        (64, (128, 128), 8, 1_000_000, 1_024, 300),
        (784, (512, 512), 32, 80_000, 256, 100),
    ):
        with tempfile.TemporaryDirectory() as folder:
            job = made(Path(folder), rows=rows, width=width)
            tables = feed.load(job, ALONE)[shards.TRAIN], filed.load(job, ALONE)[shards.TRAIN]
            columns = feed.Features.load(job.path).model_columns()
            model = VAE(ModelConfig(columns=columns, network=Network(latent=latent, hidden=hidden)))
            objective = Objective()
            loss, adam = fit.Loss(model, objective), fit.optimizer(model.parameters(), learning_rate=1e-3)
            feeds = dict(zip(("memory", "files"), (Feed(it, batch_rows=batch, seed=0) for it in tables), strict=True))
            # endless: a window is in use and the next one read at any time, as in the middle of a long training
            endless = {
                name: (it for epoch in range(10**6) for it in rows_fed.batches(epoch))
                for name, rows_fed in feeds.items()
            }

            def learn(name: str) -> None:
                for it in islice(endless[name], steps):  # noqa: B023
                    drawn = noise.draw(objective, model.columns, rows=it.size, latent=latent, generator=Generator())  # noqa: B023
                    fit.step(loss, adam, it.values, it.observed, drawn, share=1 / it.size)  # noqa: B023

            seconds = interleaved({name: lambda name=name: learn(name) for name in feeds}, times=9)
            ratios = [one / two for one, two in zip(seconds["memory"], seconds["files"], strict=True)]
            for name, it in seconds.items():
                rate, waited = steps * batch / statistics.median(it), feeds[name].waited_s / sum(it)
                print(f"stream  {width:4} columns  {name:6} {rate:9,.0f} rows/s  waited {waited:.1%}")
            low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
            print(f"stream  {width:4} columns  ratio  {middle:.3f} ({low:.3f} to {high:.3f})")


def memory() -> None:
    """Peak memory of a process that writes the files and streams an epoch from them, at 1x and 10x rows."""
    for rows in (1_000_000, 10_000_000):
        with tempfile.TemporaryDirectory() as folder:
            made(Path(folder), rows=rows, width=64)
            said = subprocess.run(
                [sys.executable, __file__, "epoch", folder], check=True, capture_output=True, text=True
            ).stdout
            print(f"memory  {rows:9,} rows  {rows * 320 >> 20:5} MB of cells: {said}", end="")


def epoch(folder: str) -> None:
    """One epoch from files; the peak before and after."""
    torch.set_num_threads(1)
    job = described(Path(folder))
    torch.ones(1).add(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    started = time.perf_counter()
    table = feed.load(job, ALONE)[shards.TRAIN]
    seconds, written = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    assert isinstance(table, filed.Filed)
    total = sum(float(it.values[:, 0].sum()) for it in Feed(table, batch_rows=1_024, seed=0).batches(0))
    assert np.isfinite(total)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"made in {seconds:.0f} s; peak {before} MB at the start, {written} MB then, {peak} MB in all")


def interleaved(ways: dict[str, Callable[[], None]], *, times: int) -> dict[str, list[float]]:
    """Seconds of each way, one after another, again and again, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(times + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if round_number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def made(folder: Path, *, rows: int, width: int) -> Job:
    """A table of normal numbers without gaps, in parts, and the preprocessing fitted to its first one."""
    random = np.random.default_rng(0)
    for number, start in enumerate(range(0, rows, PART_ROWS)):
        count = min(PART_ROWS, rows - start)
        cells = pa.array(random.standard_normal(count * width, dtype=np.float32))
        table = pa.table(
            {"id": pa.array(range(start, start + count)), "x": pa.FixedSizeListArray.from_arrays(cells, width)}
        )
        if not number:
            settings = {"x": ColumnConfig(type=f"float32[{width}]", likelihood="gaussian", nullable=False)}
            fitting.fit(table.slice(0, 20_000).to_batches(), settings).save(folder)
        pq.write_table(table, folder / f"{number:03}.parquet", use_dictionary=False, row_group_size=65_536)
    return described(folder, memory_mb=4096)


def described(folder: Path, *, memory_mb: int = 100) -> Job:
    """The job of a folder that `made` filled."""
    parts = tuple(map(str, sorted(folder.glob("*.parquet"))))
    settings = {"network": Network(), "objective": Objective(), "train": Train(memory_mb=memory_mb)}
    return Job(directory=str(folder), parts=parts, id_column="id", validation=0.1, test=0.1, **settings)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["epoch"]:
        epoch(sys.argv[2])
    else:
        for name in sys.argv[1:] or ("gather", "stream", "memory"):
            {"gather": gather, "stream": stream, "memory": memory}[name]()
