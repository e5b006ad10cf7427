"""Parquet: cut between row groups, read a batch at a time, its page checksums verified wherever there are any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.sources.digest import digested
from pipeline.sources.file import Block, Cut, File, Piece
from pipeline.sources.grouping import grouped
from pipeline.sources.limits import check_names, check_ratio

BATCH_ROWS: Final = 65_536
BATCH_BYTES: Final = 64 << 20
BUFFER_BYTES: Final = 1 << 20
"""Read of a column at a time, however large its chunk."""


def names(source: pa.NativeFile, file: File, data: Data) -> list[str]:
    """The columns."""
    with _reading(source, file, data) as parquet:
        found: list[str] = parquet.schema_arrow.names
    return found


def cut(source: pa.NativeFile, file: File, data: Data) -> Cut:
    """Pieces of whole row groups, of about `data.unit_mb` of the file."""
    with _reading(source, file, data) as parquet:
        groups, counted = _groups(parquet, range(parquet.num_row_groups)), parquet.metadata.num_rows
    if (rows := sum(rows for rows, _ in groups)) != counted:
        reason = f"has {counted:,} rows, and its row groups have {rows:,}"
        raise DataError(reason, file.name, "the file lies about them: write it again")
    share = file.bytes / max(1, sum(size for _, size in groups))
    pieces = grouped(file, [(rows, size * share) for rows, size in groups], data)
    return Cut(sha256=digested(source), rows=rows, pieces=pieces)


def blocks(
    source: pa.NativeFile, piece: Piece, data: Data, *, types: Mapping[str, pa.DataType] | None
) -> Iterator[Block]:
    """The rows of a piece, in the file's own types; with `types`, only the columns that these name."""
    with _reading(source, piece.file, data) as parquet:
        names = parquet.schema_arrow.names
        wanted = [name for name in names if types is None or name in types] or names
        groups = range(piece.start, parquet.num_row_groups if piece.stop is None else piece.stop)
        size = _batch_rows(_groups(parquet, groups))
        for batch in parquet.iter_batches(size, row_groups=groups, columns=wanted, use_threads=False):
            yield Block(batch.select(wanted))  # a column's name is also taken for the beginning of others'


@contextmanager
def _reading(source: pa.NativeFile, file: File, data: Data) -> Iterator[pq.ParquetFile]:
    with pq.ParquetFile(
        source,
        buffer_size=BUFFER_BYTES,
        pre_buffer=False,
        coerce_int96_timestamp_unit="us",
        page_checksum_verification=True,
    ) as parquet:
        check_names(parquet.schema_arrow.names, file, data)
        check_ratio(parquet.metadata.num_rows, file, data)
        check_ratio(sum(size for _, size in _groups(parquet, range(parquet.num_row_groups))), file, data)
        yield parquet


def _groups(parquet: pq.ParquetFile, numbers: range) -> list[tuple[int, int]]:
    """Rows and unpacked bytes of row groups, as the footer has them."""
    groups = [parquet.metadata.row_group(number) for number in numbers]
    return [(it.num_rows, it.total_byte_size) for it in groups]


def _batch_rows(groups: list[tuple[int, int]]) -> int:
    """Fewer of wide rows, so that a batch stays small."""
    rows, size = (sum(column) for column in zip(*groups, strict=True)) if groups else (0, 0)
    return max(1, min(BATCH_ROWS, BATCH_BYTES * rows // max(size, 1)))
