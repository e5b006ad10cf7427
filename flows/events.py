"""What a run tells the world, as Prefect events that automations can act on."""

from __future__ import annotations

from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from prefect.events import emit_event

from pipeline import drift
from pipeline.config import RunConfig
from pipeline.records import Encoded
from pipeline.snapshots import Snapshot

DRIFT: Final = "latentpipe.drift"
NAMED: Final = 20
"""Signals in an event, at most: those that moved."""


def tell(config: RunConfig, encoded: Encoded) -> None:
    """Emit `latentpipe.drift` if something moved; the same latents have the same event, however often they are told."""
    found: dict[str, Any] = Snapshot.at(encoded.snapshot).manifest.get("drift") or {}
    if encoded.drift in ("", "nothing"):
        return
    moved = [it for it in found["signals"] if it["moved"]]
    emit_event(
        DRIFT,
        resource={"prefect.resource.id": f"latentpipe.latents.{config.name}", "prefect.resource.name": config.name},
        related=[
            {
                "prefect.resource.id": f"latentpipe.model.{encoded.model}",
                "prefect.resource.role": "model",
                "prefect.resource.name": encoded.model,
            }
        ],
        payload={
            "verdict": encoded.drift,
            "told": drift.told(found),
            "snapshot": encoded.snapshot,
            "rows": found["rows"],
            "moved": moved[:NAMED],
        },
        id=uuid5(NAMESPACE_URL, f"latentpipe.drift/{encoded.key}"),
    )
