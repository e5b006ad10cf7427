"""The scene of one fault: a copy of the grounds, the encodes that run there, who polls it, and the judge at the end."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from stat import S_ISDIR
from types import TracebackType
from typing import Any, Self

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from faults.cases import Found
from faults.disks import small_disk
from faults.grounds import MODES, NAME, Grounds, arguments, read
from harness import LATENTPIPE, Finished

HERE = Path(__file__).parent
TAG = "LATENTPIPE_FAULT"
LOOK_S = 0.0005
PATIENCE_S = 300


class Missed(AssertionError):
    """The run was over before the moment for its fault came."""


class Driver:
    """An encode under way."""

    def __init__(self, scene: Scene, command: list[str]) -> None:
        self.scene, self.folder = scene, scene.folder / f"run-{uuid.uuid4().hex[:8]}"
        self.folder.mkdir()
        with (self.folder / "stdout").open("w") as stdout, (self.folder / "stderr").open("w") as stderr:
            self.process = psutil.Popen(
                command, cwd=scene.folder, env=scene.environment, stdout=stdout, stderr=stderr, start_new_session=True
            )

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return (self.folder / "stderr").read_text()

    def ended(self) -> Finished:
        """Once it is over."""
        code = self.process.wait(timeout=PATIENCE_S)
        return Finished(code, (self.folder / "stdout").read_text(), self.stderr)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for it. Raises Missed if the run ends first."""
        while not condition():
            if self.process.poll() is not None:
                raise Missed(f"ended with {self.process.returncode} before: {self.stderr}")
            time.sleep(LOOK_S)

    def workers(self) -> list[psutil.Process]:
        """The processes that may encode: Ray's, or itself."""
        if self.scene.mode == "threads":
            return [self.process]
        return [it for it in self.scene.family() if told(it).startswith("ray::")]

    def writer(self, share: float) -> psutil.Process:
        """A worker, stopped in the midst of a file once this share of the output is staged."""
        self.until(self.scene.staged)
        workers = self.workers()
        while True:
            self.until(lambda: sum(self.scene.staged().values()) > share * self.scene.grounds.bytes)
            signalled(workers, signal.SIGSTOP)
            busy = [it for it in workers if self.scene.writes(it)]
            signalled([it for it in workers if it not in busy[:1]], signal.SIGCONT)
            if busy:
                return busy[0]
            time.sleep(LOOK_S)

    def kill(self) -> None:
        """SIGKILL to the driver alone."""
        self.process.kill()
        self.process.wait()


