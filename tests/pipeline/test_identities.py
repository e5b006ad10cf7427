"""Ids are unique over all files: what repeats is found, whatever its type, its place and the number of buckets."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.identities import Count, buckets_of, count, counts
from pipeline.parts import Part, write

Files = list[tuple[Path, Part]]


def files(folder: Path, *ids: list[int] | list[str]) -> Files:
    """A Parquet file of each list of ids."""
    kind = pa.string() if isinstance(ids[0][0], str) else pa.int64()
    schema = pa.schema([("id", kind)])
    parts = [
        write(
            folder,
            f"{index}.parquet",
            [pa.record_batch([pa.array(it, kind)], schema=schema)],
            schema=schema,
            id_column="id",
        )
        for index, it in enumerate(ids)
    ]
    return [(folder / part.staged, part) for part in parts]


def repeated(found: Files, *, memory_bytes: int = 1 << 20) -> tuple[int, list[int | str]]:
    """All that comes more than once, over all counts."""
    answers = [count(job) for job in counts(found, id_column="id", memory_bytes=memory_bytes)]
    return sum(number for number, _ in answers), sorted(name for _, names in answers for name in names)


def test_ranges_that_do_not_touch_are_not_read(tmp_path: Path) -> None:
    """Each file above the one before: nothing to count; one id in common and these two files are counted."""
    apart = files(tmp_path, [1, 5], [6, 9], [10, 20])
    assert counts(apart, id_column="id", memory_bytes=1) == []
    (job,) = counts(files(tmp_path, [1, 5], [9, 5], [10, 20]), id_column="id", memory_bytes=1 << 20)
    assert (len(job.paths), job.buckets) == (2, 1)


@pytest.mark.parametrize("memory_bytes", [1, 500, 1 << 20])
@pytest.mark.parametrize("kind", [int, str])
def test_whatever_repeats_is_found(tmp_path: Path, memory_bytes: int, kind: type) -> None:
    """In any number of buckets the same answer; a range inside another's is no hiding place."""
    ids = [[kind(it) for it in some] for some in ([1, 100, 50], [2, 3, 50], [60, 61, 3], [7, 100])]
    assert repeated(files(tmp_path, *ids), memory_bytes=memory_bytes) == (3, sorted(map(kind, [3, 50, 100])))


def test_no_more_than_ten_are_named(tmp_path: Path) -> None:
    """All are counted."""
    number, names = repeated(files(tmp_path, list(range(30)), list(range(30))))
    assert (number, names) == (30, list(range(10)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1)), min_size=1), st.integers(1, 9))
def test_a_bucket_is_a_function_of_the_id(ids: list[int], buckets: int) -> None:
    """The same id in the same bucket, as an integer and as a text, and none outside."""
    for array in (pa.array(ids, pa.int64()), pa.array(list(map(str, ids)))):
        found = buckets_of(array, buckets)
        assert ((found >= 0) & (found < buckets)).all()
        assert len({(it, bucket) for it, bucket in zip(array.to_pylist(), found.tolist(), strict=True)}) == len(
            set(ids)
        )


def test_counting_reads_only_its_bucket(tmp_path: Path) -> None:
    """Buckets share the ids among them: together they are all."""
    ((path, _),) = files(tmp_path, list(range(100)) * 2)
    answers = [count(Count(paths=(str(path),), id_column="id", bucket=it, buckets=4)) for it in range(4)]
    assert [number for number, _ in answers] == [25] * 4
