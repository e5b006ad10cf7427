"""What a snapshot was made from: the snapshot before it, beside this one or where it was then, known by its digest."""

from __future__ import annotations

from pathlib import Path

from pipeline.snapshots import MANIFEST, Snapshot


def stated(snapshot: Snapshot) -> tuple[Path, str] | None:
    """Where the snapshot it was made from lay, and that one's digest; None if it was made from none."""
    facts = snapshot.manifest
    if facts["kind"] == "latents":
        return Path(facts["input"]["snapshot"]), facts["input"]["digest"]
    if facts["kind"] == "reduced":
        return Path(facts["latents"]), facts["latents_digest"]
    return None


def source(snapshot: Snapshot) -> Snapshot | None:
    """The snapshot it was made from, digest checked; None if it is gone, or another stands in its place."""
    if (told := stated(snapshot)) is None:
        return None
    path, digest = told
    moved = Path(*snapshot.directory.absolute().parts[:-3], *path.parts[-3:])
    there = (Snapshot(it) for it in (moved, path) if (it / MANIFEST).is_file())
    return next((it for it in there if it.digest == digest), None)
