"""The newest latents as a table of Iceberg or Delta, for who reads through a catalogue. The files stay as they are.

Only metadata is written: which of the snapshot's own Parquet files the table consists of. A newer snapshot replaces the
older one's files in one commit. A plain glob over a snapshot stays right; these are other ways to the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import pyarrow as pa

from pipeline import latents, storage
from pipeline.config import RunConfig
from pipeline.disk import storage_errors
from pipeline.errors import CommitConflict, ConfigError, DataError
from pipeline.snapshots import Snapshot

Format = Literal["iceberg", "delta"]
FORMATS: Final = get_args(Format)
NAMESPACE: Final = "latents"
SNAPSHOT: Final = "latentpipe.snapshot"
"""Property of the table: the snapshot that it holds."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A snapshot as a table of a catalogue."""

    format: str
    table: str
    """Of Iceberg its name, of Delta its folder."""
    catalogue: str
    """Of Iceberg its URI, of Delta the log's folder."""
    snapshot: str
    files: int
    rows: int
    new: bool
    """False if the table held this snapshot before."""


def publish(config: RunConfig, format: Format) -> Listed:
    """Make the newest latents the content of the table. A no-op if they are.

    Raises ConfigError if the format's package is not installed, DataError for a type that the format has not,
    CommitConflict if another run changed the table at the same time.
    """
    root = storage.root(config, "latents")
    if not isinstance(root, Path):
        raise ConfigError("tables of snapshots in a bucket are not made", "storage.uri", "leave it empty")
    snapshot = latents.resolve(root)
    with storage_errors(snapshot.directory):
        return {"iceberg": _iceberg, "delta": _delta}[format](config, snapshot)


def _needs(format: Format, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ImportError as error:
        cure = f"pip install 'latentpipe[{format}]'"
        raise ConfigError(f"{error.name} is not installed", f"--format {format}", cure) from error


def _listed(format: Format, snapshot: Snapshot, *, table: str, catalogue: str, new: bool) -> Listed:
    files, rows = len(snapshot.files), snapshot.manifest["rows"]
    where = {"table": table, "catalogue": catalogue, "snapshot": str(snapshot.directory)}
    return Listed(format=format, **where, files=files, rows=rows, new=new)


def _iceberg(config: RunConfig, snapshot: Snapshot) -> Listed:
    """In a catalogue of SQLite: `catalogue.db` and `iceberg/` in the workspace."""

    def load() -> Any:
        from pyiceberg.catalog.sql import SqlCatalog
        from pyiceberg.exceptions import CommitFailedException
        from pyiceberg.expressions import AlwaysTrue

        return SqlCatalog, CommitFailedException, AlwaysTrue

    catalog_type, conflict, everything = _needs("iceberg", load)
    (config.root / "iceberg").mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{config.root / 'catalogue.db'}"
    catalog = catalog_type("latentpipe", uri=uri, warehouse=(config.root / "iceberg").as_uri())
    name, schema = f"{NAMESPACE}.{config.name}", latents.read(snapshot.directory).schema.remove_metadata()
    listed = {"table": name, "catalogue": uri}
    try:
        catalog.create_namespace_if_not_exists(NAMESPACE)
        known = catalog.table_exists(name)
        table = catalog.load_table(name) if known else catalog.create_table(name, schema)
        if table.properties.get(SNAPSHOT) == snapshot.digest:
            return _listed("iceberg", snapshot, **listed, new=False)
        with table.transaction() as change:
            with change.update_schema(allow_incompatible_changes=True) as columns:
                columns.union_by_name(schema)
            if table.current_snapshot() is not None:
                change.delete(everything())
            named = {SNAPSHOT: snapshot.directory.name}
            change.add_files([str(path) for path in snapshot.files], snapshot_properties=named)
            change.set_properties({SNAPSHOT: snapshot.digest})
    except conflict as error:
        raise CommitConflict(str(error), name, "run again") from error
    except (TypeError, ValueError) as error:
        cure = "encode with the columns that the table has, or drop the table"
        raise DataError(f"the Iceberg table cannot hold these columns: {error}", name, cure) from error
    finally:
        catalog.close()
    return _listed("iceberg", snapshot, **listed, new=True)


def _delta(config: RunConfig, snapshot: Snapshot) -> Listed:
    """In a log beside the snapshots: `latents/<name>/_delta_log`."""

    def load() -> Any:
        import deltalake
        from deltalake.exceptions import CommitFailedError
        from deltalake.transaction import AddAction, create_table_with_add_actions

        return deltalake, AddAction, create_table_with_add_actions, CommitFailedError

    deltalake, action, create, conflict = _needs("delta", load)
    folder = snapshot.directory.parent
    listed = {"table": str(folder), "catalogue": str(folder / "_delta_log")}
    schema = deltalake.Schema.from_arrow(_variable(latents.read(snapshot.directory).schema))
    actions = [_added(action, snapshot, part) for part in snapshot.manifest["files"]]
    told = deltalake.CommitProperties(custom_metadata={SNAPSHOT: snapshot.digest})
    try:
        if not deltalake.DeltaTable.is_deltatable(str(folder)):
            create(str(folder), schema, actions, commit_properties=told)
            return _listed("delta", snapshot, **listed, new=True)
        table = deltalake.DeltaTable(str(folder))
        if table.history(1)[0].get(SNAPSHOT) == snapshot.digest:
            return _listed("delta", snapshot, **listed, new=False)
        table.create_write_transaction(actions, "overwrite", schema, commit_properties=told)
    except conflict as error:
        raise CommitConflict(str(error), str(folder), "run again") from error
    return _listed("delta", snapshot, **listed, new=True)


def _added(action: Any, snapshot: Snapshot, part: dict[str, Any]) -> Any:
    path = snapshot.directory / part["path"]
    return action(
        path=f"{snapshot.directory.name}/{part['path']}",
        size=part["bytes"],
        partition_values={},
        modification_time=int(path.stat().st_mtime * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": part["rows"]}),
    )


def _variable(schema: pa.Schema) -> pa.Schema:
    """Delta knows no lists of fixed size."""
    return pa.schema([field.with_type(_type(field.type)) for field in schema])


def _type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_type(field.type)) for field in kind])
    return kind
