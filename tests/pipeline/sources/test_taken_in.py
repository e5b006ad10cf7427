"""From a store and from a database to a snapshot: the whole of ingest on other people's servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from servers import Bucket, PostgreSQL

from pipeline import ingest, runfile
from pipeline.records import Ingested
from pipeline.snapshots import Snapshot

COLUMNS = {"id": {"type": "int64", "role": "id"}, "x": {"type": "float64", "likelihood": "gaussian"}}


def taken(folder: Path, columns: dict[str, Any] = COLUMNS, **data: Any) -> Ingested:
    """Ingested."""
    settings = {"name": "t", "workspace": str(folder / "w"), "data": data, "columns": columns}
    return ingest.ingest(runfile.parse(settings))


def ids(record: Ingested) -> list[int]:
    """Of all rows."""
    return [it for path in Snapshot(Path(record.snapshot)).files for it in pq.read_table(path).column("id").to_pylist()]


def test_a_store_is_taken_in_and_again_only_what_changed(tmp_path: Path, bucket: Bucket) -> None:
    """CSV and Parquet in one hive tree of a bucket; a second run reads nothing, a third only the new object."""
    for day in (1, 2):
        rows = "".join(f"{it},{it / 2}\n" for it in range(100 * day, 100 * day + 50))
        bucket.put(f"in/day={day}/a.csv", f"id,x\n{rows}".encode())
    columns = {**COLUMNS, "day": {"type": "int8", "role": "passthrough"}}
    source = {"uri": bucket.uri("in"), "partitioning": "hive"}
    first, second = taken(tmp_path, columns, **source), taken(tmp_path, columns, **source)
    assert ids(first) == [*range(100, 150), *range(200, 250)]
    assert (second.new, second.digest) == (False, first.digest)
    bucket.put("in/day=3/a.csv", b"id,x\n7,1\n")
    third = taken(tmp_path, columns, **source)
    assert sorted(ids(third)) == [7, *range(100, 150), *range(200, 250)]
    manifest = Snapshot(Path(third.snapshot)).manifest
    assert [it["name"] for it in manifest["inputs"]] == ["day=1/a.csv", "day=2/a.csv", "day=3/a.csv"]
    assert "testing-secret" not in str(manifest)


def test_a_query_is_taken_in(tmp_path: Path, postgres: PostgreSQL) -> None:
    """The rows of a query; the same rows again are nothing new, one more is a new version."""
    postgres.sql("CREATE TABLE taken (id bigint PRIMARY KEY, x numeric(8, 2))")
    postgres.sql("INSERT INTO taken SELECT i, i / 4.0 FROM generate_series(1, 1000) AS i")
    source = {"uri": postgres.uri, "query": "SELECT id, x FROM taken ORDER BY id"}
    first, second = taken(tmp_path, **source), taken(tmp_path, **source)
    assert ids(first) == list(range(1, 1001))
    assert (second.new, second.digest) == (False, first.digest)
    postgres.sql("INSERT INTO taken VALUES (5000, 1)")
    assert ids(taken(tmp_path, **source))[-1] == 5000
