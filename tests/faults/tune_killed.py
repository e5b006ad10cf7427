"""Kill -9 and Ctrl-C a real `latentpipe tune`, run it again: it must end as if never interrupted. By hand.

python tests/faults/tune_killed.py      about five minutes on 2 cores
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "train.patience": 1000,
    "tune.trials": 3,
    "tune.epochs": 80,
    "tune.grace": 40,
    "train.batch_rows": 8,
    "tune.at_once": 1,
}
"""One trial at a time: then who is stopped early does not depend on the machine."""
ENDED, BEGUN = "trials/*/trial.json", "trials/*/checkpoints/*-step-????????"


def tune(workspace: Path) -> subprocess.Popen[str]:
    """The command on the bundled digits."""
    changes = {**SETTINGS, "workspace": workspace}
    sets = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "pipeline", "tune", str(ROOT / "deploy/runs/demo.toml"), "--json", *sets]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def found(workspace: Path, pattern: str) -> list[Path]:
    """Files of the tuning."""
    return sorted(workspace.glob(f"tuning/*/{pattern}"))


def interrupted(workspace: Path, number: signal.Signals) -> dict[Path, bytes]:
    """Stop the command once one trial is done and another has a checkpoint; what is done by then."""
    process = tune(workspace)
    while not (found(workspace, ENDED) and len({path.parents[1] for path in found(workspace, BEGUN)}) > 1):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    began = time.monotonic()
    process.send_signal(number)
    process.communicate()
    took = time.monotonic() - began
    _, alive = psutil.wait_procs(family, timeout=10)
    print(f"{number.name}: exit {process.returncode} in {took:.1f} s, left alive: {alive}", flush=True)
    assert not alive or number == signal.SIGKILL  # Ray's own agents notice within a minute
    return {path: path.read_bytes() for path in found(workspace, ENDED)}


def table(workspace: Path) -> list[dict[str, Any]]:
    """Run it to its end; the table but for its times."""
    stdout, stderr = tune(workspace).communicate()
    answer = json.loads(stdout.splitlines()[-1])
    assert answer.get("trials"), stderr
    print(stderr.splitlines()[-1], flush=True)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in answer["trials"]]


def main() -> None:
    """Compare interrupted tunings with one that was not."""
    os.environ["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        whole = table(Path(folder) / "whole")
        print(json.dumps([[row["state"], row["epochs"], row["score"]] for row in whole]), flush=True)
        for number in (signal.SIGKILL, signal.SIGINT):
            workspace = Path(folder) / number.name
            kept = interrupted(workspace, number)
            begun = [path for path in found(workspace, BEGUN) if path.parents[1] / "trial.json" not in kept]
            epoch = max(int(path.name.split("-")[3]) for path in begun)
            assert table(workspace) == whole
            print(f"{number.name}: as if never interrupted; a trial went on from epoch {epoch}", flush=True)


if __name__ == "__main__":
    main()
