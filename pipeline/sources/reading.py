"""How a file is cut and read, whatever its format. What goes wrong is a DataError that names the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Final

import pyarrow as pa

from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.sources import arrays, delimited, hive, ipc, jsonlines, parquet
from pipeline.sources.file import Block, Cut, File, Piece
from pipeline.sources.formats import check_magic, format_of
from pipeline.sources.limits import check_cells, check_names, refusals
from pipeline.sources.stores import opened

READERS: Final[Mapping[str, ModuleType]] = {
    "csv": delimited,
    "tsv": delimited,
    "jsonl": jsonlines,
    "parquet": parquet,
    "ipc": ipc,
    "npy": arrays,
}
"""Each with `names`, `cut` and `blocks`, of an open file."""


def names(file: File, data: Data) -> list[str]:
    """The columns of a file, its partition keys last; of JSON lines, the keys of the first ones. None in an empty file.

    Raises DataError if the file cannot be read, or has the same name twice.
    """
    with _reader(file, data) as (reader, source):
        found: list[str] = reader.names(source, file, data)
        keys = [key for key, _ in file.keys]
        if both := [key for key in keys if key in found]:
            cure = "rename one of them, or set data.partitioning = 'none'"
            raise DataError(f"two columns are named {both[0]!r}, one of them by its path", file.name, cure)
        if found := [*found, *keys]:
            check_names(found, file, data)
    return found


def cut(file: File, data: Data) -> Cut:
    """The file's digest, and pieces of about `data.unit_mb` with the numbers of their rows.

    There are no pieces if there are no rows. There is one, and its rows are not known, where only reading all of it can
    tell: of compressed or recoded text, and of a stream. Raises DataError if it cannot be read.
    """
    with _reader(file, data) as (reader, source):
        found: Cut = reader.cut(source, file, data)
    return found


def blocks(piece: Piece, data: Data, *, types: Mapping[str, pa.DataType] | None = None) -> Iterator[Block]:
    """The piece's rows in order and in bounded memory; text as text and the rest in the file's own types.

    With `types`, text may come in these, where a whole block can, and columns that they do not name are left out,
    unless none of them is there. Raises DataError if the file cannot be read, or has other rows than the piece claims.
    """
    file, rows = piece.file, 0
    keys = {key: value for key, value in file.keys if types is None or key in types}
    wanted = types and {name: kind for name, kind in types.items() if name not in keys}
    if keys:
        names(file, data)  # none of which a key may be
    with _reader(file, data) as (reader, source):
        for block in reader.blocks(source, piece, data, types=wanted or None):
            check_cells(block.batch, file, data)
            rows += len(block)
            yield Block(_with_keys(block.batch, keys), block.ragged) if keys else block
    if piece.rows not in (None, rows):
        raise DataError(f"{rows:,} rows read, {piece.rows:,} expected", file.name, "the file lies about them: mend it")


@contextmanager
def _reader(file: File, data: Data) -> Iterator[tuple[ModuleType, pa.NativeFile]]:
    with refusals(file), opened(file) as source:
        check_magic(source, file, data)
        yield READERS[format_of(file, data)], source


def _with_keys(batch: pa.RecordBatch, keys: Mapping[str, str]) -> pa.RecordBatch:
    """Each key as a column of text; null where Hive says so."""
    for name, value in keys.items():
        cell = pa.scalar(None if value == hive.NULL else value, pa.string())
        batch = batch.append_column(name, pa.repeat(cell, len(batch)))
    return batch
