"""sample: new rows from the model alone: z from the prior, x from p(x | z), in the table's own columns and units."""

from __future__ import annotations

import pyarrow as pa

from pipeline import keys, storage
from pipeline.codec import Codec
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.parts import write
from pipeline.progress import Stage
from pipeline.records import Registered, Sampled
from pipeline.snapshots import Snapshot
from pipeline.storage import attempt, publish, standing
from pipeline.stores.remote import Location


def root(config: RunConfig) -> Location:
    """Where the snapshots of samples live."""
    return storage.root(config, "samples")


def sample(config: RunConfig, registered: Registered, *, rows: int, seed: int) -> Sampled:
    """Publish `rows` sampled rows; a no-op if the same were sampled before."""
    if rows < 1:
        raise ConfigError(f"--rows {rows}: must be at least 1")
    with Stage("sample"):
        run_key = keys.samples(registered.digest, rows=rows, seed=seed)
        if (known := standing(root(config), run_key)) is not None:
            return _record(known)
        codec = Codec.load(registered.model)
        if not codec.model.stochastic and codec.model.standard:
            raise ConfigError(
                "a deterministic encoder has no prior to sample", cure="train with model.prior = 'mixture'"
            )
        columns = codec.sample(rows, seed=seed)
        table = pa.Table.from_struct_array(columns)
        model = {"name": registered.name, "version": registered.version, "digest": registered.digest}
        manifest = {"kind": "samples", "contract": keys.CONTRACTS["samples"], "run_key": run_key}
        with attempt(root(config), run_key) as directory:
            part = write(directory, "part-00000.parquet", table.to_batches(), schema=table.schema)
            facts = {**manifest, "model": model, "rows": rows, "seed": seed}
            return _record(publish(root(config), directory, [part], facts))


def _record(snapshot: Snapshot) -> Sampled:
    facts = snapshot.manifest
    model = f"{facts['model']['name']}/{facts['model']['version']}"
    return Sampled(snapshot=str(snapshot.directory), rows=facts["rows"], seed=facts["seed"], model=model)
