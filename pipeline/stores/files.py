"""What a local store changes, one system call each: the places where a machine can stop."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, final

from pipeline import disk

CHANGES: Final = ("make", "write", "sync", "link", "move", "replace", "delete")


@final
class Files:
    """The operating system's files."""

    def make(self, folder: Path) -> None:
        """A new folder, with its parents. Raises FileExistsError if it is not new."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()

    def write(self, path: Path, content: bytes) -> None:
        """A small file, all of it."""
        path.write_bytes(content)

    def sync(self, path: Path) -> None:
        """Wait until the disk has it."""
        disk.sync(path)

    def link(self, source: Path, target: Path) -> None:
        """A second name."""
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)

    def move(self, source: Path, target: Path) -> None:
        """Another name, for a file or a finished folder. Raises OSError if a folder with content has it."""
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, target)

    def replace(self, source: Path, target: Path) -> None:
        """A file in another's place, at once."""
        os.replace(source, target)

    def delete(self, folder: Path) -> None:
        """A folder and all below it, as far as that goes."""
        shutil.rmtree(folder, ignore_errors=True)
