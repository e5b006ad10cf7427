"""What a snapshot was made from: the snapshot before it, beside this one or where it was then, known by its digest."""

from __future__ import annotations

from pipeline.snapshots import MANIFEST, Snapshot
from pipeline.stores.remote import located


def stated(snapshot: Snapshot) -> tuple[str, str] | None:
    """Where the snapshot it was made from lay, and that one's digest; None if it was made from none."""
    facts = snapshot.manifest
    if facts["kind"] == "latents":
        return facts["input"]["snapshot"], facts["input"]["digest"]
    if facts["kind"] == "reduced":
        return facts["latents"], facts["latents_digest"]
    return None


def source(snapshot: Snapshot) -> Snapshot | None:
    """The snapshot it was made from, digest checked; None if it is gone, or another stands in its place."""
    if (told := stated(snapshot)) is None:
        return None
    place, digest = told
    kind, name, version = str(place).split("/")[-3:]
    beside = snapshot.directory.parent.parent.parent / kind / name / version
    there = (Snapshot(it) for it in (beside, located(place)) if (it / MANIFEST).is_file())
    return next((it for it in there if it.digest == digest), None)
