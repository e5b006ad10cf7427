"""What both stores promise a writer, on a real folder and a real bucket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from faults.writer import commit, parts_of

from pipeline import latents, snapshots, storage
from pipeline.errors import CommitConflict, DataError, InfrastructureError
from pipeline.parts import Part, write
from pipeline.stores import s3, store
from pipeline.stores.local import Local
from pipeline.stores.remote import Remote, names, sizes

pytestmark = pytest.mark.usefixtures("s3_port")


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Where snapshots go."""
    return tmp_path / "root" if request.param == "folder" else request.getfixturevalue("home") / "root"


def all_below(root: Any) -> list[str]:
    """Every file, by its name below the root."""
    if isinstance(root, Path):
        return sorted(str(it.relative_to(root)) for it in root.rglob("*") if it.is_file())
    return sorted(it.place.uri.removeprefix(f"{root}/") for it in s3.client().below(root)[0])


def test_a_snapshot_is_complete_for_a_plain_glob(root: Any) -> None:
    """Its data folder holds what the manifest lists; the attempt is gone; a second one follows the first."""
    first = commit(root, "k1", [1, 2, 3])
    second = commit(root, "k2", [4])
    assert {*sizes(first.data)} - {"_manifest.json"} == {"part-00000.parquet", "part-00001.parquet"}
    assert names(first.data / "_quarantine") == ["part-00000.parquet"]
    assert sorted(latents.open_file(*first.files).to_table().column("id").to_pylist()) == [1, 2, 3]
    assert (second.version, second.manifest["previous"], second.whole) == (2, "v000001", True)
    assert not [name for name in all_below(root) if name.startswith("_attempts")]
    assert snapshots.latest(root) == second
    assert snapshots.find(root, "k1") == first


def test_the_same_key_again_writes_nothing(root: Any) -> None:
    """And an older one is published anew, from its own files."""
    first, _ = commit(root, "k1", [1, 2]), commit(root, "k2", [3])
    before = all_below(root)
    commit(root, "k2", [3])
    assert all_below(root) == before
    again = commit(root, "k1", [])
    assert again.version == 3
    assert again.manifest["files"] == first.manifest["files"]
    assert {name: size for name, size in sizes(again.data).items() if name.endswith("parquet")} == {
        name: size for name, size in sizes(first.data).items() if name.endswith("parquet")
    }


def test_files_are_carried_over(root: Any) -> None:
    """Into a snapshot that is whole without the other."""
    first = commit(root, "k1", [1, 2])
    second = commit(root, "k2", [3], before=first)
    ids = latents.open_file(*second.files).to_table().column("id").to_pylist()
    assert sorted(ids) == [1, 2, 3]
    assert {path.parent for path in second.files} == {second.data} != {first.data}


def test_who_comes_second_with_the_same_key_gets_the_others(root: Any) -> None:
    """Between the question whether it is there and the commit; nothing of its own stays."""
    with storage.attempt(root, "k") as directory:
        parts = parts_of(directory, [1, 2])
        other = commit(root, "k", [1, 2])
        before = [name for name in all_below(root) if not name.startswith("_attempts")]
        assert storage.publish(root, directory, parts, {"run_key": "k"}) == other
    assert all_below(root) == before


def changed(root: Any, change: Callable[[Any, list[Part]], list[Part]]) -> None:
    """A publication of other parts than were written."""
    with storage.attempt(root, "k") as directory:
        parts = change(directory, parts_of(directory, [1, 2, 3]))
        storage.publish(root, directory, parts, {"run_key": "k"})


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"rows": 3}, "2 rows, 3 were written; nothing was published"),
        ({"path": "part-00001.parquet"}, "nothing was published"),
    ],
)
def test_parts_that_are_not_what_they_say_are_not_published(root: Any, facts: dict[str, Any], message: str) -> None:
    """Footers are read where the files lie; a file that comes twice is none."""
    with pytest.raises(DataError, match=message):
        changed(root, lambda directory, parts: [replace(parts[0], **facts), *parts[1:]])
    assert snapshots.versions(root) == []


