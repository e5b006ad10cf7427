"""A small disk: a file system in memory, mounted over a folder, with what lies in that. Needs root."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BALLAST = ".ballast"


class Disk:
    """What can be done to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Not a byte is left."""
        with (self.folder / BALLAST).open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(_Full), _full():
                    while file.write(b"\0" * size) == size:
                        pass

    def grow(self) -> None:
        """As a user does who reads that it is full."""
        (self.folder / BALLAST).unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,size=1g", self.folder], check=True)


class _Full(Exception):
    """No space is left."""


@contextmanager
def _full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise _Full from None


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Disk]:
    """Mounted inside; `size` in bytes."""
    kept = folder.with_name(folder.name + ".kept")
    folder.mkdir(parents=True, exist_ok=True)
    folder.rename(kept)
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "latentpipe-fault", folder]
    ended = subprocess.run(mount, capture_output=True, text=True)
    assert ended.returncode == 0, f"no small disk ({ended.stderr.strip()}); run as root, or by `unshare -Urm`"
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
