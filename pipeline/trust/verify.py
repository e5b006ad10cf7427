"""verify: is a snapshot what its manifest says? Every file, every row, and of latents a sample computed anew.

In memory that does not grow with the rows. It believes nothing that was noted when the snapshot was written: what can
be counted is counted again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import pyarrow as pa

from pipeline.parts import opened
from pipeline.schema.table import REDACTED
from pipeline.snapshots import Snapshot
from pipeline.spread import threads
from pipeline.stores.remote import Location
from pipeline.trust import files, manifest, rows, shelf, units
from pipeline.trust.findings import RESTORE, Findings, Violation
from pipeline.trust.ids import typed
from pipeline.trust.layout import id_column
from pipeline.trust.origin import source, stated
from pipeline.trust.rows import BATCH_ROWS, Ids, Read

WORKERS: Final = min(os.cpu_count() or 1, 8)
Again = Callable[[Snapshot, Snapshot], tuple[str, list[Violation]] | None]
"""Computes a sample of latents anew from their dataset: what was done, and what differs; None without the model."""


def verify(location: str | Location, *, quick: bool = False, again: Again | None = None) -> Findings:
    """Check a snapshot, or the newest of a folder of snapshots; `quick`: its manifest, sizes and footers alone.

    Raises DataError if there is no snapshot.
    """
    snapshot = shelf.resolved(location)
    findings = Findings(str(snapshot.directory))
    if not findings.looked("manifest", "sealed and well-formed", manifest.unreadable(snapshot)):
        return findings
    told = snapshot.manifest
    findings.looked("account", _account(told), manifest.misstated(snapshot))
    if not _files(findings, snapshot, quick=quick) or quick:
        return findings
    seen = _rows(findings, snapshot)
    origin = source(snapshot)
    if (before := stated(snapshot)) is not None and origin is None:
        findings.skipped("input", f"{before[0]} is gone, or another stands there")
    elif origin is not None:
        findings.looked("input", f"the ids are those of {origin.directory}", _other_ids(snapshot, origin, seen))
    _units(findings, snapshot, origin)
    if told["kind"] == "latents" and again is not None and findings.ok:
        _sample(findings, snapshot, origin, again)
    return findings


def _account(told: dict[str, Any]) -> str:
    what = f"{told['kind']} version {told['version']}, contract {told['contract']}"
    rows_in = told.get("rows_in", told["rows"])
    return f"{what}; {rows_in:,} rows in = {told['rows']:,} kept + {told.get('quarantined', 0):,} set aside"


def _files(findings: Findings, snapshot: Snapshot, *, quick: bool) -> bool:
    parts = [*files.listed(snapshot).values()]
    sizes = shelf.sizes(snapshot)
    look = partial(_damaged, snapshot, sizes=sizes, quick=quick)
    found = [it for _, many in sorted(threads(look, parts, workers=WORKERS)) for it in many]
    size = sum(part["bytes"] for part in parts)
    manner = "sizes, footers" if quick else "sizes, sha256, footers, columns and metadata"
    detail = f"{len(parts):,} files, {size:,} bytes, none else; {manner} as listed"
    return findings.looked("files", detail, [*files.unlisted(snapshot, sizes), *found])


def _damaged(snapshot: Snapshot, part: files.Part, *, sizes: dict[str, int], quick: bool) -> list[Violation]:
    return [*files.damaged(snapshot, part, sizes, quick=quick)]


def _rows(findings: Findings, snapshot: Snapshot) -> list[Read]:
    told = snapshot.manifest
    look = partial(rows.read, snapshot.data, manifest=told)
    seen = [it for _, it in sorted(threads(look, told["files"], workers=WORKERS), key=lambda it: it[0])]
    found = [*rows.unlike(seen), *(it for one in seen for it in one.violations)]
    if all(it.cure != RESTORE for it in found):
        found += [*rows.repeated(snapshot.data, told, seen)]
    findings.looked("rows", f"{told['rows']:,} read, page checksums on; ids unique, no null or NaN amiss", found)
    if told["kind"] == "dataset":
        columns = len(told["columns"])
        found = [*rows.other_statistics(told, seen)]
        findings.looked("columns", f"the statistics of {columns} columns are those of the rows", found)
    return seen


def _other_ids(snapshot: Snapshot, origin: Snapshot, seen: list[Read]) -> Iterator[Violation]:
    """Whether ids were lost or added on the way."""
    there = [it for _, it in threads(partial(_ids, origin), origin.manifest["files"], workers=WORKERS)]
    kept = sum(it.ids.count for it in seen) + snapshot.manifest.get("quarantined", 0)
    if kept != (came := sum(it.count for it in there)):
        yield Violation(f"{kept:,} ids kept or set aside, {came:,} in its input", str(origin.directory))
    elif (aside := _aside(snapshot, seen)) is not None:
        total = sum(it.ids.total for it in seen) + aside.total
        if total % rows.WRAP != sum(it.total for it in there) % rows.WRAP:
            yield Violation("its ids are not those of its input", str(origin.directory))


def _ids(snapshot: Snapshot, part: files.Part) -> Ids:
    found = Ids()
    with opened(snapshot.data / part["path"]) as file:
        name = id_column(snapshot.manifest, file.schema_arrow)
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[name], use_threads=False):
            found.add(batch.column(0))
    return found


def _aside(snapshot: Snapshot, seen: list[Read]) -> Ids | None:
    """The ids in the quarantine, which holds them as text, as those of the data; None if they are secret."""
    found = Ids()
    kind = next((it.ids.last.type for it in seen if it.ids.last is not None), pa.string())
    for part in snapshot.manifest.get("quarantine", ()):
        with opened(snapshot.data / part["path"]) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=["id"]):
                texts = batch.column(0).to_pylist()
                if REDACTED in texts:
                    return None
                found.add(pa.array([typed(it, kind) for it in texts], kind))
    return found


def _units(findings: Findings, snapshot: Snapshot, origin: Snapshot | None) -> None:
    told = snapshot.manifest
    if "units" not in told:
        return
    found = units.of_dataset(snapshot) if told["kind"] == "dataset" else units.of_latents(snapshot, origin)
    whole = "the whole source" if told["kind"] == "dataset" else "the whole dataset" if origin else "their files"
    findings.looked("units", f"{len(told['units']):,} units cover {whole}, each part once", found)


def _sample(findings: Findings, snapshot: Snapshot, origin: Snapshot | None, again: Again) -> None:
    if origin is None:
        findings.skipped("sample", "without the dataset there is nothing to compute it from")
    elif (done := again(snapshot, origin)) is None:
        findings.skipped("sample", f"no model {snapshot.manifest['model']['digest'][:12]} here; name the run: --config")
    else:
        findings.looked("sample", *done)
