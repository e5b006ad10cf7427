"""What is looked at again before files are published: footers as they lie there now, one schema, no id twice."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import identities
from pipeline.errors import DataError
from pipeline.parts import Part, opened
from pipeline.stores.remote import Location

Found = Sequence[tuple[Location, Part]]
MEMORY_BYTES = 256 << 20
"""For the ids of files whose ranges overlap, counted so much at a time."""


def vouch(found: Found, pool: Executor) -> None:
    """Raise DataError unless every file opens with the rows and bytes noted, and all have one schema."""
    first: pa.Schema | None = None
    for (place, part), (rows, schema) in zip(found, pool.map(_footer, [place for place, _ in found]), strict=True):
        first = first or schema
        if rows != part.rows:
            raise DataError(f"{rows:,} rows, {part.rows:,} were written; nothing was published", str(place))
        if not schema.equals(first):
            raise DataError(f"its schema is not that of {found[0][1].path}; nothing was published", str(place))


def vouch_ids(found: Found, id_column: str, *, secret: bool) -> None:
    """Raise DataError if an id comes twice: by the files' ranges first, by counting where these overlap."""
    for job in identities.counts(found, id_column=id_column, memory_bytes=MEMORY_BYTES):
        count, some = identities.count(job)
        if count:
            such = "" if secret else f", such as {some[0]}"
            raise DataError(f"{id_column!r} repeats {count:,} ids{such}; nothing was published")


def _footer(place: Location) -> tuple[int, pa.Schema]:
    with opened(place) as file:
        metadata: pq.FileMetaData = file.metadata
        return metadata.num_rows, file.schema_arrow
