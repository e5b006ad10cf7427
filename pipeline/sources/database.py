"""A query's result as a file: rows streamed from a database, typed by their values, written to Parquet.

A SQLAlchemy URL, its password left to the driver's environment (PGPASSWORD, ~/.pgpass). The query only reads: in a
read-only transaction on PostgreSQL, from a file opened for reading on SQLite, and nowhere is anything committed.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import URL, Connection, CursorResult, create_engine, exc, make_url
from sqlalchemy.pool import NullPool

from pipeline import disk, storage
from pipeline.config import Data
from pipeline.errors import ConfigError, DataError, InfrastructureError
from pipeline.parts import opened
from pipeline.sources import stores
from pipeline.sources.file import File
from pipeline.sources.values import typed, widened

ROWS: Final = 8192
"""Fetched at a time, at most."""
FIRST_ROWS: Final = 256
"""Fetched first; then twice as many each time, if they are small."""
BATCH_BYTES: Final = 4 << 20
"""Of the rows fetched at a time, about."""
CONNECT_S: Final = 10
KEPT_S: Final = 24 * 3600
"""How long a result that is no longer the newest stays: a run may still be reading it."""


def fetched(data: Data, *, folder: Path) -> File:
    """The rows of `data.query` as a Parquet file of the folder, named by the query and its content.

    The same rows give the same file, untouched. Raises ConfigError for a URL or query that is none, DataError for
    rows of no one type, InfrastructureError if the database does not answer.
    """
    url, where = _url(data.uri)
    key = hashlib.sha256(f"{data.uri}\n{data.query}".encode()).hexdigest()[:12]
    with storage.attempt(folder, key) as directory:
        with (
            _connected(url, where) as connection,
            _failures(where),
            closing(connection.exec_driver_sql(data.query)) as result,
        ):
            whole = _written(directory, _batches(result, where))
        path = folder / f"query-{key}-{disk.sha256(whole)[:16]}.parquet"
        _keep(whole, path)
    _sweep(folder, key, newest=path)
    return stores.described(stores.place(str(path)), name=f"query-{key}.parquet")


def _url(uri: str) -> tuple[URL, str]:
    """What to connect to, and how to call it in messages."""
    stores.refuse_credentials(uri)
    try:
        url = make_url(uri)
    except exc.ArgumentError as error:
        cure = "a URL such as postgresql://user@host/database or sqlite:///file.db; or remove data.query"
        raise ConfigError("not a database's URL", "data.uri", cure) from error
    where = url.set(query={}).render_as_string(hide_password=True)
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        query = {"connect_timeout": str(CONNECT_S), **url.query}
        return url.set(drivername="postgresql+psycopg", query=query), where
    if url.get_backend_name() == "sqlite" and url.database:
        if not Path(url.database).is_file():
            raise DataError("no such database", url.database, "check data.uri")
        path = quote(str(Path(url.database).absolute()))
        return url.set(database=f"file:{path}", query={**url.query, "mode": "ro", "uri": "true"}), where
    return url, where


def _written(directory: Path, batches: Iterator[pa.RecordBatch]) -> Path:
    """One file of all rows. Where a column's type is found or widens midway, it is put together from several."""
    parts = [
        _write(directory / f"{number}.parquet", same, schema)
        for number, (schema, same) in enumerate(groupby(batches, key=lambda batch: batch.schema))
    ]
    if len(parts) == 1:
        return parts[0]
    schema = pq.read_schema(parts[-1])
    return _write(directory / "whole.parquet", (it.cast(schema) for part in parts for it in _read(part)), schema)


def _write(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Path:
    with disk.storage_errors(path):
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
            for batch in filter(len, batches):
                writer.write_batch(batch)
        with path.open("rb+") as file:
            os.fsync(file)
    return path


def _read(path: Path) -> Iterator[pa.RecordBatch]:
    with opened(path) as file:
        yield from file.iter_batches(batch_size=ROWS)


@contextmanager
def _connected(url: URL, where: str) -> Iterator[Connection]:
    """A connection that streams and commits nothing."""
    postgresql = url.get_backend_name() == "postgresql"
    try:
        engine = create_engine(url, poolclass=NullPool, **({"json_deserializer": _as_written} if postgresql else {}))
    except (exc.ArgumentError, ImportError) as error:
        cure = "pip install 'latentpipe[postgres]', or the driver of your database"
        raise ConfigError(f"no driver for {url.drivername}", "data.uri", cure) from error
    try:
        connection = engine.connect()
    except exc.DBAPIError as error:
        cure = "check the server and the password in the environment, then run again"
        raise InfrastructureError(_reason(error), where, cure) from error
    with connection:
        yield connection.execution_options(
            stream_results=True, no_parameters=True, **({"postgresql_readonly": True} if postgresql else {})
        )


def _as_written(document: str | bytes) -> str:
    """JSON as text: a document is one cell, whatever it holds."""
    return document if isinstance(document, str) else bytes(document).decode()


def _batches(result: CursorResult[Any], where: str) -> Iterator[pa.RecordBatch]:
    """The rows; last an empty batch, so that there is a schema. Types only ever widen from one batch to the next."""
    names = list(result.keys()) if result.returns_rows else []
    if not names:
        raise ConfigError("the query gives no columns", "data.query", "write a SELECT")
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"two columns are named {doubles[0]!r}", where, "rename one of them in data.query: ... AS name")
    types = [pa.null()] * len(names)
    count = min(FIRST_ROWS, ROWS)
    while True:
        rows = result.fetchmany(count)
        found = zip(*rows, strict=True) if rows else [()] * len(names)
        arrays = [typed(values, name=name, where=where) for name, values in zip(names, found, strict=True)]
        types = [widened(*of, where=where) for of in zip(names, types, (it.type for it in arrays), strict=True)]
        columns = [array.cast(kind) for array, kind in zip(arrays, types, strict=True)]
        batch = pa.RecordBatch.from_arrays(columns, names=names)
        yield batch
        if not rows:
            return
        count = max(min(ROWS, 2 * count, count * BATCH_BYTES // max(batch.nbytes, 1)), 1)


@contextmanager
def _failures(where: str) -> Iterator[None]:
    """Say it in the driver's words, which name neither the query nor a password."""
    try:
        yield
    except exc.DataError as error:
        raise DataError(_reason(error), where, "check data.query and the rows it reads") from error
    except exc.DBAPIError as error:
        served = not isinstance(error.orig, sqlite3.Error)  # SQLite calls every mistake operational
        if served and (error.connection_invalidated or isinstance(error, exc.OperationalError)):
            raise InfrastructureError(_reason(error), where, "check the server, then run again") from error
        raise ConfigError(_reason(error), where, "check data.query") from error
    except sqlite3.Warning as error:
        raise ConfigError(_reason(error), where, "check data.query") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", error)).strip().splitlines()[0]


def _keep(staged: Path, path: Path) -> None:
    """Give the file its name, unless one of the same content has it; note that it is in use."""
    with disk.storage_errors(path):
        try:
            os.link(staged, path)
        except FileExistsError:
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _sweep(folder: Path, key: str, *, newest: Path) -> None:
    """Remove results of this query that have been in no use for a day."""
    for path in folder.glob(f"query-{key}-*.parquet"):
        if path != newest and time.time() - path.stat().st_atime > KEPT_S:
            path.unlink(missing_ok=True)
