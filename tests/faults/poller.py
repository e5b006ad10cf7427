"""A reader that looks every 10 ms: whatever it sees must be a whole snapshot, and never an older one than before.

    python tests/faults/poller.py ROOT STORY            until its standard input is closed

It knows the layout and Parquet, and imports nothing of ours. STORY is JSON: how often it looked, the versions that it
saw as the newest, in that order, and all that a consumer should never have seen, such as a torn file.
"""

from __future__ import annotations

import hashlib
import json
import select
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

EVERY_S = 0.01


class Poller:
    """What was seen of one folder of snapshots."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.polls = 0
        self.newest: list[str] = []
        self.known: dict[str, tuple[int, int]] = {}
        self.problems: list[str] = []

    def look(self) -> None:
        """Once: by the versions, by a plain glob, and by the pointer to the latest."""
        self.polls += 1
        globbed = sorted(self.root.glob("[!_]*/*.parquet"))
        versions = sorted(path for path in self.root.glob("v*") if path.is_dir())
        for version in versions:
            self._version(version)
        for path in globbed:
            if path.parent.name not in self.known:
                self._complain(f"{path} is no snapshot's")
        if versions and versions[-1].name not in self.newest[-1:]:
            self.newest.append(versions[-1].name)
        if gone := set(self.known) - {version.name for version in versions}:
            self._complain(f"{sorted(gone)} went away")
        self._pointer()

    def _version(self, version: Path) -> None:
        """Read in whole when it is new; afterwards its manifest must stay the very file."""
        manifest = version / "_manifest.json"
        try:
            stamp = (manifest.stat().st_ino, manifest.stat().st_mtime_ns)
            if version.name not in self.known:
                self._read(version, json.loads(manifest.read_bytes()))
        except (OSError, ValueError, pa.ArrowException) as error:
            self._complain(f"{version}: {type(error).__name__} {error}")
            return
        if self.known.setdefault(version.name, stamp) != stamp:
            self._complain(f"{manifest} was changed")

    def _read(self, version: Path, manifest: dict[str, Any]) -> None:
        listed = {part["path"]: part for name in ("files", "quarantine", "profile") for part in manifest.get(name, ())}
        if extra := {str(it.relative_to(version)) for it in version.rglob("*.parquet")} - set(listed):
            self._complain(f"{version}: not in the manifest: {sorted(extra)}")
        for name, part in listed.items():
            content = (version / name).read_bytes()
            rows = pq.read_metadata(version / name).num_rows
            found = {"bytes": len(content), "rows": rows, "sha256": hashlib.sha256(content).hexdigest()}
            if any(part[fact] != value for fact, value in found.items()):
                self._complain(f"{version / name} is not as its manifest says")

    def _pointer(self) -> None:
        try:
            named = json.loads((self.root / "_latest.json").read_bytes())["snapshot"]
        except FileNotFoundError:
            return
        except ValueError as error:
            self._complain(f"_latest.json is torn: {error}")
            return
        if named not in self.known and not (self.root / named / "_manifest.json").is_file():
            self._complain(f"_latest.json names {named}, which is not there")

    def _complain(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def main() -> None:
    """Look until told to stop, then tell the story."""
    root, story = map(Path, sys.argv[1:])
    poller = Poller(root)
    while True:
        poller.look()
        if poller.polls == 1:
            print("looking", flush=True)
        if select.select([sys.stdin], [], [], EVERY_S)[0]:
            break
    poller.look()
    story.write_text(json.dumps({"polls": poller.polls, "newest": poller.newest, "problems": poller.problems}))


if __name__ == "__main__":
    main()
