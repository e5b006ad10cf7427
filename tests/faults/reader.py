"""An independent reader of snapshots: pyarrow and json, nothing of the project's.

    python tests/faults/reader.py ROOT [--id COLUMN]      # a folder or s3://bucket/prefix; prints one JSON object
    python tests/faults/reader.py --serve                 # the same for each line of standard input

For every version: rows, unique ids, whether each file has the bytes, rows and sha256 that the manifest states and opens
with its pages' checksums verified, and whether a plain glob over its folder sees exactly the files listed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs


def found(root: str, id_column: str = "") -> dict[str, Any]:
    """What lies there."""
    filesystem, path = fs.FileSystem.from_uri(root) if "://" in root else (fs.LocalFileSystem(), root)
    below = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    names = sorted(it.base_name for it in below if re.fullmatch(r"v\d{6,}", it.base_name))
    manifests = [(name, f"{path}/{name}/_manifest.json") for name in names]
    versions = [version(filesystem, path, name, id_column) for name, it in manifests if exists(filesystem, it)]
    problems = [f"{it['version']}: {problem}" for it in versions for problem in it["problems"]]
    previous = [None, *(it["version"] for it in versions)]
    for it, before in zip(versions, previous, strict=False):
        if it["previous"] != before:
            problems.append(f"{it['version']}: says it follows {it['previous']}, not {before}")
    return {"root": root, "versions": versions, "problems": problems}


def version(filesystem: fs.FileSystem, root: str, name: str, id_column: str) -> dict[str, Any]:
    """One snapshot, every byte of it."""
    content = read(filesystem, f"{root}/{name}/_manifest.json")
    facts = {"version": name, "manifest": hashlib.sha256(content).hexdigest()}
    empty = {"run_key": None, "previous": None, "rows": 0, "ids": [], "unique_ids": 0, "digests_match": False}
    try:
        manifest = json.loads(content)
    except ValueError as error:
        return {**facts, **empty, "problems": [f"manifest: {error}"]}
    folder = f"{root}/{manifest.get('data', name)}"
    problems: list[str] = []
    ids: list[Any] = []
    for part in manifest["files"]:
        ids += rows_of(filesystem, f"{folder}/{part['path']}", part, id_column or manifest.get("id", ""), problems)
    for part in (*manifest.get("quarantine", ()), *manifest.get("profile", ())):
        rows_of(filesystem, f"{folder}/{part['path']}", part, "", problems)
    seen = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    glob = {it.base_name for it in seen if it.base_name.endswith(".parquet")}
    if glob != {part["path"] for part in manifest["files"]}:
        problems.append(f"a plain glob sees {sorted(glob)}")
    if len(set(ids)) < len(ids):
        problems.append(f"{len(ids) - len(set(ids))} ids come twice")
    return {
        **facts,
        "run_key": manifest["run_key"],
        "previous": manifest["previous"],
        "rows": len(ids),
        "ids": ids,
        "unique_ids": len(set(ids)),
        "digests_match": not problems,
        "problems": problems,
    }


def rows_of(filesystem: fs.FileSystem, path: str, part: dict[str, Any], column: str, problems: list[str]) -> list[Any]:
    """The ids of a file, by its first column where none is named; what is wrong with it goes to `problems`."""
    try:
        content = read(filesystem, path)
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        problems.append(f"{part['path']}: {error}")
        return []
    stated = part["bytes"], part["sha256"], part["rows"]
    if (len(content), hashlib.sha256(content).hexdigest(), len(table)) != stated:
        problems.append(f"{part['path']}: other bytes, digest or rows than stated")
    ids: list[Any] = table.column(column or 0).to_pylist()
    return ids


def exists(filesystem: fs.FileSystem, path: str) -> bool:
    """Whether there is such a file."""
    return bool(filesystem.get_file_info(path).is_file)


def read(filesystem: fs.FileSystem, path: str) -> bytes:
    """All of it."""
    with filesystem.open_input_stream(path) as stream:
        content: bytes = stream.read()
        return content


def main() -> None:
    """Answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?")
    parser.add_argument("--id", default="")
    parser.add_argument("--serve", action="store_true")
    arguments = parser.parse_args()
    for root in sys.stdin if arguments.serve else [arguments.root]:
        answer = found(root.strip(), arguments.id)
        if not arguments.serve:
            answer["versions"] = [{key: it for key, it in one.items() if key != "ids"} for one in answer["versions"]]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
