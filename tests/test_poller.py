"""Who polls during faults, and who judges after them, find what a consumer must never see."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from faults.grounds import read
from faults.poller import Poller
from faults.scene import counted

from pipeline.parts import write
from pipeline.storage import attempt, publish


def published(root: Path, key: str) -> Path:
    """A snapshot of ten rows."""
    rows = pa.record_batch({"id": pa.array(range(10), pa.int64()), "x": pa.array([0.5] * 10)})
    with attempt(root, key) as directory:
        parts = [write(directory, "part-00000.parquet", [rows], schema=rows.schema, id_column="id")]
        manifest = {"run_key": key, "id": "id", "rows": 10}
        return Path(publish(root, directory, parts, manifest).directory)


def polled(root: Path) -> Poller:
    """After one look."""
    poller = Poller(root)
    poller.look()
    return poller


def cut(version: Path) -> None:
    """As of a writer that was killed."""
    path = version / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def late(version: Path) -> None:
    """As of an attempt that came after the commit."""
    shutil.copy(version / "part-00000.parquet", version / "part-00001.parquet")


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda version: (version / "_manifest.json").unlink(), "FileNotFoundError"),
    "torn manifest": (lambda version: (version / "_manifest.json").write_text('{"files": ['), "JSONDecodeError"),
    "file cut short": (cut, "Arrow"),
    "file gone": (lambda version: (version / "part-00000.parquet").unlink(), "FileNotFoundError"),
    "late file": (late, "not in the manifest: ['part-00001.parquet']"),
    "torn pointer": (lambda version: (version.parent / "_latest.json").write_text("{"), "_latest.json is torn"),
    "pointer to nothing": (
        lambda version: (version.parent / "_latest.json").write_text('{"snapshot": "v000009"}'),
        "names v000009, which is not there",
    ),
}


def test_nothing_is_wrong_with_what_was_published(tmp_path: Path) -> None:
    """Two whole snapshots, one after the other."""
    published(tmp_path, "a" * 64)
    poller = polled(tmp_path)
    published(tmp_path, "b" * 64)
    poller.look()
    assert (poller.newest, poller.problems) == (["v000001", "v000002"], [])
    found = read(tmp_path)
    assert found["problems"] == []
    assert [(it["rows"], it["unique_ids"]) for it in found["versions"]] == [(10, 10), (10, 10)]


@pytest.mark.parametrize("harm", HARM)
def test_the_poller_finds_harm(tmp_path: Path, harm: str) -> None:
    """A check that cannot fail is none."""
    act, words = HARM[harm]
    act(published(tmp_path, "a" * 64))
    assert words in "".join(polled(tmp_path).problems)


def test_the_poller_finds_what_changes_behind_a_readers_back(tmp_path: Path) -> None:
    """A snapshot that is written anew, one that goes away, an older one that is the newest again."""
    first, second = published(tmp_path, "a" * 64), published(tmp_path, "b" * 64)
    poller = polled(tmp_path)
    manifest = first / "_manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    shutil.rmtree(second)
    poller.look()
    assert poller.newest == ["v000002", "v000001"]
    told = "".join(poller.problems)
    assert "v000001/_manifest.json was changed" in told
    assert "['v000002'] went away" in told


@pytest.mark.parametrize("harm", ["torn manifest", "file cut short", "file gone", "late file"])
def test_the_judge_finds_harm(tmp_path: Path, harm: str) -> None:
    """Each is said to be a problem."""
    HARM[harm][0](published(tmp_path, "a" * 64))
    assert read(tmp_path)["problems"]


def test_the_judge_counts_what_is_missing_and_what_is_there_twice(tmp_path: Path) -> None:
    """Ids 0 to 9 are published; 0 to 11 are wanted; then the file counts twice."""
    file = published(tmp_path, "a" * 64) / "part-00000.parquet"
    wanted = pa.chunked_array([list(range(12))])
    assert counted(wanted, [file]) == (2, 0)
    assert counted(wanted, [file, file]) == (2, 10)
