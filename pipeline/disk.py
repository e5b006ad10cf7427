"""What the operating system does with files: its refusals by our names, digests, and bytes that outlive a power cut."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import InfrastructureError


@contextmanager
def storage_errors(path: object, *, needed: int = 0) -> Iterator[None]:
    """Turn the operating system's refusals into InfrastructureError naming the path; of a full disk also about how many
    bytes are `needed`, if that is known.
    """
    try:
        yield
    except OSError as error:
        what, cure = f"cannot write: {error.strerror or error}", "check the folder, then run again"
        if error.errno == errno.ENOSPC:
            much = f", about {needed:,} bytes for this file alone" if needed else ""
            cure = f"free some space{much}, then run again"
        raise InfrastructureError(what, str(path), cure) from error


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
