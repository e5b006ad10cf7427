"""A snapshot's files from outside: all there, none else, of the bytes, digests, rows and columns that were listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipeline.snapshots import MANIFEST, Snapshot
from pipeline.storage import SECTIONS
from pipeline.trust import shelf
from pipeline.trust.findings import RESTORE, Violation
from pipeline.trust.layout import odd_columns, odd_metadata

Part = Mapping[str, Any]
"""A file as the manifest lists it."""


def listed(snapshot: Snapshot) -> dict[str, Part]:
    """Every file of the manifest, by its path."""
    return {part["path"]: part for name in SECTIONS for part in snapshot.manifest.get(name, ())}


def unlisted(snapshot: Snapshot, sizes: Mapping[str, int]) -> Iterator[Violation]:
    """Files that are there and should not be: a plain glob would read them."""
    for name in sorted(sizes.keys() - listed(snapshot).keys() - {MANIFEST}):
        yield Violation("not a file of this snapshot", name, "move it elsewhere: snapshots never change")


def damaged(snapshot: Snapshot, part: Part, sizes: Mapping[str, int], *, quick: bool) -> Iterator[Violation]:
    """Whether the file is another than the one listed; `quick` looks at its size and footer alone."""
    path = part["path"]
    if path not in sizes:
        yield Violation("missing", path, RESTORE)
    elif sizes[path] != part["bytes"]:
        yield Violation(f"{sizes[path]:,} bytes, {part['bytes']:,} listed", path, RESTORE)
    elif not quick and (digest := shelf.digest(snapshot, path)) != part["sha256"]:
        yield Violation(f"its bytes changed: sha256 {digest}, {part['sha256']} listed", path, RESTORE)
    else:
        yield from _odd_footer(snapshot, part)


def _odd_footer(snapshot: Snapshot, part: Part) -> Iterator[Violation]:
    try:
        with shelf.footer(snapshot, part["path"]) as file:
            rows, schema = file.metadata.num_rows, file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        yield Violation(f"its footer is damaged: {str(error).splitlines()[0]}", part["path"], RESTORE)
        return
    if rows != part["rows"]:
        yield Violation(f"{rows:,} rows, {part['rows']:,} listed", part["path"])
    if "/" not in part["path"]:
        yield from (Violation(it, part["path"]) for it in odd_columns(snapshot.manifest, schema))
        yield from (Violation(it, part["path"]) for it in odd_metadata(snapshot.manifest, schema))
