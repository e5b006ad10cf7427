"""Row 17: a target that cannot be written to, is not there, or is somebody else's: refused first, nothing deleted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.busy import by_way_of
from faults.cases import Found, s3_port
from faults.proxy import Faulty

from pipeline import storage
from pipeline.errors import InfrastructureError
from pipeline.stores.remote import Remote

NOBODY = 65_534


def refused(root: Any, reason: str) -> Found:
    """Whether `standing`, which a step asks before it computes, names the place and the reason; exit 4."""
    try:
        storage.standing(root, "key")
    except InfrastructureError as error:
        right = reason in error.what and error.where.startswith(str(root)) and error.cure
        return Found(failed="" if right else f"refused otherwise: {error}")
    return Found(failed="not refused")


def foreign(folder: Path) -> Found:
    """Somebody's photographs."""
    (folder / "root" / "deep").mkdir(parents=True)
    (folder / "root" / "photo.jpg").write_bytes(b"x")
    (folder / "root" / "deep" / "letter.txt").write_bytes(b"y")
    found = refused(folder / "root", "not a folder of snapshots: it holds deep, photo.jpg")
    names = sorted(str(it.relative_to(folder)) for it in folder.rglob("*"))
    untouched = names == ["root", "root/deep", "root/deep/letter.txt", "root/photo.jpg"]
    return found + Found(cases=0, failed="" if untouched else f"now there are {names}")


def file(folder: Path) -> Found:
    """A file where a folder is to be."""
    (folder / "root").write_bytes(b"x")
    found = refused(folder / "root", "cannot write: Not a directory")
    return found + Found(cases=0, failed="" if (folder / "root").read_bytes() == b"x" else "overwritten")


def read_only(folder: Path) -> Found:
    """A folder that others may only read."""
    (folder / "root").mkdir()
    folder.chmod(0o755)
    (folder / "root").chmod(0o555)
    with _as_nobody():
        return refused(folder / "root", "cannot write: Permission denied")


def missing_and_read_only(folder: Path) -> Found:
    """A folder that cannot be made."""
    folder.chmod(0o555)
    with _as_nobody():
        return refused(folder / "not" / "there", "cannot write: Permission denied")


def no_bucket(folder: Path) -> Found:
    """There is none of that name."""
    s3_port()
    return refused(Remote(f"s3://no-such-bucket/{folder.name}"), "NoSuchBucket")


def foreign_prefix(folder: Path) -> Found:
    """Somebody's objects."""
    s3_port()
    from pipeline.stores.s3 import client

    root = Remote(f"s3://faults/{folder.name}/foreign")
    client().put(root / "photo.jpg", b"x")
    found = refused(root, "not a folder of snapshots: it holds photo.jpg")
    names = [it.place.name for it in client().below(root)[0]]
    return found + Found(cases=0, failed="" if names == ["photo.jpg"] else f"now there are {names}")


def unconditional(folder: Path) -> Found:
    """A store that knows no conditional put: two runs could overwrite each other."""
    faulty = Faulty(s3_port(), lambda method, path, conditional: "", unconditional=True)
    with by_way_of(faulty):
        return refused(Remote(f"s3://faults/{folder.name}/unconditional"), "the store ignores If-None-Match")


TARGETS: dict[str, Callable[[Path], Found]] = {
    "a foreign folder with files": foreign,
    "a file": file,
    "a folder that is read-only": read_only,
    "a folder that cannot be made": missing_and_read_only,
    "no such bucket": no_bucket,
    "a foreign prefix with objects": foreign_prefix,
    "a store without conditional puts": unconditional,
}


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Root may write anywhere."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(me)
