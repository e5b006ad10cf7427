"""SIGKILL trainings at random moments and in the midst of a checkpoint, resume them, and compare the bits.

    python tests/faults/train_kills.py --kills 100 [--ranks 2] [--seed 0]

Every process is forked from this one, which imports but never computes, so that a resumption costs little. A training
is killed until it comes through; its model must then have the digest of one that was never killed. The meta-check
changes one bit of one weight in a checkpoint: that digest must be another. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from pipeline.columns import ColumnConfig
from pipeline.config import Train
from pipeline.features import fitting
from pipeline.training import checkpoints, shards, worker
from pipeline.training.job import Job, Place
from vae import checkpoint
from vae.checkpoint import WEIGHTS
from vae.config import Network, Objective

ROWS = 1500
COLUMNS = {
    "height": ColumnConfig(type="float64", likelihood="gaussian", nullable=True),
    "visits": ColumnConfig(type="int64", likelihood="poisson"),
    "city": ColumnConfig(type="string", likelihood="categorical"),
}
WAYS = ("at a random moment", "while a checkpoint is written", "and the newest checkpoint torn")


def prepare(folder: Path) -> None:
    """A mixed table, and its preprocessing."""
    drawn = np.random.default_rng(0)
    hidden = drawn.standard_normal(ROWS)
    table = pa.table(
        {
            "id": np.arange(ROWS),
            "height": pa.array(170 + 9 * hidden + drawn.standard_normal(ROWS), mask=drawn.random(ROWS) < 0.1),
            "visits": drawn.poisson(np.exp(1 + 0.6 * hidden)),
            "city": np.array(["Rome", "Oslo", "Lima"])[np.digitize(hidden, (-0.5, 0.5))],
        }
    )
    split = shards.splits(table.column("id").combine_chunks(), validation=0.2, test=0.2)
    pq.write_table(table, folder / "part.parquet")
    fitting.fit(table.filter(pa.array(split == shards.TRAIN)).to_batches(), COLUMNS).save(folder)


def described(folder: Path) -> Job:
    """A training with all the state there is: noise, warm-up, decay, clipping, averaging, early stopping."""
    return Job(
        directory=str(folder),
        parts=(str(folder / "part.parquet"),),
        id_column="id",
        validation=0.2,
        test=0.2,
        network=Network(latent=2, hidden=(32, 32)),
        objective=Objective(noise="masking", noise_level=0.1, annealing="linear", annealing_epochs=2.5),
        train=Train(
            epochs=6,
            patience=3,
            batch_rows=24,
            learning_rate=0.01,
            decay="cosine",
            warmup_epochs=0.7,
            clip_norm=5.0,
            ema=0.9,
            importance_samples=5,
            checkpoint_s=0,
        ),
    )


def forked(work: Callable[[], object]) -> int:
    """A process that does the work and exits; its id."""
    if pid := os.fork():
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def train(job: Job, rank: int, ranks: int) -> None:
    """One rank of a training; it notes down how far it came."""
    place = Place(rank, ranks)
    if ranks > 1:
        distributed.init_process_group("gloo", init_method=f"file://{job.path}/meeting", rank=rank, world_size=ranks)
        progress, _ = worker.run(job, place=place, prepare=DistributedDataParallel)
    else:
        progress, _ = worker.run(job, place=place)
    (job.path / f"rank-{rank}.json").write_text(json.dumps(asdict(progress.without_times())))


class Attempt:
    """The processes of a training, at work."""

    def __init__(self, job: Job, ranks: int) -> None:
        (job.path / "meeting").unlink(missing_ok=True)
        self.job = job
        self.pids = [forked(lambda rank=rank: train(job, rank, ranks)) for rank in range(ranks)]

    def over(self) -> bool:
        """Whether all have ended by themselves. Raises RuntimeError if one failed."""
        for pid in list(self.pids):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended and status:
                self.kill()
                raise RuntimeError(f"a training failed with status {status}")
            if ended:
                self.pids.remove(pid)
        return not self.pids

    def wait(self, until: Callable[[], bool]) -> bool:
        """Until then, or until all is over: whether it is."""
        while not (done := self.over()) and not until():
            time.sleep(0.0005)
        return done

    def kill(self) -> None:
        """The first of them, then the others, which may wait for it for long."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def copy(job: Job, name: str) -> Job:
    """The same training in another folder."""
    folder = job.path.with_name(name)
    folder.mkdir()
    shutil.copy(job.path / "features.json", folder)
    return replace(job, directory=str(folder))