class Scene:
    """Where one fault happens; with a disk, that part of the workspace has one of so many bytes of its own."""

    def __init__(self, grounds: Grounds, folder: Path, mode: str, disk: tuple[str, int] | None = None) -> None:
        self.grounds, self.folder, self.mode, self.small = grounds, folder, mode, disk
        self.until_end = ExitStack()
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment = {**os.environ, **token, TAG: str(folder)}
        self.root = folder / "workspace" / "latents" / NAME
        shutil.copytree(grounds.folder / "workspace", folder / "workspace")
        shutil.copy(grounds.folder / "run.toml", folder)

    def __enter__(self) -> Self:
        if self.small is not None:
            where, size = self.small
            self.disk = self.until_end.enter_context(small_disk(self.folder / "workspace" / where, size))
        command = [sys.executable, HERE / "poller.py", self.root, self.folder / "story.json"]
        self.poller = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.poller.stdout is not None
        assert self.poller.stdout.readline() == b"looking\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._poller_ended()
        left = self.family()
        signalled(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=30)
        self.until_end.close()

    def start(self, *settings: str, mode: str = "", stop: tuple[str, str] | None = None) -> Driver:
        """An encode; with a point and a signal, one that signals itself there."""
        command = [sys.executable, str(HERE / "stopping.py"), *stop] if stop else [LATENTPIPE]
        return Driver(self, [*command, *arguments("encode", *MODES[mode or self.mode], *settings)])

    def run(self, *settings: str) -> Finished:
        """An encode that nobody disturbs, to its end."""
        return self.start(*settings).ended()

    def family(self) -> list[psutil.Process]:
        """Every process that was started here, whoever is its parent by now."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(TAG) == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def staged(self) -> dict[Path, int]:
        """Bytes of the files that were begun where no reader looks."""
        return {path: found.st_size for path, found in self._below("*/*/*.parquet")}

    def attempts(self) -> set[Path]:
        """The directories of tries under way, or dead."""
        begun = self._below("*/*")
        return {path for path, found in begun if S_ISDIR(found.st_mode) and path.parent.name != "preflight"}

    def _below(self, pattern: str) -> list[tuple[Path, os.stat_result]]:
        """What lies in `_attempts`, where others delete meanwhile."""
        there = []
        with suppress(FileNotFoundError):
            for path in (self.root / "_attempts").glob(pattern):
                with suppress(FileNotFoundError):
                    there.append((path, path.stat()))
        return there

    def writes(self, process: psutil.Process) -> bool:
        """Whether it has a file of an attempt open."""
        with suppress(psutil.Error):
            return any("/_attempts/" in it.path for it in process.open_files())
        return False

    def published(self) -> list[str]:
        """Names of the snapshots that are there."""
        return sorted(path.parent.name for path in self.root.glob("v*/_manifest.json"))

    def old_stands(self) -> str:
        """What is wrong with the first snapshot, or beside it: nothing was published by the run that failed."""
        found = read(self.root)
        if [it["manifest"] for it in found["versions"]] != [self.grounds.old] or found["problems"]:
            return f"after the fault: {found}"
        return ""

    def judge(self) -> Found:
        """The old snapshot and the new one, whole, each row once, as if nothing had happened; and nothing since."""
        found = read(self.root)
        problems: list[str] = found["problems"]
        if [it["manifest"] for it in found["versions"][:-1]] != [self.grounds.old]:
            problems.append(f"versions {[it['version'] for it in found['versions']]}")
        newest = self.root / found["versions"][-1]["version"]
        manifest = json.loads((newest / "_manifest.json").read_bytes())
        if manifest["run_key"] != self.grounds.key:
            problems.append("the newest snapshot is of another key")
        if tuple(sorted(part["sha256"] for part in manifest["files"])) != self.grounds.files:
            problems.append("other bytes than of an undisturbed run")
        problems += self._again()
        if json.loads((self.root / "_latest.json").read_bytes())["snapshot"] != newest.name:
            problems.append("_latest.json does not name the newest snapshot")
        seen = self._seen()
        lost, duplicated = counted(self.grounds.ids, [newest / part["path"] for part in manifest["files"]])
        return Found(lost=lost, duplicated=duplicated, torn=len(seen), failed="; ".join([*problems, *seen]))

    def _again(self) -> list[str]:
        """The same command once more changes nothing, not even a time of a file."""
        before = self.tree()
        ended = self.run()
        if ended.code or ended.answer["new"]:
            return [f"run again: exit {ended.code}, {ended.stdout} {ended.stderr}"]
        return [] if self.tree() == before else ["run again, it changed files"]

    def tree(self) -> dict[str, tuple[int, int, int]]:
        """All that is published, and when it was written."""
        files = (it for it in self.root.glob("v*/**/*") if it.is_file())
        return {str(it): (it.stat().st_ino, it.stat().st_size, it.stat().st_mtime_ns) for it in files}

    def _seen(self) -> list[str]:
        """What the poller should not have seen."""
        self._poller_ended()
        story: dict[str, Any] = json.loads((self.folder / "story.json").read_bytes())
        assert story["polls"] > 1
        wrong = [] if story["newest"] == self.published()[-2:] else [f"the newest was in turn {story['newest']}"]
        return [*story["problems"], *wrong]

    def _poller_ended(self) -> None:
        assert self.poller.stdin is not None
        self.poller.stdin.close()
        self.poller.wait(timeout=PATIENCE_S)


def counted(wanted: pa.ChunkedArray, files: list[Path]) -> tuple[int, int]:
    """How many of these ids are in none of the files, and how many are there too often."""
    ids = pa.chunked_array([chunk for it in files for chunk in pq.read_table(it).column("id").chunks])
    lost = pc.sum(pc.invert(pc.is_in(wanted, ids))).as_py()
    return lost, len(ids) - pc.count_distinct(ids).as_py()


def told(process: psutil.Process) -> str:
    """A process's command line."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def signalled(processes: list[psutil.Process], number: int) -> None:
    """Send it to those that are still there."""
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)