def test_files_of_another_schema_are_not_published(root: Any) -> None:
    """All data files have one."""
    rows = pa.record_batch([pa.array([4], pa.int32())], names=["id"])
    name = "part-00001.parquet"
    with pytest.raises(DataError, match=r"its schema is not that of part-00000\.parquet"):
        changed(root, lambda it, parts: [parts[0], write(it, name, [rows], schema=rows.schema)])
    assert snapshots.versions(root) == []


def test_who_always_comes_too_late_is_told_by_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 5, with the winner's version and key; after so many tries."""
    commit(tmp_path, "winner", [1])
    tries: list[Path] = []
    monkeypatch.setattr(Local, "commit", lambda self, data, target, manifest: tries.append(target))
    with pytest.raises(
        CommitConflict, match=r"other runs took 20 versions in a row, last v000001 by run key winner"
    ) as it:
        commit(tmp_path, "loser", [2])
    assert (it.value.exit_code, len(tries)) == (5, storage.COMMIT_TRIES)


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ({}, ""),
        ({"files": []}, "1 units with 2 \\+ 1 rows in 1 files, but there are 2 \\+ 1 rows in 3 files"),
        ({"rows": 3}, "1 units with 3 \\+ 1 rows"),
        ({"quarantined": 0}, "1 units with 2 \\+ 0 rows"),
    ],
)
def test_each_file_is_one_units(tmp_path: Path, unit: dict[str, Any], message: str) -> None:
    """Where the manifest lists units: their files and rows are the snapshot's."""
    with storage.attempt(tmp_path, "k") as directory:
        parts = parts_of(directory, [1, 2])
        files, aside = [part.path for part in parts[:2]], [parts[2].path]
        one = {"number": 0, "identity": "i", "files": files, "quarantine": aside, "rows": 2, "quarantined": 1, **unit}
        manifest = {"run_key": "k", "units": [one]}
        if not message:
            assert storage.publish(tmp_path, directory, parts, manifest).manifest["units"] == [one]
            return
        with pytest.raises(DataError, match=message):
            storage.publish(tmp_path, directory, parts, manifest)


def test_an_id_that_comes_twice_is_found(root: Any) -> None:
    """In files whose ranges overlap."""
    with storage.attempt(root, "k") as directory:
        parts = parts_of(directory, [1, 2, 3, 4])
        storage.verify_ids(parts, directory, "id")
        with pytest.raises(DataError, match="'id' repeats 1 ids, such as 3; nothing was published"):
            storage.verify_ids(parts_of(directory, [1, 2, 3, 3]), directory, "id")


def test_what_is_abandoned_is_swept_away_and_nothing_else(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries of the dead, and what they had gathered; not the living, not the young, not what a version names."""
    commit(root, "k1", [1])
    dead = root / "_attempts" / "key" / "dead"
    if isinstance(dead, Path):
        dead.mkdir(parents=True)
    parts = parts_of(dead, [2])
    if isinstance(root, Remote):
        s3.client().copy(dead / parts[0].staged, root / "_data" / "dead" / "part-00000.parquet")
        monkeypatch.setattr(s3, "LIVE_S", 0)
    else:
        with storage.attempt(root, "key") as alive:
            storage.collect(root, older_than_s=0)
            assert alive.is_dir()
            assert not dead.exists()
            return
    assert storage.collect(root, older_than_s=3600) == []
    swept = {
        str(it.place.relative_to(root) if isinstance(root, Path) else it.place)
        for it in storage.collect(root, older_than_s=0)
    }
    assert swept == {f"{root}/_attempts/key/dead", f"{root}/_data/dead"}
    assert all_below(root) == [name for name in all_below(root) if "dead" not in name]
    assert snapshots.versions(root)[0].whole


def test_a_try_in_a_bucket_is_live_as_long_as_its_lease_is_young(home: Remote) -> None:
    """Whatever age is asked for."""
    with storage.attempt(home, "key"):
        (one,) = store.of(home).leftovers(home)
        assert one.live
        assert storage.collect(home, older_than_s=0) == []


def test_a_lost_upload_is_an_error_with_a_name(home: Remote) -> None:
    """A part that is not there cannot be accepted."""

    def lost(directory: Remote, parts: list[Part]) -> list[Part]:
        s3.client().delete([directory / parts[0].staged])
        return parts

    with pytest.raises(InfrastructureError, match=r"the store does not answer: .*NoSuchKey"):
        changed(home, lost)
