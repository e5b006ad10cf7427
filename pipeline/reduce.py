"""reduce: latent codes -> their principal components, in Parquet, for plots.

The covariance is summed file by file in float64, so the components are exact at any number of rows. They are kept in
the manifest, and each is signed so that its largest loading is positive, which makes plots comparable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import keys, latents, snapshots, storage
from pipeline.config import RunConfig
from pipeline.errors import DataError
from pipeline.parts import write
from pipeline.progress import Stage
from pipeline.records import Encoded, Reduced
from pipeline.snapshots import Snapshot
from pipeline.storage import attempt, publish, standing, verify_rows
from pipeline.stores.remote import Location

Matrix = npt.NDArray[np.float64]


def root(config: RunConfig) -> Location:
    """Where the snapshots of coordinates live."""
    return storage.root(config, "reduced")


def reduce(config: RunConfig, encoded: Encoded) -> Reduced:
    """Write `(id, coords)` for every row of the latents; a no-op if these latents were reduced before."""
    with Stage("reduce") as stage:
        run_key = keys.reduced(config, encoded.key)
        if (known := standing(root(config), run_key)) is not None:
            stage.update(f"unchanged, {known.directory.name} stands")
            return record(known, new=False)
        source = Snapshot.at(encoded.snapshot)
        components = Components.fit(_codes(source), min(config.reduce.dims, encoded.latent))
        with attempt(root(config), run_key) as directory:
            id_field = latents.read(source.directory).schema.field(source.manifest["id"])
            schema = pa.schema([id_field, pa.field("coords", latents.vector(components.dims), nullable=False)])
            coordinates = ((path.name, _coordinates(path, components, schema)) for path in source.files)
            parts = [write(directory, *it, schema=schema, id_column=id_field.name) for it in coordinates]
            verify_rows(encoded.rows, parts, root(config))
            facts = {"latents": encoded.snapshot, "latents_digest": encoded.digest, "rows": encoded.rows}
            manifest = {"kind": "reduced", "contract": keys.CONTRACTS["reduced"], "run_key": run_key, **facts}
            snapshot = publish(root(config), directory, parts, {**manifest, "pca": components.to_dict()})
        return record(snapshot, new=True)


def record(snapshot: Snapshot, *, new: bool = False) -> Reduced:
    """The facts of published coordinates."""
    facts = snapshot.manifest
    return Reduced(
        snapshot=str(snapshot.directory),
        digest=snapshot.digest,
        rows=facts["rows"],
        dims=len(facts["pca"]["explained"]),
        explained=tuple(facts["pca"]["explained"]),
        new=new,
    )


def latest(config: RunConfig, encoded: Encoded) -> Reduced:
    """The coordinates of these latents. Raises DataError if there are none."""
    snapshot = snapshots.find(root(config), keys.reduced(config, encoded.key))
    if snapshot is None:
        raise DataError("these latents were not reduced", encoded.snapshot, "run `latentpipe reduce` first")
    return record(snapshot)


@dataclass(frozen=True)
class Components:
    """Principal axes of codes: coords = (mu - mean) @ axes."""

    mean: Matrix
    axes: Matrix
    """`[latent, dims]`, orthonormal columns."""
    explained: tuple[float, ...]

    @property
    def dims(self) -> int:
        """Number of coordinates."""
        return int(self.axes.shape[1])

    @classmethod
    def fit(cls, chunks: Iterator[npt.NDArray[np.float32]], dims: int) -> Self:
        """The `dims` leading eigenvectors of the codes' covariance."""
        rows, total, products = 0, np.zeros(()), np.zeros(())
        for chunk in chunks:
            codes = chunk.astype(np.float64)
            rows, total, products = rows + len(codes), total + codes.sum(0), products + codes.T @ codes
        mean: Matrix = np.asarray(total / rows)
        variances, axes = np.linalg.eigh(np.asarray(products / rows) - np.outer(mean, mean))
        leading = np.argsort(variances)[::-1][:dims]
        axes = axes[:, leading]
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dims)])
        whole = max(float(variances.clip(0).sum()), np.finfo(np.float64).tiny)
        return cls(mean, axes, tuple((variances[leading].clip(0) / whole).tolist()))

    def apply(self, codes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Codes `[row, latent]` as coordinates `[row, dims]`."""
        return ((codes - self.mean) @ self.axes).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        return {"mean": self.mean.tolist(), "axes": self.axes.tolist(), "explained": list(self.explained)}


def _codes(snapshot: Snapshot) -> Iterator[npt.NDArray[np.float32]]:
    for batch in latents.read(snapshot.directory).to_batches(columns=["mu"]):
        yield _matrix(batch.column("mu"))


def _matrix(mu: pa.FixedSizeListArray) -> npt.NDArray[np.float32]:
    matrix: npt.NDArray[np.float32] = mu.flatten().to_numpy().reshape(-1, mu.type.list_size)
    return matrix


def _coordinates(path: Location, components: Components, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    source = latents.open_file(path)
    for batch in source.to_batches(columns=[schema.names[0], "mu"]):
        flat = pa.array(components.apply(_matrix(batch.column("mu"))).ravel())
        coords = pa.FixedSizeListArray.from_arrays(flat, type=schema.field("coords").type)
        yield pa.RecordBatch.from_arrays([batch.column(0), coords], schema=schema)
