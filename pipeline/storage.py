"""All of a snapshot, or none of it: write files where no reader looks, then make them a version in one step.

    with attempt(root, run_key) as directory:          # <root>/_attempts/<run key>/<uuid>/
        parts = [write(directory, "part-00000.parquet", batches, schema=schema) ...]
        snapshot = publish(root, directory, parts, manifest)      # -> <root>/v000007/, complete

The step is the store's own (`pipeline/stores`): a folder renames a finished directory to a name that does not exist
yet, a bucket puts a manifest that is not there yet. Two writers cannot both do it.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, Final

from pipeline.config import RunConfig
from pipeline.errors import CommitConflict, DataError, InfrastructureError
from pipeline.parts import Part
from pipeline.seal import sealed
from pipeline.snapshots import Snapshot, directory_name, find, latest, next_version, versions
from pipeline.stores import store
from pipeline.stores.names import ATTEMPTS, DATA, Leftover
from pipeline.stores.remote import Location, located
from pipeline.vouched import vouch, vouch_ids

COMMIT_TRIES: Final = 20
JITTER_S: Final = 0.005
"""Longest wait after the first lost version; it grows by as much with each."""
SECTIONS: Final = {"files": "", "quarantine": "_quarantine", "profile": "_profile", "reducer": "_reducer"}
"""Where the files of each of a manifest's lists lie: the data itself, and what readers pass over."""
POINTER: Final = "_latest.json"
KINDS: Final = ("datasets", "latents", "reduced", "samples")


def root(config: RunConfig, kind: str) -> Location:
    """Where the snapshots of a kind live: datasets in the workspace, the others where `storage.uri` says."""
    here = not config.storage.uri or kind == "datasets"
    return (config.root if here else located(config.storage.uri)) / kind / config.name


@contextmanager
def attempt(root: Location, run_key: str) -> Iterator[Any]:
    """A fresh directory for one try at a snapshot; gone afterwards, whatever happened."""
    directory = root / ATTEMPTS / run_key[:16] / uuid.uuid4().hex
    with store.of(root).begun(directory):
        yield directory


def preflight(config: RunConfig) -> None:
    """Raise InfrastructureError if the product could not be published at the end of the run; leaves nothing behind."""
    for kind in ("latents", "reduced"):
        place = root(config, kind)
        store.of(place).ready(place)


def standing(root: Location, run_key: str) -> Snapshot | None:
    """The newest snapshot, if this key made it; or an older one by this key, published anew as the newest.

    Going back to an earlier input or model so costs links, and `newest` always means: of the latest run. If there is
    none, the place is made sure of before anything is computed: InfrastructureError if nothing can be published there.
    """
    newest = latest(root)
    if newest is not None and newest.key == run_key and newest.whole:
        if not _pointed(root, newest):  # who committed it was stopped before that
            with attempt(root, run_key) as directory:
                _point(root, directory)
        return newest
    known = find(root, run_key)
    if known is None:
        store.of(root).ready(root)
        return None
    return again(root, known)


def again(root: Location, snapshot: Snapshot) -> Snapshot:
    """An older snapshot as the newest: its files under another version, by links or copies. No-op if it is that."""
    with attempt(root, snapshot.key) as directory:
        listed = [facts for name in SECTIONS for facts in snapshot.manifest.get(name, ())]
        parts = [carried(snapshot, facts, directory) for facts in listed]
        return publish(root, directory, parts, snapshot.manifest)


def carried(snapshot: Snapshot, facts: Mapping[str, Any], directory: Location) -> Part:
    """A file of an older snapshot as a part of this attempt's, its bytes unmoved; `facts` are its manifest's."""
    staged = store.of(directory).carried(snapshot.data / facts["path"], directory)
    return Part(staged=staged, **facts)


def publish(root: Location, directory: Location, parts: Sequence[Part], manifest: Mapping[str, Any]) -> Snapshot:
    """Make the parts visible under the next version, at once; `manifest["run_key"]` says what they are.

    If another run with the same key has just come first, its snapshot is the answer. Raises DataError if the parts do
    not agree with each other or with the manifest's units, and CommitConflict when other runs keep taking the version.
    """
    home = store.of(root)
    data = home.gathering(root, directory)
    with ThreadPoolExecutor(home.AT_ONCE) as pool:
        [*pool.map(lambda part: home.accept(directory / part.staged, data / part.path), parts)]
        vouch([(data / part.path, part) for part in parts if section(part) == "files"], pool)
    _account(parts, manifest)
    for tries in range(COMMIT_TRIES):
        version = next_version(root)  # before `latest`: whoever commits after this line makes the commit fail
        newest = latest(root)
        if newest is not None and newest.key == manifest["run_key"] and newest.whole:
            home.delete(data)
            return newest
        facts = {**manifest, **home.told(data), "version": version, "previous": _name(newest)}
        target = root / directory_name(version)
        if home.commit(data, target, _manifest(parts, facts)):
            _point(root, directory)
            return Snapshot(target)
        time.sleep(random.uniform(0, JITTER_S * (tries + 1)))  # noqa: S311 - nothing to guess
    home.delete(data)
    winner = latest(root)
    by = f", last {winner.directory.name} by run key {winner.key}" if winner else ""
    raise CommitConflict(
        f"other runs took {COMMIT_TRIES} versions in a row{by}", str(root), "run again when they are done"
    )


