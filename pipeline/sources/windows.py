"""A text in windows that end where records do: to cut a file into pieces, and to read one in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.sources.digest import Digest, digested
from pipeline.sources.file import Cut, File, Piece
from pipeline.sources.quoting import Scan
from pipeline.sources.text import BOM, WINDOW_BYTES, Slice, Text, check_utf8, is_plain

MB: Final = 1 << 20
MARGIN: Final = 64
"""A window is longer by its `MARGIN`th, so that the whole records in it still fill a unit."""
MOST_BYTES: Final = 1 << 30
"""pyarrow's parsers count to 2^31."""


def most_bytes(data: Data) -> int:
    """Of a window, and so of a record."""
    return min(max(WINDOW_BYTES, 2 * data.max_cell_bytes), MOST_BYTES)


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The records of a text, some at a time."""

    text: Text | Slice
    data: Data
    delimiter: str = ""
    """Between cells that may be quoted; without one there are no quotes."""

    def first(self, size: int) -> tuple[pa.Buffer, Scan]:
        """The next `size` bytes, or the most there may be if no record ends within these; and what is found there.

        Raises DataError for a record that does not end.
        """
        text, limit = self.text, most_bytes(self.data)
        seen = text.peek(size)
        whole = seen.size < size
        found = Scan(np.frombuffer(seen, np.uint8), delimiter=self.delimiter, whole=whole)
        if not (found.end or whole):
            if size < limit:
                return self.first(limit)
            reason = f"no record ends within {limit:,} bytes after byte {text.at:,}"
            raise DataError(reason, text.file.name, "close the quote, or raise data.max_cell_bytes")
        if whole and found.unclosed >= 0:
            reason = f"the quote at byte {text.at + found.unclosed:,} is never closed"
            raise DataError(reason, text.file.name, "close it")
        return seen, found

    def all(self, size: int = 0) -> Iterator[tuple[pa.Buffer, Scan]]:
        """Window after window, each of whole records. Raises DataError for bytes that are not UTF-8."""
        while True:
            seen, found = self.first(size or most_bytes(self.data))
            if not seen.size:
                return
            records = seen.slice(0, found.end)
            check_utf8(records, self.text.at, self.text.file)
            yield records, found
            self.text.advance(found.end)


def cut(source: pa.NativeFile, file: File, data: Data, *, delimiter: str = "", header: bool = False) -> Cut:
    """Pieces of about `data.unit_mb`, each of whole records; one, and of unknown rows, if it is packed or recoded."""
    if not is_plain(file, data):
        return Cut(sha256=digested(source), rows=None, pieces=(Piece(file=file, bytes=file.bytes),))
    text = Slice(source, file)
    with Digest() as digest:
        digest.add(BOM[: text.at])
        windows = Windows(text=text, data=data, delimiter=delimiter)
        pieces = tuple(_pieces(windows, digest, header=header))
        return Cut(sha256=digest.hex(), rows=sum(it.rows or 0 for it in pieces), pieces=pieces)


def _pieces(windows: Windows, digest: Digest, *, header: bool) -> Iterator[Piece]:
    text, unit = windows.text, windows.data.unit_mb * MB
    size = min(unit, most_bytes(windows.data))
    start, first, rows = 0, 0, -int(header)
    for records, found in windows.all(size + size // MARGIN):
        digest.add(records)
        rows += found.rows
        stop = text.at + found.end
        if rows > 0 and (stop - start >= unit or stop == text.file.bytes):
            yield Piece(file=text.file, start=start, stop=stop, first=first, rows=rows, bytes=stop - start)
            start, first, rows = stop, first + rows, 0
