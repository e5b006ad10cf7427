"""kill -9 at real trainings, over and over, and whether they end with the bits of one that nobody touched.

    python tests/faults/train.py [--kills 24] [--seed 0] [--points worker,driver,node,elastic,drivers]

Every training is `latentpipe train` with two workers. Killed are a worker (Ray starts the group anew), the driver (with
its embedded Ray; the command is run again) and the second node of a cluster (another one joins): at any time, as soon
as a checkpoint is there, and while one is being written. Then one node is lost for good, and two drivers want the same
training. Prints a table, and last one JSON line; writes both to results/train.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))
from harness import LATENTPIPE, latentpipe, small_csv
from nodes import head, second

TOML = """
name = "small"
[data]
uri = "small.csv"
part_rows = 5000
[columns]
id = { type = "int64", role = "id" }
height = { type = "float64", likelihood = "gaussian", nullable = true }
smoker = { type = "bool", likelihood = "bernoulli" }
city = { type = "string", likelihood = "categorical", nullable = true }
[model]
latent = 4
hidden = [64, 64]
[train]
epochs = 60
patience = 60
batch_rows = 250
num_workers = 2
checkpoint_s = 0.5
max_restarts = 1000
"""
RESULTS = Path(__file__).parent / "results" / "train.md"
POINTS = ("worker", "driver", "node", "elastic", "drivers")
MOMENTS = ("any time", "checkpoint there", "checkpoint written")
KILLS_PER_TRAINING = 3
NOTICED_SOON = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass
class Training:
    """One training, killed until it was through."""

    point: str
    moment: str
    kills: int = 0
    resumed: list[int] = field(default_factory=list)
    """Epochs that the newest checkpoint held at each kill; 0: there was none."""
    gone_s: list[float] = field(default_factory=list)
    """Seconds from the driver's death to that of the last process that works for it."""
    equal: bool = False


class Grounds:
    """A folder with a prepared table, where the same training is run again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        small_csv(folder / "small.csv", rows=20_000)
        (folder / "run.toml").write_text(TOML)
        assert latentpipe("ingest", "run.toml", cwd=folder).code == 0
        began = time.monotonic()
        self.digest = self.finished()["digest"]
        self.took_s = time.monotonic() - began

    def cleared(self) -> None:
        """As if nothing had been trained."""
        shutil.rmtree(self.folder / "workspace" / "training", ignore_errors=True)

    def finished(self, *settings: str) -> dict[str, Any]:
        """The training's record, once it has run to its end."""
        ended = latentpipe("train", "run.toml", "--json", *sets(settings), cwd=self.folder, timeout_s=600)
        assert ended.code == 0, ended.stderr
        return ended.answer

    @contextmanager
    def driver(self, *settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """The command, under way."""
        with (self.folder / "stderr").open("ab") as stderr:
            command = [LATENTPIPE, "train", "run.toml", "--json", *sets(settings)]
            process = subprocess.Popen(
                command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
            )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def checkpoints(self) -> set[str]:
        """Names of what lies in the folder of checkpoints."""
        return {path.name for path in self.folder.glob("workspace/training/*/checkpoints/*")}

    def epoch(self) -> int:
        """Epochs done by the newest checkpoint."""
        names = [name for name in self.checkpoints() if not name.endswith(".partial")]
        return max((int(re.findall(r"epoch-(\d+)", name)[0]) for name in names), default=0)

    def moment(self, kind: str, process: subprocess.Popen[bytes], luck: random.Random) -> bool:
        """Wait for it; False if the training was over before."""
        if kind == "any time":
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=luck.uniform(0, self.took_s))
            return process.poll() is None
        seen, left = self.checkpoints(), luck.randint(1, 4)
        while process.poll() is None:
            now = self.checkpoints()
            new = {name for name in now - seen if name.endswith(".partial") == (kind == "checkpoint written")}
            seen, left = now, left - bool(new)
            if left <= 0:
                return True
            time.sleep(0.0005)
        return False


def sets(settings: tuple[str, ...]) -> list[str]:
    """As arguments of the command."""
    return [word for setting in settings for word in ("--set", setting)]


def ranks(process: psutil.Process) -> list[psutil.Process]:
    """The training's workers among a process's descendants."""
    found = []
    for child in process.children(recursive=True):
        with suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(child.cmdline()):
                found.append(child)
    return found


def working(process: psutil.Process) -> list[psutil.Process]:
    """A process's descendants, but for Ray's two agents: those idle for a minute, to tell a head that is gone."""
    found = []
    for child in process.children(recursive=True):
        with suppress(psutil.Error):
            if "Agent" not in " ".join(child.cmdline()):
                found.append(child)
    return found


def kill_workers(grounds: Grounds, training: Training, kills: int, luck: random.Random) -> None:
    """One of the two at a time; the driver and Ray go on."""
    with grounds.driver() as process:
        while training.kills < kills and grounds.moment(training.moment, process, luck):
            if workers := ranks(psutil.Process(process.pid)):
                training.resumed.append(grounds.epoch())
                with suppress(psutil.NoSuchProcess):
                    luck.choice(workers).kill()
                training.kills += 1
        assert process.wait(timeout=600) == 0, (grounds.folder / "stderr").read_text()


def kill_drivers(grounds: Grounds, training: Training, kills: int, luck: random.Random) -> None:
    """The command itself; it is run again when nothing of its Ray is left."""
    while training.kills < kills:
        with grounds.driver() as process:
            if not grounds.moment(training.moment, process, luck):
                return
            family = working(psutil.Process(process.pid))
            training.resumed.append(grounds.epoch())
            process.kill()
            training.kills += 1
            began = time.monotonic()
            _, alive = psutil.wait_procs(family, timeout=30)
            training.gone_s.append(round(time.monotonic() - began, 1))
            assert not alive, f"survive their driver: {alive}"


