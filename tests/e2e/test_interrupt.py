"""Ctrl-C and SIGTERM: the real command, stopped at its stages, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from harness import LATENTPIPE, small_csv

from pipeline.training import checkpoints

TOML = """
name = "small"
[data]
uri = "small.csv"
[columns]
id = {{ type = "int64", role = "id" }}
height = {{ type = "float64", likelihood = "gaussian", nullable = true }}
city = {{ type = "string", likelihood = "categorical", nullable = true }}
[model]
latent = 2
hidden = [8]
[train]
epochs = {epochs}
patience = 100000
batch_rows = 8
checkpoint_s = 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run whose training would last for minutes."""
    small_csv(tmp_path / "small.csv", rows=400)
    (tmp_path / "run.toml").write_text(TOML.format(epochs=100_000))
    return tmp_path


def start(folder: Path) -> subprocess.Popen[str]:
    """The run, in a process group of its own, its output in files."""
    with (folder / "stdout").open("w") as stdout, (folder / "stderr").open("w") as stderr:
        command = [LATENTPIPE, "run", "run.toml", "--json"]
        return subprocess.Popen(command, cwd=folder, stdout=stdout, stderr=stderr, text=True, start_new_session=True)


def wait_for(what: str, folder: Path, *, timeout_s: float = 120) -> None:
    """Until stderr holds the text."""
    deadline = time.monotonic() + timeout_s
    while what not in (folder / "stderr").read_text():
        assert time.monotonic() < deadline, (folder / "stderr").read_text()
        time.sleep(0.1)


def stop(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, float, list[psutil.Process]]:
    """Send the signal as a terminal or a supervisor would; exit code, seconds, and descendants still alive."""
    family = psutil.Process(process.pid).children(recursive=True)
    began = time.monotonic()
    process.send_signal(number)
    code = process.wait(timeout=30)
    took = time.monotonic() - began
    _, alive = psutil.wait_procs(family, timeout=5)
    return code, took, alive


def check(folder: Path, code: int, took_s: float, alive: list[psutil.Process]) -> None:
    """What a stopped run owes: speed, its signal's exit code, no orphan, nothing half-published, a way to go on."""
    stderr = (folder / "stderr").read_text()
    assert took_s < 10
    assert not alive
    assert "Traceback" not in stderr
    assert "goes on from the last checkpoint" in stderr
    assert json.loads((folder / "stdout").read_text().splitlines()[-1])["exit_code"] == code
    assert not (folder / "workspace/latents").exists()
    assert not list((folder / "workspace").rglob("_attempts/*/*"))


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The run; whatever happens, nothing of it outlives the block."""
    process = start(folder)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    ("number", "code", "stage"), [(signal.SIGTERM, 143, "epoch"), (signal.SIGINT, 130, "ingest    done")]
)
def test_a_signal_ends_the_run_quickly_and_cleanly(folder: Path, number: signal.Signals, code: int, stage: str) -> None:
    """Within ten seconds, with the signal's exit code, no orphan and nothing half-published."""
    with running(folder) as process:
        wait_for(stage, folder)
        ended, took_s, alive = stop(process, number)
    assert ended == code
    check(folder, code, took_s, alive)


def test_the_next_run_goes_on_where_ctrl_c_stopped_the_last_one(folder: Path) -> None:
    """The same command ingests nothing again, and its training resumes from the newest checkpoint."""
    with running(folder) as process:
        wait_for("epoch", folder)
        time.sleep(3)
        ended, took_s, alive = stop(process, signal.SIGINT)
    assert ended == 130
    check(folder, 130, took_s, alive)
    [training] = folder.glob("workspace/training/*")
    left = next(checkpoints.whole(training))
    done = json.loads((left / checkpoints.PROGRESS).read_text())["progress"]["epoch"]
    with running(folder):
        wait_for("epoch", folder)
    stderr = (folder / "stderr").read_text()
    assert "unchanged, v000001 stands" in stderr
    assert int(stderr.split("epoch ")[1].split("/")[0]) > done > 1
