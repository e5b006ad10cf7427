"""How a root is laid out, in any store, and what of it is ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.errors import InfrastructureError
from pipeline.stores.remote import Location

MANIFEST: Final = "_manifest.json"
VERSION: Final = re.compile(r"v(\d{6,})")
ATTEMPTS: Final = "_attempts"
DATA: Final = "_data"
LEASE: Final = "_lease"
OURS: Final = re.compile(rf"{VERSION.pattern}|{ATTEMPTS}|{DATA}|_latest\.json|contract\.toml")


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """What a try left, or what it is at."""

    place: Location
    silent_s: float
    """Since the last sign of life, by the store's own clock."""
    live: bool
    """Whether its writer is at work for certain."""


def foreign(root: Location, names: Sequence[str]) -> None:
    """Raise InfrastructureError for a folder that holds files, none of which a snapshot's writer makes."""
    seen = sorted(name for name in names if not name.startswith("."))
    if seen and not any(OURS.fullmatch(name) for name in seen):
        some = ", ".join(seen[:3])
        raise InfrastructureError(
            f"not a folder of snapshots: it holds {some}", str(root), "name another workspace, or move these away"
        )
