"""What a snapshot is and how to find one: a version `v000007` with a `_manifest.json`. The reading side, pyarrow alone.

A version without a manifest is not a snapshot; there is no other sign, such as `_SUCCESS`. `storage` is the writing
side. In a folder the version's files lie beside the manifest; in a bucket where the manifest's `data` says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Final, Self

from pipeline.errors import DataError
from pipeline.stores.names import MANIFEST as MANIFEST
from pipeline.stores.names import VERSION
from pipeline.stores.remote import Location, located, names, sizes

AT_ONCE: Final = 16
"""Manifests that are read at a time."""


@dataclass(frozen=True)
class Snapshot:
    """An immutable, complete set of Parquet files, and its manifest."""

    directory: Location
    """The version's: a folder, or a prefix in a bucket."""

    @classmethod
    def at(cls, text: str | Location) -> Self:
        """Of what a record says: a path, or `s3://bucket/prefix/v000007`."""
        return cls(located(text))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Everything the writer stated about it."""
        try:
            manifest: dict[str, Any] = json.loads((self.directory / MANIFEST).read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"not a snapshot: {MANIFEST} is missing or broken ({error})", str(self.directory)) from None
        return manifest

    @property
    def digest(self) -> str:
        """sha256 of the manifest, and so, through the files' digests in it, of every byte."""
        return hashlib.sha256((self.directory / MANIFEST).read_bytes()).hexdigest()

    @property
    def key(self) -> str:
        """The run key it was made by; empty if the manifest is broken."""
        try:
            return str(self.manifest["run_key"])
        except (DataError, KeyError):
            return ""

    @property
    def whole(self) -> bool:
        """Whether every file is there, of the size in the manifest."""
        there = sizes(self.data)
        return all(there.get(part["path"]) == part["bytes"] for part in self.manifest["files"])

    @property
    def version(self) -> int:
        """7 for `v000007`."""
        match = VERSION.fullmatch(self.directory.name)
        assert match is not None, self.directory
        return int(match[1])

    @property
    def data(self) -> Location:
        """The folder of its files; all of its Parquet files, and no others, lie in it."""
        folder = self.manifest.get("data")
        return self.directory.parent / folder if folder else self.directory

    @property
    def files(self) -> list[Location]:
        """Its data files, as listed in the manifest."""
        return [self.data / part["path"] for part in self.manifest["files"]]


def versions(root: Location) -> list[Snapshot]:
    """All snapshots under `root`, oldest first, their manifests read."""
    found = [Snapshot(root / directory_name(version)) for version in sorted(_taken(root))]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [it for it, there in zip(found, pool.map(_there, found), strict=True) if there]


def newest(root: Location, count: int) -> list[Snapshot]:
    """The last snapshots under `root`, so many at most, oldest first."""
    return [*islice(_newest_first(root), count)][::-1]


def latest(root: Location) -> Snapshot | None:
    """The newest snapshot under `root`, if there is any."""
    return next(_newest_first(root), None)


def find(root: Location, run_key: str) -> Snapshot | None:
    """The newest whole snapshot made by this run key, if there is any; a damaged one is passed over."""
    return seek(root, lambda it: it.key == run_key)


def seek(root: Location, wanted: Callable[[Snapshot], bool]) -> Snapshot | None:
    """The newest whole snapshot of those wanted, if there is any; none is asked about whose manifest is not there."""
    found = [Snapshot(root / directory_name(version)) for version in sorted(_taken(root), reverse=True)]
    for first in range(0, len(found), AT_ONCE):
        some = found[first : first + AT_ONCE]
        with ThreadPoolExecutor(len(some)) as pool:
            made = [*pool.map(lambda it: bool(it.key) and wanted(it) and it.whole, some)]
        if any(made):
            return some[made.index(True)]
    return None


def next_version(root: Location) -> int:
    """One above every version taken, by a snapshot or by anything else of such a name."""
    return max(_taken(root), default=0) + 1


def directory_name(version: int) -> str:
    """`v000007` for 7."""
    return f"v{version:06d}"


def _there(snapshot: Snapshot) -> bool:
    """Whether it has a manifest, be it a broken one; reads it."""
    with suppress(DataError):
        return snapshot.manifest is not None
    return (snapshot.directory / MANIFEST).is_file()


def _newest_first(root: Location) -> Iterator[Snapshot]:
    for version in sorted(_taken(root), reverse=True):
        if (root / directory_name(version) / MANIFEST).is_file():
            yield Snapshot(root / directory_name(version))


def _taken(root: Location) -> list[int]:
    """Numbers of whatever has a version's name."""
    return [int(match[1]) for name in names(root) if (match := VERSION.fullmatch(name))]
