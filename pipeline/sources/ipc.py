"""Arrow IPC: files, cut between their batches, and streams, read from one end to the other. All of it is validated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa
from pyarrow import ipc

from pipeline.config import Data
from pipeline.sources.digest import Digest
from pipeline.sources.file import Block, Cut, File, Piece
from pipeline.sources.limits import check_names
from pipeline.sources.stores import opened

MAGIC: Final = b"ARROW1"
BATCH_ROWS: Final = 65_536
Types = Mapping[str, pa.DataType]


def names(file: File, data: Data) -> list[str]:
    """The columns."""
    with opened(file) as source:
        found: list[str] = _schema(source, file, data).names
    return found


def cut(file: File, data: Data) -> Cut:
    """Pieces of whole batches, of about `data.unit_mb`; a stream is one piece."""
    with opened(file) as source, Digest() as digest:
        _schema(source, file, data)
        rows = _rows(source)
        sha256 = digest.rest(source).hex()
    if rows is None:
        return Cut(sha256=sha256, rows=None, pieces=(Piece(file=file, bytes=file.bytes),))
    each = file.bytes / max(1, len(rows))
    step = max(1, round((data.unit_mb << 20) / max(1.0, each)))
    pieces = [
        Piece(
            file=file,
            start=start,
            stop=start + step,
            first=sum(rows[:start]),
            rows=sum(rows[start : start + step]),
            bytes=round(each * len(rows[start : start + step])),
        )
        for start in range(0, len(rows), step)
    ]
    return Cut(sha256=sha256, rows=sum(rows), pieces=tuple(it for it in pieces if it.rows))


def blocks(piece: Piece, data: Data, *, types: Types | None = None) -> Iterator[Block]:
    """The rows of a piece, in the file's own types; with `types`, only the columns that these name."""
    with opened(piece.file) as source:
        schema = _schema(source, piece.file, data)
        wanted = [at for at, name in enumerate(schema.names) if types is None or name in types]
        for batch in _batches(source, piece, wanted):
            batch.validate(full=True)
            for start in range(0, len(batch), BATCH_ROWS):
                yield Block(batch.slice(start, BATCH_ROWS))


def _batches(source: pa.NativeFile, piece: Piece, columns: list[int]) -> Iterator[pa.RecordBatch]:
    reader = _reader(source, columns)
    if not isinstance(reader, ipc.RecordBatchFileReader):
        yield from reader
        return
    stop = reader.num_record_batches if piece.stop is None else min(piece.stop, reader.num_record_batches)
    for number in range(piece.start, stop):
        yield reader.get_batch(number)


def _reader(source: pa.NativeFile, columns: list[int]) -> Any:
    """Of some columns; of all, if none is named."""
    source.seek(0)
    options = ipc.IpcReadOptions(included_fields=columns, use_threads=False)
    is_file = source.read(len(MAGIC)) == MAGIC
    source.seek(0)
    return ipc.open_file(source, options=options) if is_file else ipc.open_stream(source, options=options)


def _schema(source: pa.NativeFile, file: File, data: Data) -> pa.Schema:
    schema = _reader(source, []).schema
    check_names(schema.names, file, data)
    return schema


def _rows(source: pa.NativeFile) -> list[int] | None:
    """Of each batch of a file, for which one column is read, as they stand nowhere else; None for a stream."""
    reader = _reader(source, [0])
    if not isinstance(reader, ipc.RecordBatchFileReader):
        return None
    return [len(reader.get_batch(number)) for number in range(reader.num_record_batches)]
