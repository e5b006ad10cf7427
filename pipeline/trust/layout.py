"""Which columns and metadata a file of a snapshot must have, by its kind's contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa

from pipeline import latents

FACTS: Final = ("contract", "model", "model_digest")
"""Key-value metadata of a latents file that the manifest says, too. Not the unit: each file has its own."""


def id_column(manifest: Mapping[str, Any], schema: pa.Schema) -> str:
    """The name of the id; empty if its kind has none."""
    if manifest["kind"] == "samples":
        return ""
    name: str = manifest["id"] if manifest["kind"] == "latents" else schema.names[0]
    return name


def secrets(manifest: Mapping[str, Any]) -> frozenset[str] | None:
    """The columns whose values are not told; None if the manifest does not say which."""
    if "secret" in manifest:
        return frozenset(manifest["secret"])
    if "rules" in manifest:
        return frozenset(name for name, it in manifest["rules"]["columns"].items() if it.get("secret"))
    return None


def finite_columns(manifest: Mapping[str, Any], schema: pa.Schema) -> list[str]:
    """The columns in which no number is NaN or infinite."""
    if manifest["kind"] == "dataset":
        return list(schema.names)
    return [name for name in ("mu", "logvar", "coords") if name in schema.names]


def odd_columns(manifest: Mapping[str, Any], schema: pa.Schema) -> Iterator[str]:
    """What is wrong with a data file's columns."""
    if manifest["kind"] == "dataset":
        found = {it.name: str(it.type) for it in schema}
        if found != manifest["schema"]:
            yield f"its columns are {found}, not {manifest['schema']}"
        return
    for name, field in _required(manifest, schema).items():
        if name not in schema.names:
            yield f"column {name!r} is missing"
        elif not schema.field(name).equals(field):
            yield f"column {name!r} is {described(schema.field(name))}, not {described(field)}"
    for name, kind in manifest.get("passthrough", {}).items():
        if str(_type(schema, name)) != kind:
            yield f"column {name!r} is {_type(schema, name)}, not {kind}"


def odd_metadata(manifest: Mapping[str, Any], schema: pa.Schema) -> Iterator[str]:
    """Where a latents file says something else than its snapshot."""
    if manifest["kind"] != "latents":
        return
    model = manifest["model"]
    stated = dict(
        zip(FACTS, (manifest["contract"], f"{model['name']}/{model['version']}", model["digest"]), strict=True)
    )
    found = schema.metadata or {}
    for name, value in stated.items():
        told = found.get(f"latentpipe.{name}".encode())
        if told != str(value).encode():
            yield f"its metadata says {name} = {told.decode(errors='replace') if told else None}, the manifest {value}"


def _required(manifest: Mapping[str, Any], schema: pa.Schema) -> dict[str, pa.Field]:
    """The columns that the contract asks for; there may be others."""
    if manifest["kind"] == "latents":
        id_field = pa.field(manifest["id"], _type(schema, manifest["id"]), nullable=False)
        return {
            it.name: it for it in latents.schema(id=id_field, latent=manifest["latent"], recon=None, passthrough=[])
        }
    if manifest["kind"] == "reduced":
        coords = _type(schema, "coords")
        dims = coords.list_size if pa.types.is_fixed_size_list(coords) else 0
        return {"coords": pa.field("coords", latents.vector(dims), nullable=False)}
    return {}


def _type(schema: pa.Schema, name: str) -> pa.DataType:
    return schema.field(name).type if name in schema.names else pa.null()


def described(field: pa.Field) -> str:
    """The type of a column, in words."""
    return f"{field.type}{'' if field.nullable else ' not null'}"
