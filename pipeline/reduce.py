"""reduce: latent codes -> two or three coordinates, in Parquet, for plots that stay comparable.

A reducer - the principal components, and for `umap` a fitted neighbourhood - belongs to the model that made the codes.
The first latents of a model fit it; later ones are placed by it (`reduce.reuse`). Each snapshot carries its reducer:
the components in its manifest, the neighbourhood in `_reducer/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import keys, latents, snapshots, storage
from pipeline.components import Components
from pipeline.config import RunConfig
from pipeline.errors import DataError
from pipeline.neighbourhood import Neighbourhood
from pipeline.parts import Part, write
from pipeline.progress import Stage
from pipeline.records import Encoded, Reduced
from pipeline.snapshots import Snapshot
from pipeline.storage import attempt, publish, standing, verify_rows
from pipeline.stores.remote import Location

Codes = npt.NDArray[np.float32]
NEIGHBOURHOOD: Final = "_reducer/neighbourhood.parquet"
SETTINGS: Final = ("method", "dims", "neighbours", "min_dist", "sample", "seed")
"""Of [reduce]: what decides a reducer."""


def root(config: RunConfig) -> Location:
    """Where the snapshots of coordinates live."""
    return storage.root(config, "reduced")


def reduce(config: RunConfig, encoded: Encoded) -> Reduced:
    """Write `(id, coords)` for every row of the latents; a no-op if these were reduced so before.

    Raises ConfigError if umap is asked for and not installed.
    """
    with Stage("reduce") as stage:
        older = _standing_reducer(config, encoded)
        run_key = _key(config, encoded, older)
        if (known := standing(root(config), run_key)) is not None:
            stage.update(f"unchanged, {known.directory.name} stands")
            return record(known, new=False)
        source = Snapshot.at(encoded.snapshot)
        reducer = Reducer.of(older) if older else Reducer.fit(config, source, encoded)
        with attempt(root(config), run_key) as directory:
            parts = _coordinates(source, reducer, directory)
            verify_rows(encoded.rows, parts, root(config))
            kept = reducer.write(directory)
            manifest = {**_manifest(config, encoded, source), "run_key": run_key}
            reduction = _reduction(config, encoded, reducer, older)
            snapshot = publish(
                root(config), directory, [*parts, *kept], {**manifest, "reduction": reduction, **reducer.facts()}
            )
        return record(snapshot, new=True)


def record(snapshot: Snapshot, *, new: bool = False) -> Reduced:
    """The facts of published coordinates."""
    facts, reduction = snapshot.manifest, snapshot.manifest["reduction"]
    return Reduced(
        snapshot=str(snapshot.directory),
        digest=snapshot.digest,
        rows=facts["rows"],
        dims=len(facts["pca"]["explained"]),
        explained=tuple(facts["pca"]["explained"]),
        method=reduction["settings"]["method"],
        fitted_on=reduction["fitted_on"]["latents"],
        applied=reduction["applied"],
        new=new,
    )


def latest(config: RunConfig, encoded: Encoded) -> Reduced:
    """The coordinates of these latents. Raises DataError if there are none."""
    snapshot = snapshots.find(root(config), _key(config, encoded, _standing_reducer(config, encoded)))
    if snapshot is None:
        raise DataError("these latents were not reduced", encoded.snapshot, "run `latentpipe reduce` first")
    return record(snapshot)


@dataclass(frozen=True)
class Reducer:
    """What places a code, fitted once per model."""

    components: Components
    neighbourhood: Neighbourhood | None = None

    @classmethod
    def fit(cls, config: RunConfig, source: Snapshot, encoded: Encoded) -> Self:
        """On these latents: the components on all of them, a neighbourhood on some, evenly spread."""
        it = config.reduce
        dims = min(it.dims, encoded.latent)
        components = Components.fit(_codes(source), dims)
        if it.method == "pca":
            return cls(components)
        some = np.concatenate(list(_every(_codes(source), -(-encoded.rows // it.sample))))
        fitted = Neighbourhood.fit(some, dims=dims, neighbours=it.neighbours, min_dist=it.min_dist, seed=it.seed)
        return cls(components, fitted)

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """The one that a snapshot carries."""
        components = Components.from_dict(snapshot.manifest["pca"])
        settings = snapshot.manifest["reduction"]["settings"]
        if settings["method"] == "pca":
            return cls(components)
        kept = latents.open_file(snapshot.data / NEIGHBOURHOOD).to_table()
        return cls(components, Neighbourhood.from_table(kept, neighbours=min(settings["neighbours"], len(kept) - 1)))

    def schema(self, id_field: pa.Field) -> pa.Schema:
        """Of a file of coordinates."""
        vector = latents.vector(self.components.dims)
        names = ["coords"] if self.neighbourhood is None else ["coords", "pca"]
        return pa.schema([id_field, *(pa.field(name, vector, nullable=False) for name in names)])

    def place(self, codes: Codes) -> list[Codes]:
        """The columns after the id."""
        principal = self.components.apply(codes)
        return [principal] if self.neighbourhood is None else [self.neighbourhood.apply(codes), principal]

    def write(self, directory: Location) -> list[Part]:
        """What the manifest has no room for."""
        if self.neighbourhood is None:
            return []
        batch = self.neighbourhood.to_batch()
        return [write(directory, NEIGHBOURHOOD, [batch], schema=batch.schema)]

    def facts(self) -> dict[str, Any]:
        """The manifest's part."""
        return {"pca": self.components.to_dict()}

    @property
    def digest(self) -> str:
        """sha256 of every number that it places codes by: two snapshots of one digest have comparable coordinates."""
        digest = hashlib.sha256(json.dumps(self.components.to_dict()).encode())
        if (it := self.neighbourhood) is not None:
            digest.update(it.mu.tobytes() + it.coords.tobytes() + str(it.neighbours).encode())
        return digest.hexdigest()


