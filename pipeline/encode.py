"""encode: a registered model, a prepared dataset -> latent codes in Parquet, by Ray Data over an actor pool.

The unit of work is one file of the dataset. An actor reads it, encodes it and writes the result itself, where no
reader looks; only facts come back, and the driver publishes all of them at once. No row passes through Ray.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import keys, latents, storage
from pipeline.cluster import ray_session
from pipeline.codec import Codec
from pipeline.config import RunConfig
from pipeline.errors import DataError
from pipeline.parts import Part, opened, write
from pipeline.progress import Stage
from pipeline.records import Encoded, Ingested, Registered
from pipeline.schema import table_schema
from pipeline.snapshots import Snapshot
from pipeline.spread import actors
from pipeline.storage import attempt, publish, standing, verify_ids, verify_rows
from pipeline.stores.remote import Location, located
from vae import checkpoint


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a latents file holds, and who made it; plain enough to travel to an actor."""

    directory: str
    model: str
    model_name: str
    id_column: str
    passthrough: tuple[str, ...]
    reconstruct: bool
    use_gpu: bool
    facts: dict[str, str]
    """Key-value metadata of each file: what the manifest says at length."""


def root(config: RunConfig) -> Location:
    """Where the latents' snapshots live."""
    return storage.root(config, "latents")


def encode(config: RunConfig, registered: Registered, ingested: Ingested) -> Encoded:
    """Encode every row of the snapshot, and publish; a no-op if this model encoded this data this way before.

    Raises DataError if the data lacks a column of the model's, InfrastructureError if actors cannot be had.
    """
    with Stage("encode") as stage:
        run_key = keys.latents(config, content=ingested.content, model_digest=registered.digest)
        if (known := standing(root(config), run_key)) is not None:
            stage.update(f"unchanged, {known.directory.name} stands")
            return record(known, new=False)
        latent = Codec.load(registered.model).latent
        with attempt(root(config), run_key) as directory:
            output = _output(config, registered, directory, run_key)
            parts = sorted(_encode_all(config, ingested, output, stage), key=lambda part: part.path)
            verify_rows(ingested.rows, parts, root(config))
            verify_ids(parts, directory, config.id_column)
            manifest = {**_manifest(config, registered, ingested), "run_key": run_key, "latent": latent}
            return record(publish(root(config), directory, parts, manifest), new=True)


def record(snapshot: Snapshot, *, new: bool = False) -> Encoded:
    """The facts of published latents."""
    facts = snapshot.manifest
    return Encoded(
        snapshot=str(snapshot.directory),
        key=facts["run_key"],
        digest=snapshot.digest,
        rows=facts["rows"],
        quarantined=facts["quarantined"],
        files=len(facts["files"]),
        bytes=sum(part["bytes"] for part in facts["files"]),
        latent=facts["latent"],
        model=f"{facts['model']['name']}/{facts['model']['version']}",
        new=new,
    )


def latest(config: RunConfig) -> Encoded:
    """The newest latents of the run's name. Raises DataError if there are none."""
    return record(latents.resolve(root(config)))


def _output(config: RunConfig, registered: Registered, directory: Location, run_key: str) -> Output:
    facts = {
        "contract": str(latents.CONTRACT),
        "run_key": run_key,
        "model": f"{registered.name}/{registered.version}",
        "model_digest": registered.digest,
    }
    return Output(
        directory=str(directory),
        model=registered.model,
        model_name=f"{registered.name}/{registered.version}",
        id_column=config.id_column,
        passthrough=tuple(config.role("passthrough")),
        reconstruct=config.encode.reconstruct,
        use_gpu=config.encode.use_gpu,
        facts={f"latentpipe.{name}": value for name, value in facts.items()},
    )


def _encode_all(config: RunConfig, ingested: Ingested, output: Output, stage: Stage) -> list[Part]:
    paths = [str(path) for path in Snapshot.at(ingested.snapshot).files]
    parts: list[Part] = []
    with ray_session(config.cluster, cpus=config.cpus, log=config.ray_log):
        for _, facts in actors(UnitEncoder(output), paths, workers=config.encode.num_workers, use_gpu=output.use_gpu):
            parts.append(Part(**facts))
            stage.count(sum(part.rows for part in parts), ingested.rows)
    return parts


class UnitEncoder:
    """What an actor does: it holds the model, and turns one file of rows into one file of latents."""

    def __init__(self, output: Output) -> None:
        self.output = output

    @cached_property
    def codec(self) -> Codec:
        """The model, loaded with the first unit: an error in it is then the unit's, and has a name."""
        return Codec.load(self.output.model, device="cuda" if self.output.use_gpu else "cpu")

    def __call__(self, path: str) -> dict[str, Any]:
        """Encode one file; the facts of the file written."""
        return asdict(self.encode(Path(path)))

    def encode(self, path: Path) -> Part:
        """Read, encode and write the rows of one file, sorted by id."""
        with opened(path) as file:
            table = file.read().sort_by(self.output.id_column)
        schema = self._schema(table.schema)
        directory = located(self.output.directory)
        return write(directory, path.name, self._encoded(table, schema), schema=schema, id_column=self.output.id_column)

    def _schema(self, source: pa.Schema) -> pa.Schema:
        output = self.output
        schema = latents.schema(
            id=source.field(output.id_column),
            latent=self.codec.latent,
            recon=self.codec.features.struct() if output.reconstruct else None,
            passthrough=[source.field(name) for name in output.passthrough],
        )
        return schema.with_metadata(output.facts)

    def _encoded(self, table: pa.Table, schema: pa.Schema) -> list[pa.RecordBatch]:
        codes, output = self.codec.encode(table), self.output
        finite = np.isfinite(codes.mu).all(axis=1) & np.isfinite(codes.logvar).all(axis=1)
        if not finite.all():
            row = table.column(output.id_column)[int(finite.argmin())].as_py()
            raise DataError(f"the code of {output.id_column} = {row!r} is not finite; nothing was published")
        columns = {
            output.id_column: table.column(output.id_column),
            "mu": _vectors(codes.mu),
            "logvar": _vectors(codes.logvar),
            "model_version": pa.repeat(output.model_name, len(table)),
            **{name: table.column(name) for name in output.passthrough},
        }
        if output.reconstruct:
            columns["recon"] = self.codec.decode(codes.mu)
        batches: list[pa.RecordBatch] = pa.table([columns[name] for name in schema.names], schema=schema).to_batches()
        return batches


def _vectors(codes: Any) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel()), type=latents.vector(codes.shape[1]))


def _manifest(config: RunConfig, registered: Registered, ingested: Ingested) -> dict[str, Any]:
    passthrough = [it for it in table_schema(config) if it.name in config.role("passthrough")]
    return {
        "kind": "latents",
        "contract": latents.CONTRACT,
        "id": config.id_column,
        "passthrough": {it.name: str(it.type) for it in passthrough},
        "model": {
            "name": registered.name,
            "version": registered.version,
            "digest": registered.digest,
            "mlflow_run": registered.mlflow_run,
            "training_key": registered.training_key,
            "files": checkpoint.sealed(registered.model),
        },
        "input": {"snapshot": ingested.snapshot, "key": ingested.key, "digest": ingested.digest},
        "code_version": version("latentpipe"),
        "rows_in": ingested.rows,
        "rows": ingested.rows,
        "quarantined": 0,
    }
