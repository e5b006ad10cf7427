"""Are ids unique over all files of a snapshot? By ranges first; where these overlap, by counting, bucket by bucket.

An id's bucket is a function of its value, so equal ids meet in one bucket, and each bucket is counted by itself, in
bounded memory, by whichever worker is free.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array

from pipeline.parts import ROW_GROUP_ROWS, Part, opened, plain_id
from pipeline.stores.remote import Location, located

BYTES_PER_ID: Final = 128
"""What counting one id takes, about: the hash table's entry and a text of usual length."""
SHOWN: Final = 10
"""Ids named in an error, at most."""

Buckets = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Count:
    """Some ids to be counted: those of one bucket, in some files."""

    paths: tuple[str, ...]
    id_column: str
    bucket: int
    buckets: int


def counts(
    parts: Sequence[tuple[Location, Part]], *, id_column: str, memory_bytes: int, repeated: Collection[str] = ()
) -> list[Count]:
    """What must be counted to find the ids that come twice: files whose ranges touch, and those that repeat some."""
    jobs = []
    for cluster in _overlapping(parts):
        if len(cluster) == 1 and cluster[0][1].path not in repeated:
            continue
        rows = sum(part.rows for _, part in cluster)
        buckets = -(-rows * BYTES_PER_ID // memory_bytes)
        paths = tuple(str(path) for path, _ in cluster)
        jobs += [Count(paths=paths, id_column=id_column, bucket=it, buckets=buckets) for it in range(buckets)]
    return jobs


def count(job: Count) -> tuple[int, list[int | str]]:
    """How many ids come more than once, and the first ten."""
    ids = [array for path in job.paths for array in _ids(located(path), job)]
    found = repeats(pa.chunked_array(ids))
    return len(found), [plain_id(it) for it in sorted(found)[:SHOWN]]


def repeats(ids: pa.ChunkedArray) -> dict[int | str, int]:
    """The ids that come more than once, and how often."""
    if len(ids) < 2 or _ascending(ids):
        return {}
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    return dict(zip(twice.field("values").to_pylist(), twice.field("counts").to_pylist(), strict=True))


def _ascending(ids: pa.ChunkedArray) -> bool:
    """Whether each id is above the one before: a quick way to know that none comes twice."""
    flat = ids.combine_chunks()
    return bool(pc.all(pc.greater(flat.slice(1), flat.slice(0, len(flat) - 1))).as_py())


def buckets_of(ids: pa.Array, buckets: int) -> Buckets:
    """The bucket of each id: of an integer its remainder, of a text that of its hash."""
    if pa.types.is_integer(ids.type):
        numbers: Buckets = ids.to_numpy(zero_copy_only=False).astype(np.int64)
        return numbers % buckets
    hashes: npt.NDArray[np.uint64] = hash_array(ids.to_numpy(zero_copy_only=False), categorize=False)
    return (hashes % np.uint64(buckets)).astype(np.int64)


def _ids(path: Location, job: Count) -> Iterator[pa.Array]:
    with opened(path) as file:
        for batch in file.iter_batches(batch_size=ROW_GROUP_ROWS, columns=[job.id_column], use_threads=False):
            ids = batch.column(0)
            yield ids if job.buckets == 1 else ids.filter(pa.array(buckets_of(ids, job.buckets) == job.bucket))


def _overlapping(parts: Sequence[tuple[Location, Part]]) -> list[list[tuple[Location, Part]]]:
    """Files whose ranges of ids touch, together."""
    clusters: list[list[tuple[Location, Part]]] = []
    high = None
    for path, part in sorted((it for it in parts if it[1].rows), key=lambda it: it[1].id_min):
        if high is None or part.id_min > high:
            clusters.append([])
        clusters[-1].append((path, part))
        high = part.id_max if high is None else max(high, part.id_max)
    return clusters