def _settings(config: RunConfig, encoded: Encoded) -> dict[str, Any]:
    """Those that decide the reducer."""
    chosen = {name: value for name, value in config.to_dict()["reduce"].items() if name in SETTINGS}
    used = ("method", "dims") if config.reduce.method == "pca" else SETTINGS
    return {name: min(chosen[name], encoded.latent) if name == "dims" else chosen[name] for name in used}


def _standing_reducer(config: RunConfig, encoded: Encoded) -> Snapshot | None:
    """The newest coordinates by this model and these settings, if their reducer is to be used."""
    if config.reduce.reuse == "fit":
        return None
    wanted = {
        "model": Snapshot.at(encoded.snapshot).manifest["model"]["digest"],
        "settings": _settings(config, encoded),
    }
    return snapshots.seek(root(config), lambda it: wanted.items() <= it.manifest.get("reduction", {}).items())


def _key(config: RunConfig, encoded: Encoded, older: Snapshot | None) -> str:
    fitted_on = older.manifest["reduction"]["fitted_on"]["key"] if older else encoded.key
    return keys.reduced(encoded.key, fitted_on=fitted_on, settings=_settings(config, encoded))


def _reduction(config: RunConfig, encoded: Encoded, reducer: Reducer, older: Snapshot | None) -> dict[str, Any]:
    """Which reducer placed these codes, and where it is from."""
    here = {"latents": encoded.snapshot, "key": encoded.key}
    return {
        "settings": _settings(config, encoded),
        "model": Snapshot.at(encoded.snapshot).manifest["model"]["digest"],
        "digest": reducer.digest,
        "fitted_on": older.manifest["reduction"]["fitted_on"] if older else here,
        "applied": older is not None,
    }


def _manifest(config: RunConfig, encoded: Encoded, source: Snapshot) -> dict[str, Any]:
    return {
        "kind": "reduced",
        "contract": keys.CONTRACTS["reduced"],
        "id": source.manifest["id"],
        "latents": encoded.snapshot,
        "latents_digest": encoded.digest,
        "rows": encoded.rows,
    }


def _coordinates(source: Snapshot, reducer: Reducer, directory: Location) -> list[Part]:
    """A file for each of the latents', batch by batch, in their order."""
    id_field = latents.read(source.directory).schema.field(source.manifest["id"])
    schema = reducer.schema(id_field)
    placed = ((path, _placed(path, reducer, schema)) for path in source.files)
    return [write(directory, path.name, it, schema=schema, id_column=id_field.name) for path, it in placed]


def _placed(path: Location, reducer: Reducer, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in latents.open_file(path).to_batches(columns=[schema.names[0], "mu"]):
        flat = (pa.array(it.ravel()) for it in reducer.place(_matrix(batch.column("mu"))))
        vectors = [pa.FixedSizeListArray.from_arrays(it, type=schema.field("coords").type) for it in flat]
        yield pa.RecordBatch.from_arrays([batch.column(0), *vectors], schema=schema)


def _codes(snapshot: Snapshot) -> Iterator[Codes]:
    for batch in latents.read(snapshot.directory).to_batches(columns=["mu"]):
        yield _matrix(batch.column("mu"))


def _every(chunks: Iterator[Codes], step: int) -> Iterator[Codes]:
    """Each `step`-th code of all, whatever the chunks."""
    done = 0
    for chunk in chunks:
        yield chunk[-done % step :: step]
        done += len(chunk)


def _matrix(mu: pa.FixedSizeListArray) -> Codes:
    matrix: Codes = mu.flatten().to_numpy().reshape(-1, mu.type.list_size)
    return matrix
