"""Parquet: cut between row groups, read a batch at a time, its page checksums verified wherever there are any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Data
from pipeline.sources.digest import Digest
from pipeline.sources.file import Block, Cut, File, Piece
from pipeline.sources.limits import check_names, check_ratio
from pipeline.sources.stores import opened

BATCH_ROWS: Final = 65_536
BATCH_BYTES: Final = 64 << 20
BUFFER_BYTES: Final = 1 << 20
"""Read of a column at a time, however large its chunk."""


def names(file: File, data: Data) -> list[str]:
    """The columns."""
    with _reading(file, data) as (parquet, _):
        found: list[str] = parquet.schema_arrow.names
    return found


def cut(file: File, data: Data) -> Cut:
    """Pieces of whole row groups, of about `data.unit_mb` of the file."""
    with _reading(file, data) as (parquet, source), Digest() as digest:
        groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
        sha256 = digest.rest(source).hex()
    share = file.bytes / max(1, sum(it.total_byte_size for it in groups))
    pieces, start, first, rows, size = list[Piece](), 0, 0, 0, 0.0
    for number, group in enumerate(groups, start=1):
        rows, size = rows + group.num_rows, size + group.total_byte_size * share
        if rows and (size >= data.unit_mb << 20 or number == len(groups)):
            pieces.append(Piece(file=file, start=start, stop=number, first=first, rows=rows, bytes=round(size)))
            start, first, rows, size = number, first + rows, 0, 0.0
    return Cut(sha256=sha256, rows=sum(it.rows or 0 for it in pieces), pieces=tuple(pieces))


def blocks(piece: Piece, data: Data, *, types: Mapping[str, pa.DataType] | None = None) -> Iterator[Block]:
    """The rows of a piece, in the file's own types; with `types`, only the columns that these name."""
    with _reading(piece.file, data) as (parquet, _):
        names = parquet.schema_arrow.names
        wanted = [name for name in names if types is None or name in types] or names
        groups = range(piece.start, parquet.num_row_groups if piece.stop is None else piece.stop)
        for batch in parquet.iter_batches(
            _batch_rows(parquet.metadata, groups), row_groups=groups, columns=wanted, use_threads=False
        ):
            yield Block(batch.select(wanted))


@contextmanager
def _reading(file: File, data: Data) -> Iterator[tuple[pq.ParquetFile, pa.NativeFile]]:
    with (
        opened(file) as source,
        pq.ParquetFile(
            source,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            coerce_int96_timestamp_unit="us",
            page_checksum_verification=True,
        ) as parquet,
    ):
        check_names(parquet.schema_arrow.names, file, data)
        facts = parquet.metadata
        check_ratio(facts.num_rows, file, data)
        check_ratio(sum(facts.row_group(number).total_byte_size for number in range(facts.num_row_groups)), file, data)
        yield parquet, source


def _batch_rows(facts: pq.FileMetaData, groups: range) -> int:
    """Fewer of wide rows, so that a batch stays small."""
    rows = sum(facts.row_group(number).num_rows for number in groups)
    size = sum(facts.row_group(number).total_byte_size for number in groups)
    return max(1, min(BATCH_ROWS, BATCH_BYTES * int(rows) // max(int(size), 1)))
