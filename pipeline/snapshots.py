"""What a snapshot is and how to find one: a directory `v000007/` with a `_manifest.json`. The reading side.

A directory without a manifest is not a snapshot. `storage` is the writing side.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pipeline.errors import DataError

MANIFEST: Final = "_manifest.json"
_VERSION: Final = re.compile(r"v(\d{6,})")


@dataclass(frozen=True)
class Snapshot:
    """An immutable, complete set of Parquet files, and its manifest."""

    directory: Path

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
        sizes = ((self.directory / part["path"], part["bytes"]) for part in self.manifest["files"])
        return all(path.is_file() and path.stat().st_size == size for path, size in sizes)

    @property
    def version(self) -> int:
        """7 for `v000007`."""
        match = _VERSION.fullmatch(self.directory.name)
        assert match is not None, self.directory
        return int(match[1])

    @property
    def data(self) -> Path:
        """The folder of its files."""
        return self.directory

    @property
    def files(self) -> list[Path]:
        """Its data files, as listed in the manifest."""
        return [self.data / part["path"] for part in self.manifest["files"]]


def versions(root: Path) -> list[Snapshot]:
    """All snapshots under `root`, oldest first."""
    if not root.is_dir():
        return []
    found = (Snapshot(path) for path in root.iterdir() if _VERSION.fullmatch(path.name))
    return sorted((it for it in found if (it.directory / MANIFEST).is_file()), key=lambda it: it.version)


def latest(root: Path) -> Snapshot | None:
    """The newest snapshot under `root`, if there is any."""
    return next(reversed(versions(root)), None)


def find(root: Path, run_key: str) -> Snapshot | None:
    """The newest whole snapshot made by this run key, if there is any; a damaged one is passed over."""
    return next((it for it in reversed(versions(root)) if it.key == run_key and it.whole), None)


def next_version(root: Path) -> int:
    """One above every version taken, by a snapshot or by anything else of such a name."""
    taken = (_VERSION.fullmatch(path.name) for path in root.iterdir())
    return max((int(match[1]) for match in taken if match), default=0) + 1


def directory_name(version: int) -> str:
    """`v000007` for 7."""
    return f"v{version:06d}"
