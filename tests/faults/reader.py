"""An independent reader: what a folder of snapshots holds, from its files alone. Imports nothing of ours.

    python tests/faults/reader.py ROOT

Prints JSON: the versions, oldest first, each with its rows, unique ids, whether all digests match, and its problems.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def version(directory: Path) -> dict[str, Any]:
    """What one snapshot holds, its page checksums verified."""
    problems: list[str] = []
    raw = (directory / "_manifest.json").read_bytes()
    manifest = json.loads(raw)
    listed = [part for name in ("files", "quarantine", "profile") for part in manifest.get(name, ())]
    extra = {str(it.relative_to(directory)) for it in directory.rglob("*") if it.is_file()}
    extra -= {"_manifest.json", *(part["path"] for part in listed)}
    problems += [f"{name}: not in the manifest" for name in sorted(extra)]
    matching, ids = True, []
    for part in listed:
        content = (directory / part["path"]).read_bytes()
        matching &= hashlib.sha256(content).hexdigest() == part["sha256"]
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        if (len(table), len(content)) != (part["rows"], part["bytes"]):
            problems.append(f"{part['path']}: {len(table)} rows and {len(content)} bytes")
        if part in manifest["files"]:
            ids.append(table.column(manifest["id"]) if "id" in manifest else table.column(0))
    column = pa.chunked_array([chunk for it in ids for chunk in it.chunks]) if ids else pa.array([])
    if len(column) != manifest["rows"]:
        problems.append(f"{len(column)} rows, {manifest['rows']} stated")
    return {
        "version": directory.name,
        "run_key": manifest["run_key"],
        "manifest": hashlib.sha256(raw).hexdigest(),
        "rows": len(column),
        "unique": pc.count_distinct(column).as_py(),
        "digests": matching,
        "problems": problems,
    }


def main() -> None:
    """Look at all versions."""
    root = Path(sys.argv[1])
    problems, versions = [], []
    for directory in sorted(it for it in root.glob("v*") if re.fullmatch(r"v\d{6,}", it.name)):
        try:
            versions.append(version(directory))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            problems.append(f"{directory.name}: {type(error).__name__} {error}")
    print(json.dumps({"versions": versions, "problems": problems}))


if __name__ == "__main__":
    main()
