"""The parts that a file itself consists of, such as row groups, as pieces: neighbours together."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config import Data
from pipeline.sources.file import File, Piece

MB = 1 << 20


def grouped(file: File, parts: Sequence[tuple[int, float]], data: Data) -> tuple[Piece, ...]:
    """Pieces of whole parts, of which rows and bytes are given, until they are `data.unit_mb`; none without rows."""
    pieces, start, first, rows, size = list[Piece](), 0, 0, 0, 0.0
    for stop, (more_rows, more) in enumerate(parts, start=1):
        rows, size = rows + more_rows, size + more
        if rows and (size >= data.unit_mb * MB or stop == len(parts)):
            pieces.append(Piece(file=file, start=start, stop=stop, first=first, rows=rows, bytes=round(size)))
            start, first, rows, size = stop, first + rows, 0, 0.0
    return tuple(pieces)
