"""What tests of sources share: files of given bytes, and all that is read from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import sources
from pipeline.config import Data
from pipeline.sources import Block, File, stores

Rows = list[dict[str, Any]]


def written(folder: Path, content: str | bytes, name: str = "in.csv") -> Path:
    """A file of this content, byte for byte."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def listed(path: Path) -> File:
    """The file as a listing describes it."""
    return stores.described(stores.place(str(path)), name=path.name)


def blocks(path: Path, *, types: Mapping[str, pa.DataType] | None = None, **settings: Any) -> list[Block]:
    """All blocks of all pieces."""
    data = Data(uri=str(path), **settings)
    pieces = sources.cut(listed(path), data).pieces
    return [block for piece in pieces for block in sources.blocks(piece, data, types=types)]


def rows(path: Path, *, types: Mapping[str, pa.DataType] | None = None, **settings: Any) -> Rows:
    """All rows but the ragged ones."""
    return [row for block in blocks(path, types=types, **settings) for row in block.batch.to_pylist()]


def ragged(path: Path, **settings: Any) -> list[tuple[int, str]]:
    """The rows set aside."""
    return [row for block in blocks(path, **settings) for row in block.ragged]
