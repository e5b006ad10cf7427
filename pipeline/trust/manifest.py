"""A manifest by itself: sealed, well-formed, of a contract that is known, and right in its sums."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from pipeline import keys, latents
from pipeline.seal import broken
from pipeline.snapshots import MANIFEST, Snapshot
from pipeline.storage import SECTIONS
from pipeline.trust.findings import RESTORE, Violation

Shape = Mapping[str, Any]
"""Of a JSON object: the type of each field, or the shape of an object in it."""
COMMON: Final[Shape] = {"kind": str, "contract": int, "run_key": str, "version": int, "rows": int, "files": list}
ACCOUNT: Final[Shape] = {"rows_in": int, "quarantined": int, "quarantine": list}
SOURCE: Final[Shape] = {"inputs": list, "units": list, "rules": {"columns": dict, "data": dict}}
TABLE: Final[Shape] = {"content": str, "profile": list, "schema": dict, "columns": dict}
MODEL: Final[Shape] = {"name": str, "version": int, "digest": str}
MADE: Final[Shape] = {**MODEL, "mlflow_run": str, "training_key": str, "files": dict}
CODES: Final[Shape] = {"id": str, "latent": int, "passthrough": dict}
KINDS: Final[Mapping[str, Shape]] = {
    "dataset": {**ACCOUNT, **SOURCE, **TABLE},
    "latents": {**ACCOUNT, **CODES, "model": MADE, "input": {"snapshot": str, "key": str, "digest": str}},
    "reduced": {"latents": str, "latents_digest": str},
    "samples": {"model": MODEL, "seed": int},
}
KNOWN: Final = {**keys.CONTRACTS, "latents": latents.CONTRACT}
PART: Final[Shape] = {"path": str, "rows": int, "bytes": int, "sha256": str}
SHA256: Final = re.compile(r"[0-9a-f]{64}")


def unreadable(snapshot: Snapshot) -> Iterator[Violation]:
    """What keeps its manifest from being believed at all."""
    content = (snapshot.directory / MANIFEST).read_bytes()
    if reason := broken(content):
        yield Violation(f"altered: {reason}", MANIFEST, RESTORE)
        return
    facts = snapshot.manifest
    shape = {**COMMON, **KINDS.get(facts.get("kind", ""), {})}
    yield from (Violation(it, MANIFEST) for it in misshapen(facts, shape))
    for name in SECTIONS:
        for part in facts.get(name, ()):
            yield from (Violation(f"{name}: {it}", MANIFEST) for it in _misstated(part))


def misstated(snapshot: Snapshot) -> Iterator[Violation]:
    """What a readable manifest says that cannot be."""
    facts = snapshot.manifest
    newest = KNOWN.get(facts["kind"])
    if newest is None or facts["contract"] > newest:
        known = f"{facts['kind']} contract {newest}" if newest else f"no {facts['kind']!r}"
        yield Violation(f"contract {facts['contract']}; this program knows {known}", MANIFEST, "use a newer program")
    if facts["version"] != snapshot.version:
        yield Violation(f"says it is version {facts['version']}", MANIFEST, "give the folder its name back")
    paths = Counter(part["path"] for name in SECTIONS for part in facts.get(name, ()))
    yield from (Violation("listed twice", path) for path, count in paths.items() if count > 1)
    yield from (Violation(it, MANIFEST) for it in _sums(facts))


def misshapen(facts: Any, shape: Shape, path: str = "") -> Iterator[str]:
    """The fields that are missing or of another type."""
    if not isinstance(facts, dict):
        yield f"{path.rstrip('.') or 'it'} is not an object"
        return
    for name, kind in shape.items():
        if isinstance(kind, Mapping):
            yield from misshapen(facts.get(name), kind, f"{path}{name}.")
        elif not isinstance(facts.get(name), kind) or isinstance(facts[name], bool):
            yield f"{path}{name} is not {'there' if name not in facts else 'of type ' + kind.__name__}"


def _misstated(part: Any) -> Iterator[str]:
    problems = [*misshapen(part, PART)]
    yield from problems
    if problems:
        return
    if PurePosixPath(part["path"]).is_absolute() or ".." in PurePosixPath(part["path"]).parts:
        yield f"{part['path']!r} leads out of the snapshot"
    if part["rows"] < 0 or part["bytes"] <= 0 or not SHA256.fullmatch(part["sha256"]):
        yield f"{part['path']}: rows, bytes or sha256 cannot be"


def _sums(facts: Mapping[str, Any]) -> Iterator[str]:
    kept, aside = (sum(part["rows"] for part in facts.get(name, ())) for name in ("files", "quarantine"))
    if kept != facts["rows"]:
        yield f"{facts['rows']:,} rows stated, {kept:,} in its files"
    if "quarantined" in facts and aside != facts["quarantined"]:
        yield f"{facts['quarantined']:,} rows stated as set aside, {aside:,} in its quarantine"
    if "rows_in" in facts and facts["rows_in"] != kept + aside:
        yield f"{facts['rows_in']:,} rows in are not {kept:,} kept + {aside:,} set aside"
