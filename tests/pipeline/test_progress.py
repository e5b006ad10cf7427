"""What a person sees while it runs, and what they are spared."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import progress
from pipeline.progress import Stage, native_noise_to, timed


def python(program: str, *arguments: str | Path, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """A program run by a fresh interpreter."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60, check=False)


def on_a_terminal(program: str, *arguments: str | Path) -> str:
    """What a program writes to a stderr that is a terminal."""
    ours, theirs = os.openpty()
    try:
        ended = python(program, *arguments, stderr=theirs)
        written = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert ended.returncode == 0, written
    return written.replace("\r\n", "\n")


STAGE = """
from pipeline.progress import Stage
with Stage("encode") as stage:
    stage.update("half way")
    stage.count(1500, 3000)
"""


def test_without_a_terminal_there_are_plain_lines() -> None:
    """One line at the end with the last word, none of a terminal's codes, nothing on stdout."""
    ended = python(STAGE)
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("encode    done in 0.0 s | 1,500/3,000 rows, ")
    assert line.endswith(" s left")
    assert ended.stderr.isprintable() is False
    assert ended.stderr.removesuffix("\n").isprintable()


def test_on_a_terminal_there_is_one_live_line() -> None:
    """Each word overwrites the one before; the last one stays."""
    written = on_a_terminal(STAGE)
    steps = written.split("\r\x1b[2K")
    assert steps[:3] == ["", "encode    ...", "encode    half way"]
    assert steps[3].startswith("encode    1,500/3,000 rows, ")
    assert steps[4].startswith("encode    done in 0.0 s | 1,500/3,000 rows")
    assert written.count("\n") == 1
    assert written.endswith("\n")


def test_a_plain_line_comes_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log is not flooded, and not silent either."""
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.05)
    with Stage("train") as stage:
        stage.update("one")
        stage.update("two")
        time.sleep(0.06)
        stage.update("three")
        stage.update("four")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train     three"
    assert lines[1].startswith("train     done in 0.1 s | four")
    assert len(lines) == 2


def test_a_stage_that_fails_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """`stopped`, with how far it was; the error passes through."""

    def fails() -> None:
        with Stage("ingest") as stage:
            stage.update("3 rows")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert capsys.readouterr().err == "ingest    stopped in 0.0 s | 3 rows\n"


@pytest.mark.parametrize(("done", "total", "words"), [(0, 0, "0 rows, 0 rows/s"), (0, 10, "0/10 rows, 0 rows/s")])
def test_counting_nothing_divides_by_nothing(
    capsys: pytest.CaptureFixture[str], done: int, total: int, words: str
) -> None:
    """No time left is told before the first row."""
    with Stage("encode") as stage:
        stage.count(done, total)
    assert capsys.readouterr().err.rstrip().endswith(f"| {words}")


def test_timed_notes_how_long(tmp_path: Path) -> None:
    """Also when the block fails."""
    seconds: dict[str, float] = {}
    with timed(seconds, "nap"):
        time.sleep(0.06)
    with pytest.raises(ZeroDivisionError), timed(seconds, "crash"):
        raise ZeroDivisionError
    assert seconds == {"nap": 0.1, "crash": 0.0}


NOISE = """
import os, sys
from pathlib import Path
from pipeline.progress import native_noise_to, Stage

def shout(text):
    os.write(2, text.encode())

sys.stderr.write("before\\n")
sys.stderr.flush()
shout("native before\\n")
try:
    with native_noise_to(Path(sys.argv[1])):
        shout("native inside\\n")
        sys.stderr.write("python inside\\n")
        os.system("echo child inside >&2")
        with Stage("train") as stage:
            stage.update("word")
        if len(sys.argv) > 2:
            raise ZeroDivisionError
except ZeroDivisionError:
    pass
shout("native after\\n")
print("after", file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("fails", [False, True])
def test_native_noise_goes_to_a_file_and_python_reaches_the_person(tmp_path: Path, fails: bool) -> None:
    """What C code or a child writes to descriptor 2 is in the file; sys.stderr is as before, inside and afterwards."""
    log = tmp_path / "deep/native.log"
    ended = python(NOISE, log, *["fail"] * fails)
    assert ended.returncode == 0, ended.stderr
    assert log.read_text() == "native inside\nchild inside\n"
    lines = ended.stderr.splitlines()
    assert lines.pop(3).startswith("train     done in 0.0 s | word")
    assert lines == ["before", "native before", "python inside", "native after", "after"]


def test_the_live_line_stays_live_while_noise_is_kept_away(tmp_path: Path) -> None:
    """On a terminal, the stand-in for sys.stderr is that terminal."""
    written = on_a_terminal(NOISE, tmp_path / "native.log")
    assert "\r\x1b[2Ktrain     word" in written
    assert "native inside" not in written
    assert written.endswith("native after\nafter\n")


def test_noise_of_several_blocks_is_appended(tmp_path: Path) -> None:
    """A second block does not wipe out what the first one caught; descriptors are given back."""
    program = """
import os, sys
from pathlib import Path
from pipeline.progress import native_noise_to
before = len(os.listdir("/proc/self/fd"))
for i in range(3):
    with native_noise_to(Path(sys.argv[1])):
        os.write(2, f"{i}\\n".encode())
print(len(os.listdir("/proc/self/fd")) - before)
"""
    assert python(program, tmp_path / "log").stdout == "0\n"
    assert (tmp_path / "log").read_text() == "0\n1\n2\n"


def test_a_stderr_that_is_no_descriptor_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Inside pytest, a notebook or a server there is nothing to divert."""
    with native_noise_to(tmp_path / "log"):
        sys.stderr.write("seen\n")
    assert capsys.readouterr().err == "seen\n"
    assert not (tmp_path / "log").exists()
