"""What was published, when, by what; going back to it; and sweeping away what tries that died have left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pipeline.config import RunConfig
from pipeline.errors import ConfigError, DataError
from pipeline.snapshots import MANIFEST, Snapshot, directory_name, versions
from pipeline.storage import KINDS, abandoned, again, collect, root
from pipeline.stores.remote import Location, written

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, kw_only=True)
class Published:
    """A line of the history."""

    kind: str
    version: str
    rows: int
    bytes: int
    files: int
    model: str
    """Name and version; empty for datasets."""
    key: str
    """Its run key."""
    when: str
    """By the store's clock, UTC."""
    current: bool
    snapshot: str

    def line(self) -> str:
        """For a person."""
        mark = "*" if self.current else " "
        sizes = f"{self.rows:>13,} rows {self.bytes:>15,} bytes"
        return f"{mark} {self.kind:<8} {self.version} {sizes}  {self.when}  {self.key[:16]}  {self.model}".rstrip()


def published(config: RunConfig) -> list[Published]:
    """Every snapshot of the run's name, by kind, oldest first."""
    return [it for kind in KINDS for it in _published(kind, root(config, kind))]


def rollback(config: RunConfig, version: str, *, kind: str) -> Snapshot:
    """Publish an older version anew, as the newest; nothing is ever taken away. No-op if it is the newest.

    Raises ConfigError if there is no such version, DataError if its files are no longer whole.
    """
    place = root(config, kind)
    number = re.fullmatch(r"v?(\d+)", version)
    found = {it.version: it for it in versions(place)}
    if number is None or int(number[1]) not in found:
        known = ", ".join(it.directory.name for it in found.values()) or "none"
        raise ConfigError(f"no version {version} of {kind}", str(place), f"there are: {known}")
    snapshot = found[int(number[1])]
    if not snapshot.whole:
        raise DataError("files are missing or of another size", str(snapshot.directory), "go back to another version")
    return snapshot if snapshot.version == max(found) else again(place, snapshot)


def sweep(config: RunConfig, *, older_than: str, dry_run: bool) -> list[str]:
    """Delete, or only name, what died tries have left and no snapshot needs, silent for so long: `24h`, `90m`."""
    age_s = seconds(older_than)
    done = abandoned if dry_run else collect
    return [str(it.place) for place in _places(config) for it in done(place, older_than_s=age_s)]


def seconds(text: str) -> float:
    """Of `90m`. Raises ConfigError for what is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise ConfigError(f"--older-than {text}", cure="a number and s, m, h or d, such as 24h")
    return float(found[1]) * UNITS[found[2]]


def _places(config: RunConfig) -> list[Location]:
    """Wherever a run makes tries: its roots, and where a query's rows are kept."""
    return [*(root(config, kind) for kind in KINDS), config.root / "sources"]


def _published(kind: str, place: Location) -> Iterator[Published]:
    found = versions(place)
    for it in found:
        facts = it.manifest
        yield Published(
            kind=kind,
            version=directory_name(it.version),
            rows=facts["rows"],
            bytes=sum(part["bytes"] for part in facts["files"]),
            files=len(facts["files"]),
            model=_model(facts),
            key=it.key,
            when=datetime.fromtimestamp(written(it.directory / MANIFEST), UTC).strftime("%Y-%m-%d %H:%M:%S"),
            current=it is found[-1],
            snapshot=str(it.directory),
        )


def _model(facts: dict[str, Any]) -> str:
    model = facts.get("model")
    return f"{model['name']}/{model['version']}" if model else ""
