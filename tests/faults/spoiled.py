"""Acts on what an encode stands on: its disk, its input, its nodes' code, and another run beside it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from faults.grounds import NAME, OLD, read
from faults.late import Act, cleared, ends, goes_on
from faults.scene import Driver, Scene, counted, signalled
from harness import LATENTPIPE, ROOT
from nodes import head

FULL = "No space left on device"
NEW = pa.array(range(10_000_000, 10_005_000), pa.int64())
"""Ids of rows that come later."""
BAD = """
name = "bad"
[data]
uri = "bad.csv"
on_bad_row = "quarantine"
quarantine_limit = 1.0
[columns]
id = { type = "int64", role = "id" }
x00 = { type = "float32", likelihood = "gaussian" }
"""


def disk_full(scene: Scene, luck: random.Random) -> str:
    """The disk is too small for the codes, which is said with how much they take; then it is made larger."""
    wrong = (
        ends(scene.start(), 4, says=(str(scene.root), FULL, "bytes for this file alone"))
        or cleared(scene)
        or scene.old_stands()
    )
    scene.disk.grow()
    return wrong or goes_on(scene)


def disk_full_at(point: str) -> Act:
    """Not a byte is left when the driver comes to the point; a commit needs none, but the pointer after it does."""

    def act(scene: Scene, luck: random.Random) -> str:
        driver = scene.start(stop=(point, "SIGSTOP"))
        driver.until(lambda: driver.process.status() == psutil.STATUS_STOPPED)
        scene.disk.fill()
        signalled([driver.process], signal.SIGCONT)
        wrong = ends(driver, 4, says=(str(scene.root), FULL)) or cleared(scene)
        wrong = wrong or ("" if point == "committing" else scene.old_stands())
        scene.disk.grow()
        return wrong or goes_on(scene)

    return act


def log_full(scene: Scene, luck: random.Random) -> str:
    """Logs find no room: a run that needs none of them ends well, or says which disk is full."""
    scene.disk.fill()
    wrong = ends(scene.start(), 0)
    scene.disk.grow()
    return wrong or cleared(scene)


def quarantine_full(scene: Scene, luck: random.Random) -> str:
    """Of an ingest, most of whose rows are set aside; with more room it publishes them."""
    rows = (f"{number},{number if number % 100 == 0 else luck.random().hex()}\n" for number in range(200_000))
    (scene.folder / "bad.csv").write_text("id,x00\n" + "".join(rows))
    (scene.folder / "bad.toml").write_text(BAD)
    command = [LATENTPIPE, "ingest", "bad.toml", "--json"]
    wrong = ends(Driver(scene, command), 4, says=(str(scene.disk.folder), FULL))
    if not wrong and list(scene.disk.folder.rglob("v*/_manifest.json")):
        wrong = "published all the same"
    scene.disk.grow()
    wrong = wrong or ends(Driver(scene, command), 0)
    if wrong:
        return wrong
    return "; ".join(read(scene.disk.folder)["problems"]) or goes_on(scene)


def addition_full(scene: Scene, luck: random.Random) -> str:
    """New rows find no room beside units that are carried over; those must stand, and with more room all is there."""
    if wrong := goes_on(scene) or more_rows(scene):
        return wrong
    driver = scene.start(stop=("stating", "SIGSTOP"))
    driver.until(lambda: driver.process.status() == psutil.STATUS_STOPPED)
    scene.disk.fill()
    signalled([driver.process], signal.SIGCONT)
    wrong = ends(driver, 4, says=(str(scene.root), FULL)) or cleared(scene) or "; ".join(read(scene.root)["problems"])
    if wrong or scene.published() != ["v000001", "v000002"]:
        return wrong or f"published: {scene.published()}"
    scene.disk.grow()
    if wrong := goes_on(scene):
        return wrong
    wanted = pa.chunked_array([*scene.grounds.ids.chunks, NEW])
    found = [*read(scene.root)["problems"], counted(wanted, sorted((scene.root / "v000003").glob("*.parquet")))]
    return "" if found == [(0, 0)] else f"{found}"


def more_rows(scene: Scene) -> str:
    """Another file in the source, ingested."""
    table = scene.folder / "table"
    shutil.copytree(scene.grounds.folder / "table", table)
    like = pq.read_table(table / "rows-0.parquet").slice(0, len(NEW))
    pq.write_table(like.set_column(0, "id", NEW), table / "rows-9.parquet")
    run = scene.folder / "run.toml"
    run.write_text(run.read_text().replace(str(scene.grounds.folder / "table"), str(table)))
    return ends(Driver(scene, [LATENTPIPE, "ingest", "run.toml", "--json"]), 0)


def input_changed(when: Callable[[Scene], object], how: Callable[[Path], None]) -> Act:
    """A file of the dataset, the last to be read, is no longer the one that its manifest lists."""

    def act(scene: Scene, luck: random.Random) -> str:
        dataset = scene.folder / "workspace" / "datasets" / NAME / "v000001"
        victim = max(dataset.glob("*.parquet"))
        kept = victim.read_bytes()
        driver = scene.start("encode.num_workers=1")
        driver.until(lambda: when(scene))
        how(victim)
        wrong = ends(driver, 3, says=(str(victim),)) or cleared(scene) or scene.old_stands()
        victim.write_bytes(kept)
        return wrong or goes_on(scene)

    return act


def other_values(path: Path) -> None:
    """Other numbers in as many rows: a whole Parquet file, put in its place at once."""
    table = pq.read_table(path)
    changed = table.set_column(1, table.schema.field(1), pc.add(table.column(1), pa.scalar(1, pa.float32())))
    pq.write_table(changed, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def cut_short(path: Path) -> None:
    """Half of its bytes, in place."""
    os.truncate(path, path.stat().st_size // 2)


def version_skew(scene: Scene, luck: random.Random) -> str:
    """The nodes of a cluster run another version of the code than the driver."""
    other = scene.folder / "other"
    for package in ("pipeline", "vae", "flows"):
        shutil.copytree(ROOT / package, other / package, ignore=shutil.ignore_patterns("__pycache__"))
    keys = other / "pipeline" / "keys.py"
    keys.write_text(keys.read_text().replace('"latents": ', '"latents": 9'))
    with cluster(scene, other) as address:
        wrong = ends(
            scene.start(f"cluster.address={address}", "encode.num_workers=1"), 4, says=("the driver runs", "'latents'")
        )
        wrong = wrong or scene.old_stands()
    return wrong or goes_on(scene)


@contextmanager
def cluster(scene: Scene, code: Path) -> Iterator[str]:
    """A head node whose workers import that code."""
    with mock.patch.dict(os.environ, {**scene.environment, "PYTHONPATH": str(code)}):
        ray = head(scene.folder / "head.log")
        address = ray.__enter__()
    try:
        yield address
    finally:
        ray.__exit__(*sys.exc_info())


def same_at_once(scene: Scene, luck: random.Random) -> str:
    """Two runs of one key, neither of which knows of the other: one commit; and both fetch the model."""
    shutil.rmtree(scene.folder / "workspace" / "models")
    both = [scene.start() for _ in range(2)]
    return next((wrong for it in both if (wrong := ends(it, 0))), "") or cleared(scene)


def others_at_once(scene: Scene, luck: random.Random) -> str:
    """Two runs of different keys into one folder, each of which then stands with all its files."""
    shutil.rmtree(scene.root)
    both = [scene.start(), scene.start(*OLD)]
    if wrong := next((wrong for it in both if (wrong := ends(it, 0))), "") or cleared(scene):
        return wrong
    found = read(scene.root)
    whole = [it["unique_ids"] == it["rows"] == len(scene.grounds.ids) for it in found["versions"]]
    return "; ".join(found["problems"]) or ("" if whole == [True, True] else f"{found}")
