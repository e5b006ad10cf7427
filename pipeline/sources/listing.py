"""Which files a source names: one, a folder's, a glob's, a query's result, or an example's. Their rows are not read."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyarrow import fs

from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.sources import hive, stores
from pipeline.sources.examples import example
from pipeline.sources.file import File
from pipeline.sources.pattern import MAGIC, Pattern
from pipeline.sources.stores import Place

READERS: Final = 16
"""Threads that read the files' marks: they wait for disks and stores."""


def files(data: Data, *, workspace: Path) -> list[File]:
    """The files a source names, sorted by name; each with its size, stamp, mark and partition keys.

    Raises DataError if there are none or one is refused, ConfigError for a URI that is no URI, and
    InfrastructureError if a store does not answer.
    """
    if data.query:
        from pipeline.sources.database import fetched  # SQLAlchemy is slow to import

        return [fetched(data, folder=workspace / "sources")]
    if data.uri.startswith("sklearn:"):
        at = stores.place(str(example(data.uri.removeprefix("sklearn:"), workspace / "sources")))
        return [stores.described(at, name=at.name)]
    at = stores.place(data.uri)
    root, names = _named(at, data)
    for name in names:
        stores.legible(name)
    keys = hive.partition_keys(names, where=str(at)) if data.partitioning == "hive" else [()] * len(names)
    with ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(lambda name, found: stores.described(root / name, name=name, keys=found), names, keys))


def _named(at: Place, data: Data) -> tuple[Place, list[str]]:
    """The source's root, and the names below it."""
    kind = stores.kind(at)
    if kind is fs.FileType.File:
        return at.parent, [at.name]
    root, parts = (at, ("**",)) if kind is fs.FileType.Directory else _split(at)
    pattern = Pattern(parts, hive=data.partitioning == "hive")
    found = _remote(root, pattern) if root.root else _local(root, pattern, follow=data.follow_symlinks)
    names = sorted(found)
    if not names and kind is fs.FileType.Directory:
        raise DataError("no file in this folder, or none that is not hidden", str(at), "check data.uri")
    if not names:
        raise _nothing(at)
    return root, names


def _split(at: Place) -> tuple[Place, tuple[str, ...]]:
    """A glob as the folder it starts from, the longest that exists as it is written, and the pattern below it."""
    parts = at.path.split("/")[1:]
    root = Place(root=at.root, path="/", options=at.options)
    while parts and (not MAGIC.search(parts[0]) or stores.kind(root / parts[0]) is fs.FileType.Directory):
        root = root / parts.pop(0)
    if not parts or stores.kind(root) is not fs.FileType.Directory:
        raise _nothing(at)
    return root, tuple(parts)


def _nothing(at: Place) -> DataError:
    return DataError("no such file, folder or match", str(at), "check data.uri")


def _remote(root: Place, pattern: Pattern) -> Iterator[str]:
    """One listing of everything below, which stores answer by the thousand."""
    with stores.refusals(root):
        filesystem, path = stores.reached(root)
        below = fs.FileSelector(path, recursive=pattern.deep)
        for info in filesystem.get_file_info(below):
            name = info.path.removeprefix(path).removeprefix("/")
            if info.is_file:
                stores.settled(name, root)
                if pattern.matches(name):
                    yield name


@dataclass(frozen=True)
class _Folder:
    name: str
    """Empty for the root."""
    real: str
    states: frozenset[int]


def _local(root: Place, pattern: Pattern, *, follow: bool) -> list[str]:
    """Every file once: under its own name or, if only links lead there, under the first link's."""
    base = os.path.realpath(root.path)
    folders = deque([_Folder("", base, pattern.start)])
    seen: set[tuple[str, frozenset[int]]] = set()
    found: list[tuple[str, str]] = []
    while folders:
        folder = folders.pop()
        if (folder.real, folder.states) in seen:
            continue  # a loop of links, or a second way to the same folder
        seen.add((folder.real, folder.states))
        for entry, states in _entries(root, folder, pattern):
            name, real = os.path.join(folder.name, entry.name), os.path.join(folder.real, entry.name)
            if entry.is_symlink():
                real = _target(root / name, base, follow=follow)
            if not os.path.isdir(real):
                stores.refuse_special(root / name, os.stat(real).st_mode)
                found.append((real, name))
            elif entry.is_symlink():
                folders.appendleft(_Folder(name, real, states))  # last, so that own names come first
            else:
                folders.append(_Folder(name, real, states))
    names: dict[str, str] = {}
    for real, name in sorted(found, key=lambda it: (it[0] != os.path.join(base, it[1]), it[1])):
        names.setdefault(real, name)
    return list(names.values())


def _entries(root: Place, folder: _Folder, pattern: Pattern) -> Iterator[tuple[os.DirEntry[str], frozenset[int]]]:
    """What lies in a folder and may match, or lead to what matches; sorted."""
    with stores.refusals(root / folder.name), os.scandir(os.path.join(root.path, folder.name)) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        states = pattern.after(folder.states, entry.name)
        if pattern.goes_on(states) if os.path.isdir(entry.path) else pattern.ends(states):
            yield entry, states


def _target(at: Place, base: str, *, follow: bool) -> str:
    """Where a link leads, if it may be followed."""
    if not follow:
        raise DataError("a link, and links are not followed", str(at), "remove it, or set data.follow_symlinks = true")
    try:
        real = os.path.realpath(at.path, strict=True)
    except OSError as error:
        raise DataError(f"a link that leads nowhere: {error.strerror}", str(at), "remove or mend it") from error
    if os.path.commonpath([base, real]) != base:
        raise DataError("a link that leads out of the source's folder", str(at), "remove it, or copy what it leads to")
    return real
