"""Arrow IPC: files, cut between their batches, and streams, read from one end to the other. All of it is validated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa
from pyarrow import ipc

from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.sources.digest import digested
from pipeline.sources.file import Block, Cut, File, Piece
from pipeline.sources.grouping import grouped
from pipeline.sources.limits import check_names

MAGIC: Final = b"ARROW1"
END: Final = b"\xff\xff\xff\xff" + bytes(4)
BATCH_ROWS: Final = 65_536


def names(source: pa.NativeFile, file: File, data: Data) -> list[str]:
    """The columns."""
    found: list[str] = _reader(source, []).schema.names
    check_names(found, file, data)
    return found


def cut(source: pa.NativeFile, file: File, data: Data) -> Cut:
    """Pieces of whole batches, of about `data.unit_mb`; a stream is one piece."""
    names(source, file, data)
    rows = _rows(source)
    if rows is None:
        return Cut(sha256=digested(source), rows=None, pieces=(Piece(file=file, bytes=file.bytes),))
    pieces = grouped(file, [(it, file.bytes / len(rows)) for it in rows], data)
    return Cut(sha256=digested(source), rows=sum(rows), pieces=pieces)


def blocks(
    source: pa.NativeFile, piece: Piece, data: Data, *, types: Mapping[str, pa.DataType] | None
) -> Iterator[Block]:
    """The rows of a piece, in the file's own types; with `types`, only the columns that these name."""
    columns = enumerate(names(source, piece.file, data))
    reader = _reader(source, [at for at, name in columns if types is None or name in types])
    for batch in _batches(reader, piece):
        batch.validate(full=True)
        for start in range(0, len(batch), BATCH_ROWS):
            yield Block(batch.slice(start, BATCH_ROWS))
    if not isinstance(reader, ipc.RecordBatchFileReader):
        _check_end(source, piece.file)


def _batches(reader: Any, piece: Piece) -> Iterator[pa.RecordBatch]:
    if not isinstance(reader, ipc.RecordBatchFileReader):
        yield from reader
        return
    for number in range(piece.start, reader.num_record_batches if piece.stop is None else piece.stop):
        yield reader.get_batch(number)


def _check_end(source: pa.NativeFile, file: File) -> None:
    """Raise DataError unless a stream that was read ends where its file does, and says so: what is cut off may be rows.

    Before Arrow 0.15 the mark of its end was shorter.
    """
    if (more := file.bytes - source.tell()) > 0:
        raise DataError(f"the stream ends {more:,} bytes before the file", file.name, "write each to a file of its own")
    mark = END if source.read_at(4, 0) == END[:4] else END[4:]
    if source.read_at(len(mark), file.bytes - len(mark)) != mark:
        raise DataError("the stream has no end mark: it may be cut short", file.name, "write it again")


def _reader(source: pa.NativeFile, columns: list[int]) -> Any:
    """Of a file or a stream; of some columns or, if none is named, of all."""
    source.seek(0)
    options = ipc.IpcReadOptions(included_fields=columns, use_threads=False)
    is_file = source.read(len(MAGIC)) == MAGIC
    source.seek(0)
    return ipc.open_file(source, options=options) if is_file else ipc.open_stream(source, options=options)


def _rows(source: pa.NativeFile) -> list[int] | None:
    """Of each batch of a file, for which one column is read, as they stand nowhere else; None for a stream."""
    reader = _reader(source, [0])
    if not isinstance(reader, ipc.RecordBatchFileReader):
        return None
    return [len(reader.get_batch(number)) for number in range(reader.num_record_batches)]
