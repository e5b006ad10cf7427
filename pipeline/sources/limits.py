"""What no file may do, whatever its format: name columns twice, hold too much, or fail without a name."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final
from zipfile import BadZipFile

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Data
from pipeline.errors import DataError, InfrastructureError
from pipeline.schema.layout import check_unique
from pipeline.sources.file import File

SMALL: Final = 64 << 20
"""Bytes, or rows, that are never too many."""
FAILURES: Final = (
    *(pa.ArrowException, OSError, ValueError, EOFError, MemoryError, OverflowError, NotImplementedError),
    *(zlib.error, BadZipFile, AttributeError, TypeError, LookupError),
)
"""What pyarrow, numpy, zipfile and extension types, others' code, raise on bytes that are not what they seem."""
REMOTE: Final = "://"
SERVERS: Final = re.compile(r"AWS Error|google::cloud::Status|Azure", re.IGNORECASE)


@contextmanager
def refusals(file: File) -> Iterator[None]:
    """Turn what a reader throws into DataError, naming the file and the reason on one line.

    What a store's server is to blame for becomes InfrastructureError.
    """
    try:
        yield
    except FAILURES as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":. ")
        if REMOTE in file.uri and SERVERS.search(reason):
            cure = "check the network, then run again"
            raise InfrastructureError(f"the store does not answer: {reason}", file.name, cure) from error
        raise DataError(f"cannot be read: {reason}", file.name, "check data.format and the file") from error


def check_names(names: Sequence[str], file: File, data: Data) -> None:
    """Raise DataError for no columns, too many, or two that are one but for capitals."""
    if not names:
        raise DataError("has no columns", file.name, "check data.format and the file")
    if len(names) > data.max_columns:
        limit = f"data.max_columns is {data.max_columns:,}: raise it, or leave some out"
        raise DataError(f"has {len(names):,} columns", file.name, limit)
    check_unique(names, file=file.name)


def check_cells(batch: pa.RecordBatch, file: File, data: Data) -> None:
    """Raise DataError for a text or bytes that is longer than data.max_cell_bytes."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        cells = column.dictionary if isinstance(column, pa.DictionaryArray) else column
        if cells.nbytes <= data.max_cell_bytes or not _is_text(cells.type):
            continue
        longest = pc.max(pc.binary_length(cells.cast(_plain(cells.type)))).as_py() or 0
        if longest > data.max_cell_bytes:
            limit = f"data.max_cell_bytes is {data.max_cell_bytes:,}: raise it, or shorten the cell"
            raise DataError(f"column {name!r} has a cell of {longest:,} bytes", file.name, limit)


def check_ratio(unpacked: int, file: File, data: Data) -> None:
    """Raise DataError for more bytes, or rows, than so small a file can honestly hold."""
    if unpacked > max(SMALL, data.max_ratio * file.bytes):
        reason = f"{file.bytes:,} bytes become {unpacked:,} at least"
        raise DataError(reason, file.name, f"a bomb, or raise data.max_ratio, which is {data.max_ratio:,}")


def _is_text(kind: pa.DataType) -> bool:
    is_a = pa.types
    plain = is_a.is_string(kind) or is_a.is_binary(kind)
    return bool(plain or is_a.is_large_string(kind) or is_a.is_large_binary(kind) or _is_view(kind))


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


def _plain(kind: pa.DataType) -> pa.DataType:
    """What `binary_length` knows."""
    return pa.large_binary() if _is_view(kind) else kind
