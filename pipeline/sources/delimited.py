"""CSV and TSV: cut where records end, and parsed a window at a time. Only declared tokens are null."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import pyarrow as pa
from pyarrow import csv

from pipeline.config import Data
from pipeline.errors import ConfigError, DataError
from pipeline.sources.file import Block, Cut, File, Piece
from pipeline.sources.formats import format_of
from pipeline.sources.limits import check_names
from pipeline.sources.parser import Parser
from pipeline.sources.text import Slice, Text, text
from pipeline.sources.windows import Windows
from pipeline.sources.windows import cut as cut_text

HEAD_BYTES: Final = 64 << 10


def names(source: pa.NativeFile, file: File, data: Data) -> list[str]:
    """The columns that the header names, or the settings do; none if the file is empty."""
    return _header(text(source, file, data), data, _delimiter(file, data))[0]


def cut(source: pa.NativeFile, file: File, data: Data) -> Cut:
    """Pieces of about `data.unit_mb`; one if it is packed or recoded."""
    return cut_text(source, file, data, delimiter=_delimiter(file, data), header=data.header)


def blocks(
    source: pa.NativeFile, piece: Piece, data: Data, *, types: Mapping[str, pa.DataType] | None
) -> Iterator[Block]:
    """The rows of a piece: text, or of the types that are wanted where a window's cells all are."""
    delimiter, rest, rows = _delimiter(piece.file, data), text(source, piece.file, data), 0
    columns, length = _header(rest, data, delimiter)
    if not columns:
        return
    rest.advance(length)
    if piece.stop is not None:
        rest = Slice(source, piece.file, start=max(piece.start, rest.at), stop=piece.stop)
    parser = Parser(columns, data, delimiter=delimiter, types=types)
    for window, found in Windows(text=rest, data=data, delimiter=delimiter).all():
        block = parser.parsed(window, first=rows, padded=found.padded)
        rows += len(block)
        yield block


def _delimiter(file: File, data: Data) -> str:
    """Raises ConfigError for one that pyarrow does not take."""
    delimiter = "\t" if format_of(file, data) == "tsv" else data.delimiter
    if not delimiter.isascii() or delimiter in '"\r\n':
        raise ConfigError(f"delimiter = {delimiter!r} cannot be one", "data", "one character of ASCII, such as ';'")
    return delimiter


def _header(rest: Text | Slice, data: Data, delimiter: str) -> tuple[list[str], int]:
    """The names, and how long the record is that holds them; none and 0 if there is no record."""
    if not data.header:
        if not data.names:
            cure = "`latentpipe init --data FILE` writes them"
            raise DataError("data.header = false needs data.names", rest.file.name, cure)
        return list(data.names), 0
    for window, found in Windows(text=rest, data=data, delimiter=delimiter).all(HEAD_BYTES):
        if found.rows:
            names = _names(window.slice(0, found.first_end), delimiter)
            shown = [it.strip() for it in names] if data.trim else names
            check_names(shown, rest.file, data)
            return shown, found.first_end
    return [], 0


def _names(head: pa.Buffer, delimiter: str) -> list[str]:
    line = head.to_pybytes() + b"\n"  # pyarrow sees no header in a line without end
    read = csv.ReadOptions(use_threads=False, block_size=len(line))
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with csv.open_csv(pa.BufferReader(line), read, parse) as reader:
        names: list[str] = reader.schema.names
    return names
