"""Do the units of work account for everything: every file in one of them, and nothing of the input left out?"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.snapshots import MANIFEST, Snapshot
from pipeline.trust import shelf
from pipeline.trust.files import listed
from pipeline.trust.findings import Violation

Unit = Mapping[str, Any]


def of_dataset(snapshot: Snapshot) -> Iterator[Violation]:
    """The units of a dataset against its files and the pieces of its source."""
    facts = snapshot.manifest
    units = facts["units"]
    yield from _each_file_once(snapshot, [it["taken"]["parts"] for it in units])
    for it in units:
        yield from _rows_agree(snapshot, it, [at for at in it["taken"]["parts"] if "/" not in at], it["taken"]["rows"])
    pieces = Counter(
        (it["name"], it["sha256"], at["start"], at["stop"]) for it in facts["inputs"] for at in it["pieces"]
    )
    taken = Counter(_piece(identity) for it in units for identity in it["identities"])
    for piece in (pieces - taken) + (taken - pieces):
        yield Violation(f"a piece of the source is not in exactly one unit: {piece[2]}..{piece[3]}", piece[0])
    if (rows_in := sum(it["taken"]["rows_in"] for it in units)) != facts["rows_in"]:
        yield Violation(f"its units took in {rows_in:,} rows, {facts['rows_in']:,} stated", MANIFEST)
    content = hashlib.sha256("".join(part["sha256"] for part in facts["files"]).encode()).hexdigest()
    if content != facts["content"]:
        yield Violation("`content` is not the digest of its files' digests", MANIFEST)


def of_latents(snapshot: Snapshot, dataset: Snapshot | None) -> Iterator[Violation]:
    """The units of latents against their files and, if it is there, the dataset they were made from."""
    units = snapshot.manifest["units"]
    yield from _each_file_once(snapshot, [[*it["files"], *it["quarantine"]] for it in units])
    for it in units:
        yield from _rows_agree(snapshot, it, it["files"], it["rows"])
        yield from _rows_agree(snapshot, it, it["quarantine"], it["quarantined"])
        if (rows_in := sum(at["rows"] for at in inputs(it))) != it["rows"] + it["quarantined"]:
            yield Violation(f"unit {it['number']}: {rows_in:,} rows in are not those kept and set aside", MANIFEST)
    if dataset is not None:
        yield from _whole_input(units, dataset)


def inputs(unit: Unit) -> Sequence[Mapping[str, Any]]:
    """The dataset's files, or row groups of one, that a unit of latents was made from."""
    found = unit.get("inputs", unit.get("input"))
    return found if isinstance(found, list) else [found]


def _whole_input(units: Sequence[Unit], dataset: Snapshot) -> Iterator[Violation]:
    """Every row group of every file of the dataset in exactly one unit, and no other."""
    files = {part["path"]: part for part in dataset.manifest["files"]}
    taken: dict[str, Counter[int]] = {path: Counter() for path in files}
    for unit in units:
        for it in inputs(unit):
            if it["file"] not in files or files[it["file"]]["sha256"] != it["sha256"]:
                yield Violation(f"unit {unit['number']} is of a file that the dataset has not: {it['file']}", MANIFEST)
            else:
                groups = _groups(dataset, it["file"])
                taken[it["file"]].update(range(*it["row_groups"]) if it.get("row_groups") else range(groups))
    for path, counts in taken.items():
        if counts != Counter(range(_groups(dataset, path))):
            yield Violation("its row groups are not each in exactly one unit", f"input {path}")


def _groups(dataset: Snapshot, path: str) -> int:
    with shelf.footer(dataset, path) as file:
        return int(file.num_row_groups)


def _each_file_once(snapshot: Snapshot, lists: Sequence[Sequence[str]]) -> Iterator[Violation]:
    counts = Counter(path for paths in lists for path in paths)
    for path in listed(snapshot):
        if counts[path] != 1:
            yield Violation(f"in {counts[path]} units, not in one", path)
    for path in counts.keys() - listed(snapshot).keys():
        yield Violation("a unit's file that the manifest does not list", path)


def _rows_agree(snapshot: Snapshot, unit: Unit, paths: Sequence[str], rows: int) -> Iterator[Violation]:
    files = listed(snapshot)
    if (found := sum(files[it]["rows"] for it in paths if it in files)) != rows:
        yield Violation(f"unit {unit['number']}: {rows:,} rows stated, {found:,} in its files", MANIFEST)


def _piece(identity: str) -> tuple[Any, ...]:
    name, _, sha256, start, stop, *_ = json.loads(identity)
    return name, sha256, start, stop
