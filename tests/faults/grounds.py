"""What encodes are attacked on: one table and model, made once; the codes that an undisturbed encode gives them."""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import LATENTPIPE, Finished, latentpipe

from pipeline.config import Encode

NAME = "attacked"
ROWS, COLUMNS, FILES = 200_000, 16, 4
HEAD = """
name = "attacked"
[data]
uri = "{table}"
part_rows = 24_000
[columns]
id = {{ type = "int64", role = "id" }}
"""
COLUMN = 'x{:02} = {{ type = "float32", likelihood = "gaussian" }}\n'
TAIL = """
[model]
latent = 4
hidden = [64]
[train]
epochs = 1
batch_rows = 4096
num_workers = 1
importance_samples = 0
[encode]
num_workers = 2
"""
MODES: dict[str, tuple[str, ...]] = {"actors": ()}
"""Who encodes, and the settings that choose it: Ray's actors, or threads of the driver."""
if "local_mb" in {it.name for it in fields(Encode)}:
    MODES = {"actors": ("encode.local_mb=0",), "threads": ("encode.local_mb=4096",)}
OLD = ("encode.reconstruct=false",)
"""Makes the snapshot that is there before the fault."""
READER = Path(__file__).with_name("reader.py")


@dataclass(frozen=True)
class Grounds:
    """A workspace with a dataset, a registered model and a first snapshot of codes; and what comes next."""

    folder: Path
    ids: pa.ChunkedArray
    old: str
    """sha256 of the first snapshot's manifest."""
    key: str
    """Run key of the second."""
    files: tuple[str, ...]
    """sha256 of each of the second's data files."""
    bytes: int
    """Of those files together."""


@cache
def grounds() -> Grounds:
    """Made when the first fault needs them, gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _table(folder / "table")
    columns = "".join(COLUMN.format(number) for number in range(COLUMNS))
    (folder / "run.toml").write_text(HEAD.format(table=folder / "table") + columns + TAIL)
    for verb in ("ingest", "train", "register"):
        done(verb, folder)
    first = done("encode", folder, *MODES["actors"], *OLD)
    ids = [pq.read_table(path, columns=["id"]).column("id") for path in sorted((folder / "table").iterdir())]
    copy = folder / "undisturbed"
    shutil.copytree(folder / "workspace", copy / "workspace")
    shutil.copy(folder / "run.toml", copy)
    second = done("encode", copy, *MODES["actors"])
    manifest = json.loads((Path(second["snapshot"]) / "_manifest.json").read_bytes())
    return Grounds(
        folder=folder,
        ids=pa.chunked_array([chunk for it in ids for chunk in it.chunks]),
        old=hashlib.sha256((Path(first["snapshot"]) / "_manifest.json").read_bytes()).hexdigest(),
        key=second["key"],
        files=tuple(sorted(part["sha256"] for part in manifest["files"])),
        bytes=second["bytes"],
    )


def _table(folder: Path) -> None:
    """Numbers that hang together, in files of equal size; ids in no order, with gaps."""
    folder.mkdir()
    random = np.random.default_rng(0)
    ids = random.permutation(ROWS) * 3 + 1
    hidden = random.standard_normal((ROWS, 3))
    values = hidden @ random.standard_normal((3, COLUMNS)) + 0.1 * random.standard_normal((ROWS, COLUMNS))
    names = [f"x{number:02}" for number in range(COLUMNS)]
    table = pa.table([pa.array(ids, pa.int64()), *values.T.astype(np.float32)], names=["id", *names])
    for number in range(FILES):
        share = table.slice(number * ROWS // FILES, ROWS // FILES)
        pq.write_table(share, folder / f"rows-{number}.parquet")


def done(verb: str, folder: Path, *settings: str) -> dict[str, Any]:
    """The record of a command that must succeed."""
    ended = latentpipe(*arguments(verb, *settings), cwd=folder)
    assert ended.code == 0, f"{verb} ended with {ended.code}: {ended.stderr}"
    return ended.answer


def arguments(verb: str, *settings: str) -> list[str]:
    """Of the command."""
    return [verb, "run.toml", "--json", *(word for setting in settings for word in ("--set", setting))]


def read(root: Path) -> dict[str, Any]:
    """What the independent reader, a new process, finds under a folder of snapshots."""
    ended = subprocess.run([sys.executable, READER, root], capture_output=True, text=True)
    try:
        found: dict[str, Any] = json.loads(ended.stdout)
    except ValueError:  # what it has said counts: Arrow's threads may abort a process at its very end
        raise AssertionError(f"the reader says {ended.stdout} {ended.stderr}") from None
    return found


__all__ = ["LATENTPIPE", "MODES", "NAME", "OLD", "Finished", "Grounds", "arguments", "done", "grounds", "read"]