def kill_nodes(grounds: Grounds, training: Training, kills: int, luck: random.Random) -> None:
    """The second raylet and all its workers; another node joins, and the driver goes on."""
    with ExitStack() as stack:
        address = stack.enter_context(head(grounds.folder / "head.log"))
        node = stack.enter_context(second(grounds.folder / "second.log", address))
        process = stack.enter_context(grounds.driver(f"cluster.address={address}"))
        while training.kills < kills and grounds.moment(training.moment, process, luck):
            training.resumed.append(grounds.epoch())
            os.killpg(node.pid, signal.SIGKILL)
            training.kills += 1
            node = stack.enter_context(second(grounds.folder / "second.log", address))
        assert process.wait(timeout=600) == 0, (grounds.folder / "stderr").read_text()


KILLERS: dict[str, Callable[[Grounds, Training, int, random.Random], None]] = {
    "worker": kill_workers,
    "driver": kill_drivers,
    "node": kill_nodes,
}


def killed(grounds: Grounds, point: str, moment: str, kills: int, luck: random.Random) -> Training:
    """One training, killed so often, or until it was through; and run to its end."""
    grounds.cleared()
    training = Training(point, moment)
    KILLERS[point](grounds, training, kills, luck)
    training.equal = grounds.finished()["digest"] == grounds.digest
    return training


def elastic(grounds: Grounds) -> dict[str, Any]:
    """One of two nodes is lost for good: the epochs by their workers, and the gap between the two kinds."""
    grounds.cleared()
    with head(grounds.folder / "head.log") as address, second(grounds.folder / "second.log", address) as node:
        settings = (f"cluster.address={address}", "train.num_workers=[1, 2]")
        with grounds.driver(*settings) as process:
            assert grounds.moment("checkpoint there", process, random.Random(0))
            os.killpg(node.pid, signal.SIGKILL)
            assert process.wait(timeout=600) == 0, (grounds.folder / "stderr").read_text()
    record = grounds.finished(*settings)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{grounds.folder}/workspace/mlflow.db")
    epochs = client.get_metric_history(record["mlflow_run"], "workers")
    ends = {number: [it.timestamp for it in epochs if it.value == number] for number in (2, 1)}
    return {
        "epochs": record["epochs"],
        "with_two_workers": len(ends[2]),
        "with_one": len(ends[1]),
        "epoch_to_epoch_s": (min(ends[1]) - max(ends[2])) / 1000,
    }


def drivers(grounds: Grounds) -> dict[str, Any]:
    """Two commands for one training at the same time: one trains, the other waits and has its result."""
    grounds.cleared()
    command = [LATENTPIPE, "train", "run.toml", "--json"]
    both = [subprocess.Popen(command, cwd=grounds.folder, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    records = [json.loads(process.communicate(timeout=600)[0].splitlines()[-1]) for process in both]
    return {
        "trained": sum(record["new"] for record in records),
        "bit_equal": [record["digest"] == grounds.digest for record in records],
    }


def table(trainings: list[Training]) -> list[str]:
    """A line per point and moment."""
    lines = ["| killed | when | kills | with a checkpoint | trainings | bit-equal |", "|---|---|---|---|---|---|"]
    for point, moment in dict.fromkeys((it.point, it.moment) for it in trainings):
        mine = [it for it in trainings if (it.point, it.moment) == (point, moment)]
        kills, resumed = sum(it.kills for it in mine), sum(epoch > 0 for it in mine for epoch in it.resumed)
        lines.append(f"| {point} | {moment} | {kills} | {resumed} | {len(mine)} | {sum(it.equal for it in mine)} |")
    return lines


def main() -> None:
    """Kill, tell, write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=27)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--points", default=",".join(POINTS))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that clusters end with us
    points, luck, began = arguments.points.split(","), random.Random(arguments.seed), time.monotonic()
    os.environ.update({**NOTICED_SOON, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    with tempfile.TemporaryDirectory() as folder:
        grounds = Grounds(Path(folder))
        print(f"untouched: {grounds.took_s:.1f} s, {grounds.digest}", flush=True)
        plan = [(point, moment) for moment in MOMENTS for point in KILLERS if point in points]
        trainings: list[Training] = []
        for number in range(-(-arguments.kills // KILLS_PER_TRAINING) if plan else 0):
            trainings.append(killed(grounds, *plan[number % len(plan)], KILLS_PER_TRAINING, luck))
            print(f"{time.monotonic() - began:.0f} s {trainings[-1]}", flush=True)
        facts: dict[str, Any] = {"trainings": [asdict(it) for it in trainings], "untouched_s": round(grounds.took_s, 1)}
        facts |= {"elastic": elastic(grounds)} if "elastic" in points else {}
        facts |= {"drivers": drivers(grounds)} if "drivers" in points else {}
    facts |= {
        "kills": sum(it.kills for it in trainings),
        "bit_equal": sum(it.equal for it in trainings),
        "of": len(trainings),
        "seconds": round(time.monotonic() - began),
    }
    where = f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, seed {arguments.seed}"
    lines = [f"# Trainings killed ({where})", "", *table(trainings), "", json.dumps(facts)]
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[2:]))
    sys.exit(not all(it.equal for it in trainings))


if __name__ == "__main__":
    main()
