"""Some rows of latents computed anew: by the registered model, from the dataset, to be compared bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.codec import Codec, Codes
from pipeline.config import Data, Encode, RunConfig
from pipeline.errors import DataError
from pipeline.evidence import Evidence
from pipeline.parts import opened, plain_id
from pipeline.schema.table import REDACTED
from pipeline.snapshots import Snapshot
from pipeline.stores.remote import Location, located
from pipeline.tracking import versions
from pipeline.trust import ids
from pipeline.trust.findings import Violation
from pipeline.trust.layout import secrets
from vae import checkpoint

TOLERANCE: Final = 1e-4
"""Of codes computed by another kind of processor or version of torch, relative to 1 + their size."""
SHOWN: Final = 10
Exact = npt.NDArray[np.bool_]
"""Which rows of the sample were made by the arithmetic of this process."""


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
        hidden = frozenset().union(*(secrets(it.manifest) or () for it in (snapshot, dataset)))
        sample = Sample.drawn(snapshot, self.rows, hidden=hidden)
        source = originals(dataset, sample.id_column, sample.ids)
        if lost := [row for row, it in enumerate(sample.ids) if it not in source]:
            return "", [sample.differing(row, "the dataset has no such row") for row in lost[:SHOWN]]
        rows = pa.concat_tables([source[it] for it in sample.ids])
        codec = Codec.load(model.directory)
        codes, beside = _computed(codec, rows, facts)
        if lacking := sorted({*beside.schema.names} - {*sample.rows.schema.names}):
            return "", [Violation(f"column {it!r} is missing, and was asked for", sample.files[0]) for it in lacking]
        exact = np.array([it == codec.computed for it in sample.computed])
        found = [*_other_codes(sample, codes, exact=exact)]
        found += [] if found else _other_cells(sample, beside, among=exact)
        found += _other_cells(sample, rows.select([*facts["passthrough"]]))
        told = f"{len(exact)} rows computed anew by {name(facts)}, {model.origin}: "
        return told + _manner(exact, sample), found[:SHOWN]


def _manner(exact: Exact, sample: Sample) -> str:
    """How strictly rows were compared."""
    if exact.all():
        return "equal to the bit on this CPU"
    other = next(it for it, same in zip(sample.computed, exact, strict=True) if not same) or {"what": "is not stated"}
    by = ", ".join(f"{name} {value}" for name, value in sorted(other.items()))
    return (
        f"{exact.sum()} equal to the bit on this CPU; of {(~exact).sum()}, made elsewhere ({by}), "
        f"the codes within {TOLERANCE:g}, reconstruction and evidence not compared"
    )


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
            version = versions.find(settings, digest=facts["digest"])
            if version is not None and int(version.version) != facts["version"]:
                where = f"model {facts['name']!r}"
                raise DataError(f"the registry has it as version {version.version}, not {facts['version']}", where)
            if version is not None:
                return Model(versions.files(settings, version), "from the registry")
        for folder in (
            root / "models" / facts["digest"][:16],
            root / "training" / facts["training_key"][:16] / "model",
        ):
            if (folder / checkpoint.CHECKSUMS).is_file() and checkpoint.digest(folder) == facts["digest"]:
                return Model(folder, f"not in the registry, from {folder}")
    return None


@dataclass(frozen=True)
class Sample:
    """Rows of latents, and the file that each lies in."""

    rows: pa.Table
    files: list[str]
    computed: list[dict[str, Any] | None]
    """By what arithmetic each was made, if that is stated."""
    id_column: str
    hidden: frozenset[str]
    """Columns whose values are not told."""

    @classmethod
    def drawn(cls, snapshot: Snapshot, count: int, *, hidden: frozenset[str]) -> Self:
        """So many rows, evenly spread over all, the same ones each time; one row group is held at a time."""
        total = snapshot.manifest["rows"]
        wanted = np.unique((2 * np.arange(count) + 1) * total // (2 * count))
        starts = [0, *accumulate(part["rows"] for part in snapshot.manifest["files"])]
        found = [
            (path.name, table)
            for path, first, after in zip(snapshot.files, starts, starts[1:], strict=False)
            for table in _taken(path, wanted[(wanted >= first) & (wanted < after)] - first)
        ]
        files = [name for name, table in found for _ in range(len(table))]
        facts = snapshot.manifest
        by_file = {path: it.get("computed") for it in facts.get("units", ()) for path in it["files"]}
        computed = [by_file.get(name) or facts.get("computed") for name in files]
        return cls(pa.concat_tables([table for _, table in found]), files, computed, facts["id"], hidden)

    @property
    def ids(self) -> list[Any]:
        """Of the rows, in their order."""
        ids: list[Any] = self.rows.column(self.id_column).to_pylist()
        return ids

    def differing(self, row: int, what: str) -> Violation:
        """That something of a row is not what it is when computed anew."""
        told = REDACTED if self.id_column in self.hidden else plain_id(self.ids[row])
        return Violation(f"{self.id_column} = {told}: {what}", self.files[row])


def originals(dataset: Snapshot, id_column: str, values: Sequence[Any]) -> dict[Any, pa.Table]:
    """The dataset's rows with these ids, each as a table of one row."""
    found: dict[Any, pa.Table] = {}
    for part in dataset.manifest["files"]:
        missing = [it for it in values if it not in found and ids.can_hold([part], it)]
        if missing:
            places = ids.rows(dataset.data / part["path"], id_column, missing)
            found.update((it.table.column(id_column)[0].as_py(), it.table) for it in places)
    return found


