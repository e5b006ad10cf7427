"""A folder as a store of snapshots: a finished directory is renamed to its version, and a lock says who is at work."""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, final

from pipeline.disk import storage_errors
from pipeline.stores.files import Files
from pipeline.stores.names import ATTEMPTS, LEASE, MANIFEST, Leftover, foreign
from pipeline.stores.remote import names

MAKE_TRIES: Final = 1000
_TAKEN: Final = (errno.EEXIST, errno.ENOTEMPTY)


@final
class Local:
    """`files` makes its changes."""

    AT_ONCE: Final = 1

    def __init__(self, files: Files | None = None) -> None:
        self.files = files or Files()

    def ready(self, root: Path) -> None:
        """Raise InfrastructureError for what is not a folder, cannot be written to, or is somebody else's."""
        with storage_errors(root):
            foreign(root, os.listdir(root) if root.exists() else [])
            with self.begun(root / ATTEMPTS / "preflight" / uuid.uuid4().hex):
                pass
            _remove_empty(root, root.parent)

    @contextmanager
    def begun(self, folder: Path) -> Iterator[None]:
        """A fresh folder, its lease locked as long as this process lives; gone afterwards, whatever happened."""
        with storage_errors(folder):
            lease = self._leased(folder)
        try:
            yield
        finally:
            try:
                self.files.delete(folder)
            finally:
                os.close(lease)
            _remove_empty(folder.parent, folder.parent.parent)

    @contextmanager
    def writing(self, target: Path) -> Iterator[Path]:
        """The file itself."""
        yield target
        self.files.sync(target)

    def carried(self, source: Path, folder: Path) -> str:
        """By hard link."""
        name = f"{uuid.uuid4().hex}{source.suffix}"
        with storage_errors(folder):
            self.files.link(source, folder / name)
        return name

    def accept(self, source: Path, target: Path) -> None:
        """By renaming."""
        with storage_errors(target):
            self.files.move(source, target)

    def gathering(self, root: Path, folder: Path) -> Path:
        """In the try's folder."""
        return folder / "snapshot"

    def told(self, data: Path) -> dict[str, str]:
        """Nothing: they move to where the manifest is."""
        return {}

    def commit(self, data: Path, target: Path, manifest: bytes) -> bool:
        """Rename the finished folder, with its manifest, to the version's name."""
        with storage_errors(target):
            self.files.write(data / MANIFEST, manifest)
            for path in (data / MANIFEST, *(it for it in data.iterdir() if it.is_dir()), data):
                self.files.sync(path)
            try:
                self.files.move(data, target)
            except OSError as error:
                if error.errno in _TAKEN:
                    return False
                raise
            self.files.sync(target.parent)
        return True

    def point(self, folder: Path, target: Path, content: bytes) -> None:
        """By a rename over it."""
        with storage_errors(target):
            self.files.write(folder / target.name, content)
            self.files.replace(folder / target.name, target)

    def leftovers(self, root: Path) -> list[Leftover]:
        """The folders of tries; what they gathered lies in them."""
        now = _clock(root)
        keys = [root / ATTEMPTS / key for key in names(root / ATTEMPTS)]
        found = [key / name for key in keys for name in names(key) or ("",)]
        return [Leftover(place=it, silent_s=now - _touched(it), live=_held(it)) for it in found]

    def delete(self, place: Path) -> None:
        """Unless it is live; its lease is held meanwhile. Of an empty folder of tries only the name."""
        if place.parent.name == ATTEMPTS:
            return _remove_empty(place, place.parent)
        with ExitStack() as stack:
            with suppress(FileNotFoundError):
                lease = stack.enter_context((place / LEASE).open("rb"))
                if not _locked(lease.fileno(), wait=False):
                    return None
            self.files.delete(place)
        return _remove_empty(place.parent, place.parent.parent)

    def _leased(self, folder: Path) -> int:
        """The lock on the lease of a new folder, which a collector may take for abandoned until it is locked."""
        for _ in range(MAKE_TRIES):
            try:
                self.files.make(folder)
                lease = os.open(folder / LEASE, os.O_CREAT | os.O_RDWR, 0o644)
            except (FileNotFoundError, FileExistsError):  # another try that ends takes its parents away
                continue
            _locked(lease, wait=True)
            if os.fstat(lease).st_nlink:
                return lease
            os.close(lease)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def _locked(descriptor: int, *, wait: bool) -> bool:
    """Whether the lock is ours now; also where the file system knows no locks, and age alone decides."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _held(folder: Path) -> bool:
    """Whether a process that lives holds the lease."""
    try:
        with (folder / LEASE).open("rb") as lease:
            return not _locked(lease.fileno(), wait=False)
    except OSError:
        return False


def _clock(root: Path) -> float:
    """The store's own time: that of a file it has just been given."""
    if not root.is_dir():
        return 0.0
    with storage_errors(root):
        probe = root / f".clock-{uuid.uuid4().hex}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink()


def _touched(folder: Path) -> float:
    """When the store was last told of anything in it."""
    latest = 0.0
    for below, _, files in os.walk(folder):  # which passes over what vanishes meanwhile
        for path in (below, *(os.path.join(below, name) for name in files)):
            with suppress(FileNotFoundError):
                latest = max(latest, os.stat(path).st_mtime)
    return latest


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
