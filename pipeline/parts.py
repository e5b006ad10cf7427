"""One Parquet file of ours: how it is laid out, written for good, noted down, and opened again."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.disk import sha256, storage_errors
from pipeline.errors import DataError
from pipeline.stores import store
from pipeline.stores.remote import Location, arrow

ROW_GROUP_ROWS = 65_536
GROUP_BYTES = 64 << 20
TEXT_BYTES = 32
GLANCE_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Part:
    """One finished file of a snapshot."""

    path: str
    """Relative to the snapshot."""
    staged: str
    """Relative to the attempt's directory, unlike any other try's: a late writer harms nobody."""
    rows: int
    bytes: int
    sha256: str
    id_min: Any = None
    id_max: Any = None


def write(
    directory: Location,
    name: str,
    batches: Iterable[pa.RecordBatch],
    *,
    schema: pa.Schema,
    id_column: str = "",
    rows: int = 0,
) -> Part:
    """Write one Parquet file, durable and with page checksums, and read its footer back; note the range of ids.

    Of a full disk, `rows`, if they are known before, tell about how much would have been needed.
    """
    staged = f"{uuid.uuid4().hex}.parquet"
    low, high = [], []
    needed = rows * sum(_width(field.type) for field in schema)
    with storage_errors(directory / staged, needed=needed), store.of(directory).writing(directory / staged) as path:
        groups = regrouped(batches, group_rows(schema))
        head = next(groups, schema.empty_table())
        with pq.ParquetWriter(path, schema, **_layout(schema, head)) as writer:
            for group in chain([head] if len(head) else [], groups):
                _write(writer, group)
                if id_column:
                    extremes = pc.min_max(group.column(id_column)).as_py()
                    low.append(plain_id(extremes["min"]))
                    high.append(plain_id(extremes["max"]))
        count = pq.read_metadata(path).num_rows
        ids = {"id_min": min(low, default=None), "id_max": max(high, default=None)}
        return Part(path=name, staged=staged, rows=count, bytes=path.stat().st_size, sha256=sha256(path), **ids)


def _write(writer: pq.ParquetWriter, group: pa.Table) -> None:
    """What Arrow does not write is our mistake: the file that is being read at the same time is not damaged."""
    try:
        writer.write_table(group, row_group_size=len(group))
    except pa.ArrowInvalid as error:
        raise AssertionError(f"rows that do not suit their schema: {error}") from error


def plain_id(value: Any) -> Any:
    """An id as JSON can say it; bytes as their hexadecimal digits, which sort as they do."""
    return value.hex() if isinstance(value, bytes) else value


def ascending(ids: pa.ChunkedArray) -> bool:
    """Whether each id is above the one before, so that they are sorted and none comes twice."""
    flat = ids.combine_chunks()
    return bool(pc.all(pc.greater(flat.slice(1), flat.slice(0, len(flat) - 1))).as_py())


def regrouped(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The same rows in the same order, `rows` at a time, the last time fewer."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += len(batch)
        while count >= rows:
            table = pa.Table.from_batches(held)
            yield table.slice(0, rows)
            held, count = table.slice(rows).to_batches(), count - rows
    if count:
        yield pa.Table.from_batches(held)


def group_rows(schema: pa.Schema) -> int:
    """Rows of a row group: so many that it takes GROUP_BYTES uncompressed, ROW_GROUP_ROWS at most."""
    width = sum(_width(field.type) for field in schema)
    return max(min(ROW_GROUP_ROWS, GROUP_BYTES // max(width, 1)), 1)


def _width(kind: pa.DataType) -> int:
    """Bytes of a cell; of a text about."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _width(kind.value_type)
    if pa.types.is_struct(kind):
        return sum(_width(field.type) for field in kind)
    try:
        return -(-int(kind.bit_width) // 8)
    except ValueError:  # no fixed width
        return TEXT_BYTES


@contextmanager
def opened(path: Location, *, verified: bool = False) -> Iterator[pq.ParquetFile]:
    """One of our Parquet files, page checksums verified on every read unless its sha256 was. DataError if damaged."""
    filesystem, name = arrow(path)
    try:
        with pq.ParquetFile(name, filesystem=filesystem, page_checksum_verification=not verified) as file:
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"damaged: {reason}", str(path), "restore the file, or remove its snapshot and run again"
        ) from error


def _layout(schema: pa.Schema, head: pa.Table) -> dict[str, Any]:
    """Parquet settings: floats as split byte streams, whole numbers as differences, texts that repeat by dictionary."""
    leaves = [leaf for field in schema for leaf in _leaves(field.name, field.type)]
    encodings = {path: code for path, kind in leaves if (code := _encoding(kind)) is not None}
    return {
        "compression": "zstd",
        "compression_level": 1,
        "column_encoding": encodings or None,
        "use_dictionary": [path for path, _ in leaves if path not in encodings and _repeats(head, path)] or False,
        "write_page_checksum": True,
        "write_page_index": True,
    }


def _repeats(head: pa.Table, name: str) -> bool:
    """Whether the column's first cells are worth a dictionary: half of them are there already."""
    if name not in head.schema.names or not len(head):
        return True
    glance = head.column(name)[:GLANCE_ROWS]
    return 2 * int(pc.count_distinct(glance).as_py()) <= len(glance)


def _encoding(kind: pa.DataType) -> str | None:
    """Of the numbers of a type in a page; None for a dictionary."""
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return "BYTE_STREAM_SPLIT"
    return "DELTA_BINARY_PACKED" if pa.types.is_integer(kind) else None


def _leaves(path: str, kind: pa.DataType) -> list[tuple[str, pa.DataType]]:
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{path}.{field.name}", field.type)]
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return _leaves(f"{path}.list.element", kind.value_type)
    return [(path, kind)]
