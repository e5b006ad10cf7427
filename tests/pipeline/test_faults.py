"""The quick part of `make faults`: publishing, on a folder and on a bucket; and that its judges can find something."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import history, publishing, stops
from faults.cases import Case, Found, reader
from faults.run import MEMORY
from faults.writer import commit, digest

from pipeline.stores import arrow, s3
from pipeline.stores.files import Files
from pipeline.stores.local import Local


@pytest.fixture
def folder() -> Iterator[Path]:
    """Empty, and where an fsync costs nothing."""
    with tempfile.TemporaryDirectory(prefix="fault-", dir=MEMORY, ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cases' server is not that of other tests."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    arrow.connected.cache_clear()
    s3.client.cache_clear()
    yield
    arrow.connected.cache_clear()
    s3.client.cache_clear()


@pytest.mark.xdist_group("servers")
@pytest.mark.parametrize("case", publishing.quick(), ids=lambda case: f"{case.row}: {case.name}")
def test_nothing_is_lost_doubled_or_torn(case: Case, folder: Path) -> None:
    """Whatever the fault, an independent reader finds each commit once and whole."""
    found = case.run(folder)
    assert (found.lost, found.duplicated, found.torn, found.failed) == (0, 0, 0, "")
    assert found.cases > 0


def test_the_reader_finds_any_damage(folder: Path) -> None:
    """A flipped bit, a file too short, one too many, one too few, a manifest cut short."""
    commit(folder / "whole", "key", [1, 2, 3])
    assert reader()(folder / "whole")["problems"] == []

    def damaged(name: str) -> Path:
        shutil.copytree(folder / "whole", folder / name)
        return folder / name / "v000001"

    flipped = damaged("flipped") / "part-00000.parquet"
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    short = damaged("short") / "part-00001.parquet"
    short.write_bytes(short.read_bytes()[:-1])
    shutil.copy(folder / "whole/v000001/part-00000.parquet", damaged("more") / "part-00009.parquet")
    (damaged("fewer") / "_quarantine/part-00000.parquet").unlink()
    (damaged("manifest") / "_manifest.json").write_bytes(b'{"run_key": ')
    for name in ("flipped", "short", "more", "fewer", "manifest"):
        assert reader()(folder / name)["problems"], name


def test_a_stop_is_noticed_where_a_commit_is_not_one_step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that publishes file by file is caught by the same cases."""

    def piecemeal(self: Local, data: Path, target: Path, manifest: bytes) -> bool:
        self.files.make(target)
        self.files.write(target / "_manifest.json", manifest)
        for path in sorted(data.rglob("*.parquet")):
            self.files.move(path, target / path.relative_to(data))
        return True

    monkeypatch.setattr(Local, "commit", piecemeal)
    assert stops.stopped_everywhere(folder, "second", remote=False).torn > 0


def test_every_operation_of_the_store_can_stop(folder: Path) -> None:
    """Those of one publication, in their order."""
    ground = stops.Ground(folder, "carried over", remote=False)
    root, whole = ground.root(), ground.changes()
    with stops.through(whole):
        stops.carrying(root)
    assert {*whole.seen} == {name for name in vars(Files) if not name.startswith("_")}


HISTORY = [
    {"at": 1, "process": 0, "type": "invoke", "f": "append", "value": "a"},
    {"at": 2, "process": 1, "type": "invoke", "f": "append", "value": "b"},
    {"at": 3, "process": 0, "type": "ok", "f": "append", "value": "a", "version": 1},
    {"at": 4, "process": 0, "type": "invoke", "f": "read"},
    {"at": 5, "process": 1, "type": "ok", "f": "append", "value": "b", "version": 2},
    {"at": 6, "process": 0, "type": "ok", "f": "read", "length": 1, "digest": digest(["a"])},
    {"at": 7, "process": 0, "type": "invoke", "f": "append", "value": "c"},
    {"at": 8, "process": 0, "type": "info", "f": "append", "value": "c"},
    {"at": 9, "process": 1, "type": "invoke", "f": "read"},
    {"at": 10, "process": 1, "type": "ok", "f": "read", "length": 2, "digest": digest(["a", "b"])},
]


def test_a_history_that_can_be_is_no_problem() -> None:
    """With and without what nobody knows; a read beside an append may have seen it, or not."""
    assert history.problems(HISTORY, ["a", "b"]) == []
    assert history.problems(HISTORY, ["a", "b", "c"]) == []


@pytest.mark.parametrize(
    ("event", "change", "final", "problem"),
    [
        (0, {}, ["a"], "b was acknowledged as version 2, which it is not"),
        (0, {}, ["b", "a"], "a was acknowledged as version 1, which it is not"),
        (0, {}, ["a", "b", "b"], "b is there 2 times"),
        (0, {}, ["a", "b", "x"], "nobody was told of x"),
        (7, {"type": "fail"}, ["a", "b", "c"], "nobody was told of c"),
        (5, {"digest": digest(["b"])}, ["a", "b"], "process 0 read 1 elements that are no beginning of the list"),
        (5, {"length": 0, "digest": digest([])}, ["a", "b"], "read by process 0 has place 0 after place 1"),
        (9, {"length": 1, "digest": digest(["a"])}, ["a", "b"], "read by process 1 has place 1 after place 2"),
    ],
)
def test_a_history_that_cannot_be_is_refused(
    event: int, change: dict[str, Any], final: list[str], problem: str
) -> None:
    """Lost, doubled, unknown, reordered, or unseen although it was there."""
    changed = [{**it, **change} if number == event else it for number, it in enumerate(HISTORY)]
    assert problem in history.problems(changed, final)


def test_findings_add_up() -> None:
    """And the first failure is the one that is told."""
    found = Found(lost=1, cases=2) + Found(torn=1, failed="first") + Found(failed="second")
    assert found == Found(lost=1, torn=1, failed="first", cases=4)
    assert json.dumps(vars(found))
