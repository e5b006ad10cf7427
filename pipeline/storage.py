"""All of a snapshot, or none of it: write files where no reader looks, then publish them with one rename.

    with attempt(root, run_key) as directory:          # <root>/_attempts/<run key>/<uuid>/
        parts = [write(directory, "part-00000.parquet", batches, schema=schema) ...]
        snapshot = publish(root, directory, parts, manifest)      # -> <root>/v000007/, complete

The rename of a finished directory to a name that does not exist yet is the commit; two writers cannot both do it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.disk import storage_errors, sync
from pipeline.errors import CommitConflict, DataError
from pipeline.parts import Part
from pipeline.snapshots import MANIFEST, Snapshot, directory_name, find, latest, next_version

COMMIT_TRIES = 20
MAKE_TRIES = 1000
SECTIONS = {"files": "", "quarantine": "_quarantine", "profile": "_profile", "reducer": "_reducer"}
"""Where the files of each of a manifest's lists lie: the data itself, and what readers pass over."""
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


@contextmanager
def attempt(root: Path, run_key: str) -> Iterator[Path]:
    """A fresh directory for one try at a snapshot; gone afterwards, whatever happened."""
    directory = root / "_attempts" / run_key[:16] / uuid.uuid4().hex
    with storage_errors(directory):
        _make(directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        _remove_empty(directory.parent, directory.parent.parent)


def standing(root: Path, run_key: str) -> Snapshot | None:
    """The newest snapshot, if this key made it; or an older one by this key, published anew as the newest.

    Going back to an earlier input or model so costs hard links, and `newest` always means: of the latest run.
    """
    newest = latest(root)
    if newest is not None and newest.key == run_key and newest.whole:
        return newest
    known = find(root, run_key)
    if known is None:
        return None
    with attempt(root, run_key) as directory:
        parts = [carried(known, facts, directory) for name in SECTIONS for facts in known.manifest.get(name, ())]
        return publish(root, directory, parts, known.manifest)


def carried(snapshot: Snapshot, facts: Mapping[str, Any], directory: Path) -> Part:
    """A file of an older snapshot as a part of this attempt's, by hard link; `facts` are its manifest's."""
    part = Part(staged=f"{uuid.uuid4().hex}.parquet", **facts)
    with storage_errors(directory):
        os.link(snapshot.directory / part.path, directory / part.staged)
    return part


def publish(root: Path, directory: Path, parts: Sequence[Part], manifest: Mapping[str, Any]) -> Snapshot:
    """Make the parts visible under the next version, at once; `manifest["run_key"]` says what they are.

    If another run with the same key has just come first, its snapshot is the answer. Raises CommitConflict when other
    runs keep taking the next version.
    """
    staged = directory / "snapshot"
    with storage_errors(staged):
        for part in parts:
            (staged / part.path).parent.mkdir(parents=True, exist_ok=True)
            os.rename(directory / part.staged, staged / part.path)
        for _ in range(COMMIT_TRIES):
            version = next_version(root)  # before `latest`: whoever commits after this line makes the rename fail
            newest = latest(root)
            if newest is not None and newest.key == manifest["run_key"] and newest.whole:
                return newest
            facts = {**manifest, "version": version, "previous": _name(newest)}
            if (snapshot := _commit(root, staged, parts, facts)) is not None:
                _point(root, snapshot)
                return snapshot
    raise CommitConflict(f"other runs took {COMMIT_TRIES} versions in a row", str(root), "run again when they are done")


def _name(snapshot: Snapshot | None) -> str | None:
    return snapshot.directory.name if snapshot else None


def _commit(root: Path, staged: Path, parts: Sequence[Part], manifest: Mapping[str, Any]) -> Snapshot | None:
    """Try the next version; None if somebody else took it in the meantime."""
    facts = {**manifest, **{name: [_facts(part) for part in parts if section(part) == name] for name in SECTIONS}}
    (staged / MANIFEST).write_text(json.dumps(facts, indent=1, sort_keys=True))
    for path in (staged / MANIFEST, staged):
        sync(path)
    target = root / directory_name(manifest["version"])
    try:
        os.rename(staged, target)
    except OSError as error:
        if error.errno in _TAKEN:
            return None
        raise
    sync(root)
    return Snapshot(target)


def section(part: Part) -> str:
    """Which of a manifest's lists the part belongs to."""
    folder = part.path.rpartition("/")[0]
    return next(name for name, below in SECTIONS.items() if below == folder)


def _facts(part: Part) -> dict[str, Any]:
    """The part as a manifest lists it."""
    return {name: value for name, value in asdict(part).items() if name != "staged"}


def _point(root: Path, snapshot: Snapshot) -> None:
    """Move `_latest.json`, a convenience: the manifests are the truth."""
    pointer = root / f"_latest.{uuid.uuid4().hex}"
    pointer.write_text(json.dumps({"snapshot": snapshot.directory.name, "version": snapshot.version}))
    os.replace(pointer, root / "_latest.json")


def verify_rows(expected: int, parts: Sequence[Part], where: Path) -> None:
    """Raise DataError unless the parts hold exactly the expected rows."""
    rows = sum(part.rows for part in parts)
    if rows != expected:
        raise DataError(f"{rows:,} rows written, {expected:,} expected; nothing was published", str(where))


def _make(directory: Path) -> None:
    """With its parents, which another try that ends may be taking away at this moment."""
    for _ in range(MAKE_TRIES):
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            directory.mkdir()
        except (FileNotFoundError, FileExistsError):
            continue
        return
    directory.mkdir(parents=True)


def _remove_empty(*directories: Path) -> None:
    for directory in directories:
        try:
            directory.rmdir()
        except OSError:
            return
