"""One contestant converts one file, in a process of its own; prints seconds, rows and peak memory as JSON.

python side.py NAME SOURCE OUT
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from peak import Peak


def duckdb(source: Path, out: Path) -> Callable[[], int]:
    """`COPY ... TO (FORMAT parquet, COMPRESSION zstd)`."""
    import duckdb

    read = "read_csv" if source.suffix == ".csv" else "read_parquet"
    target = out / "duckdb.parquet"
    query = f"COPY (SELECT * FROM {read}('{source}')) TO '{target}' (FORMAT parquet, COMPRESSION zstd)"

    def convert() -> int:
        duckdb.execute(query)
        return rows(target)

    return convert


def polars(source: Path, out: Path) -> Callable[[], int]:
    """The streaming sink."""
    import polars

    target = out / "polars.parquet"
    scan = polars.scan_csv if source.suffix == ".csv" else polars.scan_parquet

    def convert() -> int:
        scan(source).sink_parquet(target, compression="zstd")
        return rows(target)

    return convert


def pyarrow(source: Path, out: Path) -> Callable[[], int]:
    """A bare dataset read-write."""
    import pyarrow.dataset as ds

    def convert() -> int:
        scanner = ds.dataset(source, format=source.suffix[1:]).scanner()
        options = ds.ParquetFileFormat().make_write_options(compression="zstd")
        ds.write_dataset(scanner, out / "pyarrow", format="parquet", file_options=options)
        return sum(map(rows, (out / "pyarrow").glob("*.parquet")))

    return convert


def ours(source: Path, out: Path) -> Callable[[], int]:
    """`ingest`: typed by a contract, every row judged, profiled, digested, ids counted, published."""
    return _ours(source, out)


def again(source: Path, out: Path) -> Callable[[], int]:
    """`ingest` of what was ingested."""
    _ours(source, out)()
    return _ours(source, out)


def by_ray(source: Path, out: Path) -> Callable[[], int]:
    """`ingest` by Ray Data actors; the cluster is up before the clock starts."""
    import ray

    from pipeline.cli import MEMORY

    os.environ.update(MEMORY)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    return _ours(source, out, local_mb=0)


def _ours(source: Path, out: Path, **settings: int) -> Callable[[], int]:
    from pipeline.cli import MEMORY

    os.environ.update(MEMORY)  # as the command does, before Arrow is loaded
    from columns import columns

    from pipeline import ingest, runfile

    config = runfile.parse(
        {
            "name": "bench",
            "workspace": str(out / "workspace"),
            "data": {"uri": str(source)},
            "columns": columns(),
            "ingest": settings,
        }
    )
    return lambda: ingest.ingest(config).rows


def rows(path: Path) -> int:
    """Of a Parquet file."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def main() -> None:
    """Run one contestant."""
    name, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    convert = globals()[name](source, out)
    with Peak() as peak:
        began = time.perf_counter()
        done = convert()
        seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "rows": done, "peak_mb": peak.mb}))


if __name__ == "__main__":
    main()