def _taken(path: Location, positions: Any) -> Iterator[pa.Table]:
    if not len(positions):
        return
    with opened(path) as file:
        first = 0
        for group in range(file.metadata.num_row_groups):
            after = first + file.metadata.row_group(group).num_rows
            if len(here := positions[(positions >= first) & (positions < after)]):
                yield file.read_row_group(group).take(here - first)
            first = after


def _computed(codec: Codec, rows: pa.Table, facts: Mapping[str, Any]) -> tuple[Codes, pa.Table]:
    """The codes of these rows, and what the manifest says is written beside them; nothing if it does not say."""
    values, observed = codec.features.transform(rows)
    codes = codec.infer(values, observed)
    if "output" not in facts:
        return codes, pa.table({})
    settings = Encode(**{name: it for name, it in facts["output"]["settings"].items() if name in vars(Encode())})
    guess = codec.guess(codes.mu)
    recon = {"recon": codec.features.restore(guess)} if settings.reconstruct else {}
    evidence = Evidence(codec, settings).columns(rows, rows.column(facts["id"]), values, observed, codes, guess=guess)
    return codes, pa.table({**recon, **evidence})


def _other_codes(sample: Sample, codes: Codes, *, exact: Exact) -> Iterator[Violation]:
    for column, now in (("mu", codes.mu), ("logvar", codes.logvar)):
        was = np.stack(sample.rows.column(column).to_numpy())
        same = was.view(np.uint32) == now.view(np.uint32)
        same |= ~exact[:, None] & (np.abs(was - now) <= TOLERANCE * (1 + np.abs(now)))
        for row in np.flatnonzero(~same.all(axis=1)).tolist():
            yield sample.differing(row, f"{column} is {was[row].tolist()}, and {now[row].tolist()} computed anew")


def _other_cells(sample: Sample, rows: pa.Table, *, among: Exact | None = None) -> Iterator[Violation]:
    """Cells that are not written alike, `among` these rows; NaN is like NaN, and nothing is told of a secret column."""
    written, computed = sample.rows.select(rows.schema.names).flatten(), rows.flatten()
    for column in computed.schema.names:
        cells = zip(written.column(column).to_pylist(), computed.column(column).to_pylist(), strict=True)
        secret = bool(sample.hidden & {column, column.partition(".")[2]})
        for row, (was, now) in enumerate(cells):
            if repr(was) != repr(now) and (among is None or among[row]):
                told = (REDACTED, REDACTED) if secret else (was, now)
                yield sample.differing(row, f"{column} is {told[0]!s:.60}, and should be {told[1]!s:.60}")


def _workspaces(snapshot: Snapshot, config: RunConfig | None) -> list[Path]:
    """Where the models may be: the run's workspace, or those that the dataset and the latents lie in."""
    if config is not None:
        return [config.root]
    near = (located(snapshot.manifest["input"]["snapshot"]), snapshot.directory)
    return [*dict.fromkeys(it.parents[2] for it in near if isinstance(it, Path) and len(it.parents) > 2)]
