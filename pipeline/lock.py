"""One driver at a time per folder, by files alone: on a shared disk, between machines, through kills.

Who works in a folder holds its newest lock, `lock-000001` and so on: a file that only one can create, and whose holder
writes its host, its process and a beat into it. A lock that was given back, or whose holder is dead, is outdone by the
next number; a holder that was only asleep finds that out by `check`.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from pipeline.errors import InfrastructureError

BEAT_S: Final = 5.0
DEAD_S: Final = 60.0
"""A holder on another machine whose beat stood still for so long is dead."""
LOOK_S: Final = 0.5


@contextmanager
def held(directory: Path, *, waiting: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hold the folder's lock inside; until it is free, `waiting` is told who has it.

    Yields a check that raises InfrastructureError if somebody took the lock from a process asleep for too long.
    """
    lock = _Lock(_acquired(directory, waiting))
    try:
        yield lock.check
    finally:
        lock.release()


class _Lock:
    """A lock held: a thread of its own keeps its heart beating."""

    def __init__(self, path: Path) -> None:
        self.path, self.done = path, threading.Event()
        self.heart = threading.Thread(target=self._beat, daemon=True, name="lock")
        self.heart.start()

    def check(self) -> None:
        """Raise InfrastructureError if the lock is no longer the newest."""
        if (newest := _newest(self.path.parent)) != self.path:
            raise InfrastructureError(
                f"{_holder(newest)} has taken over this training", str(self.path.parent), "let it finish, or stop it"
            )

    def release(self) -> None:
        """Let the next one have it."""
        self.done.set()
        self.heart.join()
        with suppress(OSError):
            self.path.write_text(json.dumps({"free": True}))

    def _beat(self) -> None:
        beat = 0
        while not self.done.wait(BEAT_S):
            beat += 1
            with suppress(OSError):  # a disk that is back in time has lost us nothing
                self.path.write_text(json.dumps({**_me(), "beat": beat}))


def _acquired(directory: Path, waiting: Callable[[str], None]) -> Path:
    seen, since = b"", time.monotonic()
    while True:
        newest = _newest(directory)
        said = _read(newest)
        if said != seen:
            seen, since = said, time.monotonic()
        if newest is None or _free(said) or time.monotonic() - since > DEAD_S:
            if (mine := _created(directory, newest)) is not None:
                return mine
        else:
            waiting(f"{_holder(newest)} is at this very training; waiting for it")
            time.sleep(LOOK_S)


def _created(directory: Path, newest: Path | None) -> Path | None:
    """The next lock, unless another was quicker."""
    number = 1 + (0 if newest is None else int(newest.name.removeprefix("lock-")))
    mine = directory / f"lock-{number:06d}"
    try:
        with mine.open("x") as file:
            file.write(json.dumps(_me()))
    except FileExistsError:
        return None
    if _newest(directory) != mine:  # an old number, free again because its successor has swept it away
        mine.unlink(missing_ok=True)
        return None
    for older in directory.glob("lock-??????"):
        if older < mine:
            older.unlink(missing_ok=True)
    return mine


def _newest(directory: Path) -> Path | None:
    return max(directory.glob("lock-??????"), default=None)


def _read(path: Path | None) -> bytes:
    with suppress(OSError):
        return b"" if path is None else path.read_bytes()
    return b""


def _facts(said: bytes) -> dict[str, Any]:
    with suppress(ValueError):  # torn: it is being written
        facts = json.loads(said)
        return facts if isinstance(facts, dict) else {}
    return {}


def _free(said: bytes) -> bool:
    """Given back, or left by a process of this machine that is no more."""
    facts = _facts(said)
    return bool(facts.get("free")) or (facts.get("host") == _me()["host"] and not _alive(facts["pid"]))


def _holder(path: Path | None) -> str:
    facts = _facts(_read(path))
    return f"process {facts['pid']} on {facts['host'].split()[0]}" if "pid" in facts else "another run"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _me() -> dict[str, Any]:
    """This process; where containers have process numbers of their own, the host says which container."""
    spaces = Path("/proc/self/ns/pid")
    return {"host": f"{platform.node()} {os.readlink(spaces) if spaces.exists() else ''}", "pid": os.getpid()}
