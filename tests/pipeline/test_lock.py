"""lock: one holder at a time, whatever becomes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline import lock
from pipeline.errors import InfrastructureError

HOLD = """
import sys
from pathlib import Path
from pipeline.lock import held
with held(Path(sys.argv[1]), waiting=lambda text: print("waits:", text, flush=True)):
    print("holds", flush=True)
    sys.stdin.readline()
"""
STRANGER = {"host": "elsewhere 1", "pid": 1}


def silent(text: str) -> None:
    """Nobody is to be waited for here."""
    raise AssertionError(text)


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the folder's lock, or waits for it, until it is sent a line."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_second_process_waits_for_the_first_and_says_for_whom(tmp_path: Path) -> None:
    """It has the lock when the first one gives it back."""
    with holder(tmp_path) as first, holder(tmp_path) as second:
        told = {line(first): first, line(second): second}
        holding, waiting = told.pop("holds"), next(iter(told.values()))
        assert next(iter(told)).startswith(f"waits: process {holding.pid} on ")
        holding.communicate("\n")
        while (said := line(waiting)) != "holds":
            assert said.startswith("waits:")
        waiting.communicate("\n")


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    """kill -9 leaves a lock behind; who comes next takes it without waiting."""
    with holder(tmp_path) as first:
        assert line(first) == "holds"
        first.kill()
    with lock.held(tmp_path, waiting=silent):
        assert [path.name for path in tmp_path.iterdir()] == ["lock-000002"]


def test_a_silent_holder_elsewhere_is_outdone_and_a_beating_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is whether its beat changes while one looks, not what any clock says."""
    monkeypatch.setattr(lock, "DEAD_S", 0.3)
    monkeypatch.setattr(lock, "LOOK_S", 0.01)
    other = tmp_path / "lock-000007"
    other.write_text(json.dumps(STRANGER))
    beats = []

    def waiting(text: str) -> None:
        assert text.startswith("process 1 on elsewhere")
        if len(beats) < 100:
            beats.append(text)
            other.write_text(json.dumps({**STRANGER, "beat": len(beats)}))

    with lock.held(tmp_path, waiting=waiting) as check:
        assert len(beats) == 100
        check()
        (tmp_path / "lock-000009").write_text(json.dumps(STRANGER))
        with pytest.raises(InfrastructureError, match="process 1 on elsewhere has taken over this training"):
            check()


@pytest.mark.parametrize("torn", ["", '{"host": "else', "[]", "\0\0\0"])
def test_a_torn_lock_is_taken_over_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str) -> None:
    """One that was being written when the power went."""
    monkeypatch.setattr(lock, "DEAD_S", 0.05)
    monkeypatch.setattr(lock, "LOOK_S", 0.01)
    (tmp_path / "lock-000001").write_text(torn)
    with lock.held(tmp_path, waiting=lambda text: None):
        assert json.loads((tmp_path / "lock-000002").read_text())["pid"] == os.getpid()


def test_of_many_at_once_one_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads, each wanting the lock a few times: never two inside."""
    monkeypatch.setattr(lock, "LOOK_S", 0.001)
    inside, seen = threading.Semaphore(1), []

    def work() -> None:
        for _ in range(5):
            with lock.held(tmp_path, waiting=lambda text: None):
                alone = inside.acquire(blocking=False)
                seen.append(alone)
                if alone:
                    inside.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 40
