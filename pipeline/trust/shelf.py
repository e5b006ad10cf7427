"""Where a snapshot's bytes lie, and how they are looked at: the one place that knows of filesystems."""

from __future__ import annotations

import hashlib
from typing import Final

import pyarrow.parquet as pq
from pyarrow import fs

from pipeline import latents
from pipeline.snapshots import Snapshot
from pipeline.stores.remote import Location, arrow, located

CHUNK_BYTES: Final = 4 << 20


def resolved(location: str | Location) -> Snapshot:
    """The snapshot itself, or the newest of a folder of snapshots. Raises DataError if there is none."""
    return latents.resolve(located(location))


def sizes(snapshot: Snapshot) -> dict[str, int]:
    """Bytes of every file below the snapshot's folder, by its path there."""
    filesystem, root = arrow(snapshot.data)
    found = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    return {it.path.removeprefix(f"{root}/"): it.size for it in found if it.type is not fs.FileType.Directory}


def digest(snapshot: Snapshot, path: str) -> str:
    """sha256 of a file."""
    filesystem, name = arrow(snapshot.data / path)
    found = hashlib.sha256()
    with filesystem.open_input_stream(name) as stream:
        while content := stream.read_buffer(CHUNK_BYTES):
            found.update(content)
    return found.hexdigest()


def footer(snapshot: Snapshot, path: str) -> pq.ParquetFile:
    """A file of which no page is read yet."""
    filesystem, name = arrow(snapshot.data / path)
    return pq.ParquetFile(name, filesystem=filesystem)
