"""THE OUTPUT CONTRACT, version 1: what a downstream job may rely on. pyarrow only.

Three lines for a reader:

    from pipeline.latents import read
    codes = read("workspace/latents/adult")            # an Arrow dataset: the newest snapshot, checked
    table = codes.to_table(columns=["row_id", "mu"])

A snapshot is complete, so any Parquet reader over `v000001/*.parquet` sees the same rows. The files' columns: the id,
`mu` and `logvar` (fixed_size_list<float not null>[d], never null, never NaN), `recon` (a struct in the input's own
names, types and units; optional), `model_version`, and the passthrough columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.errors import DataError
from pipeline.snapshots import MANIFEST, Snapshot, directory_name, latest
from pipeline.stores.remote import Location, arrow, located

CONTRACT: Final = 1


def vector(latent: int) -> pa.DataType:
    """fixed_size_list<element: float not null>[latent]."""
    return pa.list_(pa.field("element", pa.float32(), nullable=False), latent)


def schema(*, id: pa.Field, latent: int, recon: pa.DataType | None, passthrough: Sequence[pa.Field]) -> pa.Schema:
    """The columns of a latents file."""
    fields = [
        id.with_nullable(False),
        pa.field("mu", vector(latent), nullable=False),
        pa.field("logvar", vector(latent), nullable=False),
        *([pa.field("recon", recon, nullable=False)] if recon is not None else []),
        pa.field("model_version", pa.string(), nullable=False),
        *passthrough,
    ]
    return pa.schema(fields)


def read(location: str | Location, *, version: int | None = None) -> ds.Dataset:
    """The latents under `workspace/latents/adult` or `s3://bucket/prefix/latents/adult`, or of one snapshot
    `.../v000007`, as a dataset. Raises DataError if there is no such snapshot or its files break the contract.
    """
    snapshot = resolve(located(location), version)
    contract = snapshot.manifest.get("contract")
    if contract != CONTRACT:
        raise DataError(
            f"written by latents contract {contract}; this reader knows {CONTRACT}", str(snapshot.directory)
        )
    codes = open_file(*snapshot.files)
    _check(codes.schema, snapshot)
    return codes


def open_file(*paths: Location) -> ds.Dataset:
    """Parquet files of one store as a dataset, page checksums verified on every read."""
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    found = [arrow(path) for path in paths]
    layout = ds.ParquetFileFormat(default_fragment_scan_options=options)
    return ds.dataset([path for _, path in found], filesystem=found[0][0], format=layout)


def resolve(location: Location, version: int | None = None) -> Snapshot:
    """The snapshot meant by a folder of snapshots (the newest, or `version`) or by a snapshot's own directory."""
    if version is not None:
        location = location / directory_name(version)
    if (location / MANIFEST).is_file():
        return Snapshot(location)
    newest = latest(location) if version is None else None
    if newest is None:
        raise DataError("no snapshot here", str(location), "write one with `latentpipe encode`")
    return newest


def _check(found: pa.Schema, snapshot: Snapshot) -> None:
    if "latent" not in snapshot.manifest:
        raise DataError("a snapshot of something else than latents", str(snapshot.directory))
    expected = vector(snapshot.manifest["latent"])
    for name in ("mu", "logvar"):
        if name not in found.names or not found.field(name).type.equals(expected):
            raise DataError(f"column {name!r} is not {expected}", str(snapshot.directory))
