"""Row 11: gc over and over, with no respect for age, beside a live writer and a reader of an old snapshot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from faults.cases import HERE, Found, reader, s3_port
from faults.writer import commit, parts_of

from pipeline import latents, snapshots, storage
from pipeline.stores import s3
from pipeline.stores.remote import located


def swept(folder: Path, commits: int, *, remote: bool) -> Found:
    """Every commit comes through, the old snapshot stays readable, and what is dead is gone."""
    root: Any = folder / "root"
    if remote:
        s3_port()
        root = located(f"s3://faults/{folder.name}/swept")
    first = commit(root, "first", [1, 2, 3])
    dead = located(f"{root}/_attempts/dead/dead")
    if isinstance(dead, Path):
        dead.mkdir(parents=True)
    parts_of(dead, [4])
    command = [sys.executable, str(HERE / "writer.py"), str(root), "--commits", str(commits)]
    command += ["--history", str(folder / "0.history")]
    sweeps, misread = 0, 0
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as writer:
        while writer.poll() is None:
            storage.collect(root, older_than_s=0)
            misread += latents.open_file(*first.files).to_table().column("id").to_pylist() != [1, 3, 2]
            sweeps += 1
        said = writer.communicate()[1]
    with mock.patch.object(s3, "LIVE_S", 0):  # now its writer is dead for certain
        storage.collect(root, older_than_s=0)
    seen = reader()(root)
    history = [it["ids"] for it in seen["versions"]]
    expected = [[1, 3, 2], *([1000 + number] for number in range(1, commits + 1))]
    left = [it.place for it in storage.abandoned(root, older_than_s=0)]
    failed = said or next(iter(seen["problems"]), "") or (f"left: {left}" if left else "")
    if history != expected or len(snapshots.versions(root)) != commits + 1:
        failed = failed or f"versions hold {history}"
    if not sweeps or dead in left:
        failed = failed or "gc did nothing"
    return Found(
        lost=max(len(expected) - len(history), 0), torn=len(seen["problems"]) + misread, failed=failed, cases=commits
    )
