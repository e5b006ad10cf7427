"""Row 1: the machine stops at every operation that changes the store: before it, after it, and half-way through.

After each stop the independent reader must see the old history or the new one, whole; the same command again must end
with the new one, once more must change nothing; and gc must leave nothing but what the versions name.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from faults.cases import Found, reader, s3_port, total
from faults.writer import commit

from pipeline import snapshots, storage
from pipeline.stores import files, objects, s3, store
from pipeline.stores.local import Local
from pipeline.stores.remote import Remote

WAYS = ("before", "after", "half")
HALVED = ("write", "sync", "delete", "make")
"""Operations that can be half done; the others are one step of the system's or the server's."""
OLD, NEW = "old-key", "new-key"
BEFORE, AFTER = [1, 2, 3, 4], [5, 6, 7]


class Stopped(BaseException):
    """The process is no more: nothing that is `except Exception` goes on after it."""


class Stopping:
    """The store's changes, until one of them: from then on there are none."""

    def __init__(self, inner: Any, changes: Sequence[str], at: int = -1, how: str = "") -> None:
        self.inner, self.changes, self.at, self.how = inner, changes, at, how
        self.seen: list[str] = []
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        return partial(self._do, name, method) if name in self.changes else method

    def _do(self, name: str, method: Callable[..., Any], *arguments: Any) -> Any:
        with self.lock:
            number = len(self.seen)
            self.seen.append(name)
        if self.at < 0 or number < self.at:
            return method(*arguments)
        if number == self.at and self.how == "half":
            half(name, method, *arguments)
        if number == self.at and self.how == "after":
            method(*arguments)
        raise Stopped


def half(name: str, method: Callable[..., Any], *arguments: Any) -> None:
    """What a machine leaves that stops midway."""
    if name == "write":
        path, content = arguments
        path.write_bytes(content[: len(content) // 2])
    elif name == "make":
        arguments[0].parent.mkdir(parents=True, exist_ok=True)
    elif name == "sync" and arguments[0].is_file():
        content = arguments[0].read_bytes()
        arguments[0].write_bytes(content[: len(content) // 2])
    elif name == "delete" and isinstance(arguments[0], Path):
        for path in sorted(it for it in arguments[0].rglob("*") if it.is_file())[::2]:
            path.unlink()
    elif name == "delete":
        method(arguments[0][::2])


@contextmanager
def through(changes: Stopping) -> Iterator[None]:
    """All that is published goes through these changes."""
    made: Any = Local(changes) if isinstance(changes.inner, files.Files) else s3.S3(changes)
    with mock.patch.object(store, "of", return_value=made):
        yield


def new(root: Any) -> None:
    """A snapshot after another."""
    commit(root, NEW, AFTER)


def carrying(root: Any) -> None:
    """The same, with the files of the other carried over."""
    commit(root, NEW, AFTER, before=snapshots.find(root, OLD))


def returning(root: Any) -> None:
    """The key of an older snapshot is to be the newest again."""
    commit(root, OLD, BEFORE)


SCENARIOS: dict[str, tuple[Callable[[Any], None], list[str]]] = {
    "first": (new, []),
    "second": (new, [OLD]),
    "carried over": (carrying, [OLD]),
    "gone back": (returning, [OLD, "between"]),
}


def rows(scenario: str) -> list[list[int]]:
    """Ids of each version, once the scenario is through."""
    was = [sorted({OLD: BEFORE, "between": AFTER}[key]) for key in SCENARIOS[scenario][1]]
    last = {"carried over": BEFORE + AFTER, "gone back": BEFORE}.get(scenario, AFTER)
    return [*was, sorted(last)]


class Ground:
    """Roots with the scenario's history, as many as are asked for."""

    def __init__(self, folder: Path, scenario: str, *, remote: bool) -> None:
        self.folder, self.scenario, self.remote, self.count = folder, scenario, remote, 0
        place: Any = folder
        if remote:
            s3_port()
            place = Remote(f"s3://faults/{folder.name}/{scenario.replace(' ', '-')}")
        self.place = place
        self.template = self._filled(place / "template")

    def root(self) -> Any:
        """Another one."""
        self.count += 1
        root = self.place / str(self.count)
        if not self.remote:
            shutil.copytree(self.template, root)
            return root
        for it in s3.client().below(self.template)[0]:
            s3.client().copy(it.place, root / it.place.uri.removeprefix(f"{self.template}/"))
        return root

    def left(self, root: Any) -> None:
        """It is no longer needed; a test server's listings take longer with every object."""
        if self.remote:
            s3.client().delete([it.place for it in s3.client().below(root)[0]])

    def changes(self, at: int = -1, how: str = "") -> Stopping:
        """What stops there."""
        if self.remote:
            return Stopping(s3.client(), objects.CHANGES, at, how)
        return Stopping(files.Files(), files.CHANGES, at, how)

    def _filled(self, root: Any) -> Any:
        if isinstance(root, Path):
            root.mkdir(parents=True)
        for key in SCENARIOS[self.scenario][1]:
            commit(root, key, {OLD: BEFORE, "between": AFTER}[key])
        return root


def stopped_everywhere(folder: Path, scenario: str, *, remote: bool, ways: Sequence[str] = WAYS) -> Found:
    """The scenario, stopped at each of its operations in each of the ways that there are."""
    ground = Ground(folder, scenario, remote=remote)
    root, whole = ground.root(), ground.changes()
    with through(whole):
        SCENARIOS[scenario][0](root)
    moments = [(at, how) for at, name in enumerate(whole.seen) for how in ways]
    moments = [(at, how) for at, how in moments if how != "half" or whole.seen[at] in HALVED]
    return total(stopped(ground, at, how) for at, how in moments)


def stopped(ground: Ground, at: int, how: str) -> Found:
    """One stop, and what can be read after it, after a second try, after a third, and after gc."""
    root, work, expected = ground.root(), SCENARIOS[ground.scenario][0], rows(ground.scenario)
    changes = ground.changes(at, how)
    with suppress(Stopped), through(changes):
        work(root)
    where = f"{how} operation {at} ({changes.seen[at]})" if at < len(changes.seen) else f"never came to {at}"
    found = judged(reader()(root), [expected[:-1], expected], f"stopped {where}")
    work(root)
    done = snapshots.latest(root)
    work(root)
    with mock.patch.object(s3, "LIVE_S", 0):  # its writer is dead, but a bucket cannot know that
        storage.collect(root, older_than_s=0)
        left = storage.abandoned(root, older_than_s=0)
    found += judged(reader()(root), [expected], f"run twice again, stopped {where} before")
    if done is None or (again := snapshots.latest(root)) != done or again.digest != done.digest:
        found += Found(failed=f"a third run or gc changed something, stopped {where}")
    if left or (isinstance(root, Path) and (root / "_attempts").exists()):
        found += Found(failed=f"gc left something, stopped {where}")
    ground.left(root)
    return Found(found.lost, found.duplicated, found.torn, found.failed)


def judged(seen: dict[str, Any], allowed: list[list[list[int]]], when: str) -> Found:
    """Whether the reader saw one of the histories that may be."""
    history = [sorted(it["ids"]) for it in seen["versions"]]
    if seen["problems"]:
        return Found(torn=1, failed=f"{when}: {seen['problems'][0]}")
    if history in allowed:
        return Found()
    many = len(history) > max(map(len, allowed))
    return Found(lost=int(not many), duplicated=int(many), failed=f"{when}: versions hold {history}")
