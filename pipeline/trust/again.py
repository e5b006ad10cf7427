"""Some rows of latents computed anew: by the registered model, from the dataset, to be compared bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pipeline import tracking
from pipeline.codec import Codec, arithmetic
from pipeline.config import Data, RunConfig
from pipeline.errors import DataError
from pipeline.parts import opened, plain_id
from pipeline.snapshots import Snapshot
from pipeline.trust import ids
from pipeline.trust.findings import Violation
from vae import checkpoint

TOLERANCE: Final = 1e-4
"""Of codes computed by another kind of processor or version of torch, relative to 1 + their size."""
SHOWN: Final = 10


@dataclass(frozen=True)
class Model:
    """The model that latents were made by, found again."""

    directory: Path
    origin: str
    """Where it was found, in words."""


@dataclass(frozen=True, kw_only=True)
class Again:
    """Encodes evenly spread rows again and compares: what was done, in words, and the rows that differ.

    To the bit where the processor and torch are those that made them, else within TOLERANCE. Never on a GPU.
    """

    rows: int
    config: RunConfig | None = None
    """The run, if its registry is another than the one embedded in the workspace."""

    def __call__(self, snapshot: Snapshot, dataset: Snapshot) -> tuple[str, list[Violation]] | None:
        """None if the model is nowhere to be had."""
        if (model := registered(snapshot, self.config)) is None:
            return None
        facts = snapshot.manifest
        stored = drawn(snapshot, self.rows)
        source = originals(dataset, facts["id"], stored.column(facts["id"]))
        wanted = stored.column(facts["id"]).to_pylist()
        if lost := [it for it in wanted if it not in source]:
            return "", [Violation(f"the dataset has no row {plain_id(it)}", "rows") for it in lost[:SHOWN]]
        computed = facts.get("computed", arithmetic("cpu"))
        exact = computed == arithmetic("cpu")
        rows, codec = pa.concat_tables([source[it] for it in wanted]), Codec.load(model.directory)
        found = [*_differences(stored, rows, codec, facts, exact=exact)]
        manner = "equal to the bit on this CPU" if exact else f"within {TOLERANCE:g}, as they were made by {computed}"
        return f"{len(stored)} rows computed anew by {name(facts)}, {model.origin}: {manner}", found[:SHOWN]


def name(facts: Mapping[str, Any]) -> str:
    """The model as people call it."""
    return f"{facts['model']['name']}/{facts['model']['version']} ({facts['model']['digest'][:12]})"


def registered(snapshot: Snapshot, config: RunConfig | None) -> Model | None:
    """The model by its digest: from the registry, else from the workspace; None if neither has it.

    The registry is that of `config`, or the one embedded in the workspace of the dataset or of the snapshot. Raises
    DataError if it holds another model under this version, InfrastructureError if it does not answer.
    """
    facts = snapshot.manifest["model"]
    for root in _workspaces(snapshot, config):
        settings = config or RunConfig(name=facts["name"], workspace=str(root), data=Data(uri="-"), columns={})
        if settings.tracking.uri or (root / "mlflow.db").is_file():
            version = tracking.find_version(settings, digest=facts["digest"])
            if version is not None and int(version.version) != facts["version"]:
                where = f"model {facts['name']!r}"
                raise DataError(f"the registry has it as version {version.version}, not {facts['version']}", where)
            if version is not None:
                return Model(tracking.model_files(settings, version), "from the registry")
        for folder in (
            root / "models" / facts["digest"][:16],
            root / "training" / facts["training_key"][:16] / "model",
        ):
            if (folder / checkpoint.CHECKSUMS).is_file() and checkpoint.digest(folder) == facts["digest"]:
                return Model(folder, f"not in the registry, from {folder}")
    return None


def drawn(snapshot: Snapshot, rows: int) -> pa.Table:
    """So many rows, evenly spread over all, the same ones each time; one row group is held at a time."""
    total = snapshot.manifest["rows"]
    wanted = np.unique((2 * np.arange(rows) + 1) * total // (2 * rows))
    starts = [0, *accumulate(part["rows"] for part in snapshot.manifest["files"])]
    found = [
        table
        for path, first, after in zip(snapshot.files, starts, starts[1:], strict=False)
        for table in _taken(path, wanted[(wanted >= first) & (wanted < after)] - first)
    ]
    return pa.concat_tables(found)


def originals(dataset: Snapshot, id_column: str, wanted: pa.ChunkedArray) -> dict[Any, pa.Table]:
    """The dataset's rows with these ids, each as a table of one row."""
    values = wanted.to_pylist()
    found: dict[Any, pa.Table] = {}
    for part in dataset.manifest["files"]:
        missing = [it for it in values if it not in found and ids.can_hold([part], it)]
        if missing:
            places = ids.rows(dataset.data / part["path"], id_column, missing)
            found.update((it.table.column(id_column)[0].as_py(), it.table) for it in places)
    return found


def _taken(path: Path, positions: Any) -> Iterator[pa.Table]:
    if not len(positions):
        return
    with opened(path) as file:
        first = 0
        for group in range(file.metadata.num_row_groups):
            after = first + file.metadata.row_group(group).num_rows
            if len(here := positions[(positions >= first) & (positions < after)]):
                yield file.read_row_group(group).take(here - first)
            first = after


def _differences(
    stored: pa.Table, rows: pa.Table, codec: Codec, facts: Mapping[str, Any], *, exact: bool
) -> Iterator[Violation]:
    codes = codec.encode(rows)
    names = [plain_id(it) for it in stored.column(facts["id"]).to_pylist()]
    for column, anew in (("mu", codes.mu), ("logvar", codes.logvar)):
        was = np.stack(stored.column(column).to_numpy())
        close = was == anew if exact else np.abs(was - anew) <= TOLERANCE * (1 + np.abs(anew))
        for row in np.flatnonzero(~close.all(axis=1)):
            yield _differing(facts["id"], names[row], column, was[row].tolist(), anew[row].tolist())
    cells: dict[str, pa.ChunkedArray] = {it: rows.column(it) for it in facts["passthrough"]}
    if exact and "recon" in stored.schema.names:
        cells["recon"] = pa.chunked_array([codec.decode(codes.mu)])
    for column, source in cells.items():
        yield from _unlike(facts["id"], names, column, stored.column(column).to_pylist(), source.to_pylist())


def _unlike(
    id: str, names: Sequence[Any], column: str, stored: Sequence[Any], anew: Sequence[Any]
) -> Iterator[Violation]:
    """Cells that are not written alike; NaN is like NaN."""
    for name, was, now in zip(names, stored, anew, strict=True):
        if repr(was) != repr(now):
            yield _differing(id, name, column, was, now)


def _differing(id: str, name: Any, column: str, was: Any, now: Any) -> Violation:
    return Violation(f"{column} of {id} = {name} is {was!s:.60}, and {now!s:.60} computed anew", "rows")


def _workspaces(snapshot: Snapshot, config: RunConfig | None) -> list[Path]:
    """Where the models may be: the run's workspace, or those that the dataset and the latents lie in."""
    if config is not None:
        return [config.root]
    near = (Path(snapshot.manifest["input"]["snapshot"]), Path(snapshot.directory).absolute())
    return [*dict.fromkeys(it.parents[2] for it in near if len(it.parents) > 2)]