def _point(root: Location, directory: Location) -> None:
    """Let `_latest.json` name the newest version: a convenience, the manifests are the truth."""
    for _ in range(COMMIT_TRIES):  # somebody may have committed meanwhile, and pointed before
        newest = latest(root)
        if newest is None or _pointed(root, newest):
            return
        store.of(root).point(directory, root / POINTER, _pointer(newest))


def _pointed(root: Location, newest: Snapshot) -> bool:
    """Whether `_latest.json` is known to name it."""
    with suppress(FileNotFoundError, InfrastructureError):
        return (root / POINTER).read_bytes() == _pointer(newest)
    return False


def _pointer(snapshot: Snapshot) -> bytes:
    return json.dumps({"snapshot": snapshot.directory.name, "version": snapshot.version}).encode()


def section(part: Part) -> str:
    """Which of a manifest's lists the part belongs to."""
    folder = part.path.rpartition("/")[0]
    return next(name for name, below in SECTIONS.items() if below == folder)


def verify_rows(expected: int, parts: Sequence[Part], where: Location) -> None:
    """Raise DataError unless the parts hold exactly the expected rows."""
    rows = sum(part.rows for part in parts)
    if rows != expected:
        raise DataError(f"{rows:,} rows written, {expected:,} expected; nothing was published", str(where))


def verify_ids(parts: Sequence[Part], directory: Location, id_column: str, *, secret: bool = False) -> None:
    """Raise DataError if an id comes twice in the data files of this attempt."""
    found = [(directory / part.staged, part) for part in parts if section(part) == "files"]
    vouch_ids(found, id_column, secret=secret)


def abandoned(root: Location, *, older_than_s: float) -> list[Leftover]:
    """What no snapshot names and nobody works on, silent for so long by the store's own time."""
    found = [it for it in store.of(root).leftovers(root) if not it.live and it.silent_s >= older_than_s]
    if any(it.place.parent.name == DATA for it in found):
        named = {it.data for it in versions(root)}  # looked up last: what was published meanwhile is among them
        found = [it for it in found if it.place not in named]
    return found


def collect(root: Location, *, older_than_s: float) -> list[Leftover]:
    """Delete what is abandoned."""
    found = abandoned(root, older_than_s=older_than_s)
    for it in found:
        store.of(root).delete(it.place)
    return found


def _account(parts: Sequence[Part], manifest: Mapping[str, Any]) -> None:
    """Raise DataError unless each file comes once and, where the manifest lists units with their files, in one unit."""
    paths = sorted(part.path for part in parts)
    if len(set(paths)) < len(paths):
        raise DataError("a file is there twice; nothing was published", paths[0])
    units = [it for it in manifest.get("units", ()) if "files" in it]
    if not units:
        return
    listed = sorted(path for it in units for path in (*it["files"], *it["quarantine"]))
    mine = [path for part in parts if section(part) != "profile" for path in [part.path]]
    rows = sum(part.rows for part in parts if section(part) == "files")
    aside = sum(part.rows for part in parts if section(part) == "quarantine")
    told = sum(it["rows"] for it in units), sum(it["quarantined"] for it in units)
    numbers, identities = {it["number"] for it in units}, {it["identity"] for it in units}
    if not (listed == sorted(mine) and told == (rows, aside) and len(numbers) == len(identities) == len(units)):
        raise DataError(
            f"{len(units):,} units with {told[0]:,} + {told[1]:,} rows in {len(listed):,} files, but there are "
            f"{rows:,} + {aside:,} rows in {len(mine):,} files; nothing was published"
        )


def _manifest(parts: Sequence[Part], facts: Mapping[str, Any]) -> bytes:
    listed = {name: [_facts(part) for part in parts if section(part) == name] for name in SECTIONS}
    return sealed({**facts, **listed})


def _facts(part: Part) -> dict[str, Any]:
    """The part as a manifest lists it."""
    return {name: value for name, value in asdict(part).items() if name != "staged"}


def _name(snapshot: Snapshot | None) -> str | None:
    return snapshot.directory.name if snapshot else None