def newest(job: Job) -> Path | None:
    """The newest checkpoint that is whole."""
    return next(checkpoints.whole(job.path), None)


def begun(job: Job) -> bool:
    """Whether a checkpoint is half written."""
    return any((job.path / "checkpoints").glob("*.partial"))


def shoot(job: Job, way: str, *, ranks: int, seconds: float) -> tuple[bool, bool]:
    """Go on with a training and kill it: whether it came through before, and whether it was writing."""
    attempt = Attempt(job, ranks)
    deadline = time.monotonic() + random.uniform(0, seconds)
    if attempt.wait(lambda: time.monotonic() > deadline):
        return True, False
    if way == WAYS[1]:
        if attempt.wait(lambda: not begun(job)) or attempt.wait(lambda: begun(job)):
            return True, False
        time.sleep(random.uniform(0, 0.01))
    attempt.kill()
    if way == WAYS[2] and (path := newest(job)):
        torn = random.choice(sorted(path.iterdir()))
        os.truncate(torn, torn.stat().st_size // 2)
    return False, begun(job)


def flip(job: Job) -> None:
    """Change one bit of one weight in the newest checkpoint, and seal it again."""
    path = newest(job)
    assert path is not None
    weights = load_file(path / WEIGHTS)
    weights["mean.weight"].view(torch.int32)[0, 0] ^= 1 << 12
    save_file(weights, path / WEIGHTS)
    checkpoint.seal(path)


def whole(job: Job, ranks: int) -> tuple[str, float]:
    """Train to the end: the model's digest, and how long it took."""
    started = time.monotonic()
    Attempt(job, ranks).wait(lambda: False)
    return checkpoint.digest(job.path / "model"), time.monotonic() - started


def agreed(job: Job, ranks: int) -> bool:
    """Whether every rank has stopped at the same epoch, with the same best one and the same history."""
    return len({(job.path / f"rank-{rank}.json").read_text() for rank in range(ranks)}) == 1


def main() -> int:
    """Print a table, then a JSON line; 1 if any bit differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    random.seed(chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        return matrix(Path(folder), kills=chosen.kills, ranks=chosen.ranks)


def matrix(folder: Path, *, kills: int, ranks: int) -> int:
    """Kill so many times, in each way by turns."""
    source = folder / "source"
    source.mkdir()
    os.waitpid(forked(lambda: prepare(source)), 0)
    job = described(source)
    reference = copy(job, "whole")
    expected, seconds = whole(reference, ranks)
    alike = agreed(reference, ranks)
    killed, writing, ended, equal = Counter[str](), Counter[str](), 0, 0
    while killed.total() < kills:
        one = copy(job, f"killed-{ended}")
        through = False
        while not through:
            way = WAYS[killed.total() % len(WAYS)]
            if killed.total() == kills:
                whole(one, ranks)
                break
            through, midst = shoot(one, way, ranks=ranks, seconds=seconds / 3)
            killed[way] += not through
            writing[way] += midst
        ended += 1
        equal += checkpoint.digest(one.path / "model") == expected
        alike &= agreed(one, ranks)
        shutil.rmtree(one.path)
    for way in WAYS:
        print(f"killed {way:<32} {killed[way]:>4} times, {writing[way]:>4} with a checkpoint half written")
    bit = meta(copy(job, "flipped"), ranks, expected)
    print(f"{equal} of {ended} trainings ended with the bits of the one that was never killed ({seconds:.1f} s)")
    print(f"every rank stopped alike: {alike}; one bit changed in a checkpoint is seen: {bit}")
    facts = {"kills": killed.total(), "writing": writing.total(), "trainings": ended, "equal": equal}
    print(json.dumps({**facts, "ranks": ranks, "alike": alike, "bit_seen": bit}))
    return 0 if equal == ended and alike and bit else 1


def meta(job: Job, ranks: int, expected: str) -> bool:
    """Whether the comparison can fail."""
    attempt = Attempt(job, ranks)
    assert not attempt.wait(lambda: newest(job) is not None), "through before its first checkpoint was seen"
    attempt.kill()
    flip(job)
    return whole(job, ranks)[0] != expected


if __name__ == "__main__":
    sys.exit(main())
