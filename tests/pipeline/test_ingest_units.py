"""ingest over many units: the same rows however the work was spread, and no unit taken in twice."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import ingest, runfile, snapshots, sources
from pipeline.config import RunConfig
from pipeline.errors import DataError
from pipeline.intake import inventory
from pipeline.records import Ingested
from pipeline.snapshots import Snapshot

ID = {"type": "int64", "role": "id"}
NUMBER = {"type": "float64", "likelihood": "gaussian"}


def config(folder: Path, *, columns: dict[str, Any] | None = None, **sections: Any) -> RunConfig:
    """A run over every CSV of the folder."""
    data = {"uri": str(folder / "in"), **sections.pop("data", {})}
    settings = {
        "name": "t",
        "workspace": str(folder / "w"),
        "data": data,
        "columns": columns or {"id": ID, "x": NUMBER},
    }
    return runfile.parse({**settings, **sections})


def table(folder: Path, name: str, ids: range, *, text: str = "") -> Path:
    """A CSV of these ids."""
    path = folder / "in" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("id,x\n" + "".join(f"{it},{it / 4}{text}\n" for it in ids))
    return path


def wide(folder: Path) -> None:
    """Two files of several units each at a unit of a megabyte, and a small one."""
    table(folder, "a.csv", range(150_000))
    table(folder, "b.csv", range(150_000, 300_000))
    table(folder, "c.csv", range(300_000, 300_010))


def manifest(record: Ingested) -> dict[str, Any]:
    """What the snapshot says of itself."""
    return Snapshot(Path(record.snapshot)).manifest


def files(record: Ingested) -> dict[str, tuple[int, str]]:
    """Inode and digest of each file of rows."""
    folder = Path(record.snapshot)
    return {it["path"]: (os.stat(folder / it["path"]).st_ino, it["sha256"]) for it in manifest(record)["files"]}


def ids(record: Ingested) -> list[int]:
    """Of all rows, in the manifest's order."""
    folder = Path(record.snapshot)
    paths = [folder / it["path"] for it in manifest(record)["files"]]
    return [it for path in paths for it in pq.read_table(path, columns=["id"]).column("id").to_pylist()]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that were read to be digested and cut."""
    names: list[str] = []
    cut = sources.cut

    def spied(file: sources.File, data: Any) -> sources.Cut:
        names.append(file.name)
        return cut(file, data)

    monkeypatch.setattr(inventory.sources, "cut", spied)
    return names


def test_the_spread_of_the_work_changes_nothing(tmp_path: Path, ray_up: None) -> None:
    """One thread, three threads, two Ray actors: the same files to the bit, the same statistics, rows in order."""
    wide(tmp_path)
    spreads = ({"num_workers": 1}, {"num_workers": 3}, {"num_workers": 2, "local_mb": 0})
    found = [
        ingest.ingest(config(tmp_path, workspace=str(tmp_path / f"w{index}"), data={"unit_mb": 1}, ingest=spread))
        for index, spread in enumerate(spreads)
    ]
    assert len(manifest(found[0])["units"]) == 5
    assert len({it.content for it in found}) == len({it.key for it in found}) == 1
    facts = [{name: manifest(it)[name] for name in ("columns", "files", "units", "rows")} for it in found]
    assert facts[0] == facts[1] == facts[2]
    assert ids(found[0]) == list(range(300_010))


def test_the_size_of_a_unit_changes_no_row(tmp_path: Path) -> None:
    """Other files of the snapshot, the same rows in the same order, the same counts and quantiles."""
    wide(tmp_path)
    one, other = (
        ingest.ingest(config(tmp_path, workspace=str(tmp_path / f"w{mb}"), data={"unit_mb": mb})) for mb in (1, 64)
    )
    assert ids(one) == ids(other)
    assert manifest(one)["columns"]["x"]["quantiles"] == manifest(other)["columns"]["x"]["quantiles"]


def test_the_order_of_files_is_no_matter_where_rows_have_ids(tmp_path: Path) -> None:
    """Renamed so that they sort the other way: the same fingerprint, so nothing to do."""
    table(tmp_path, "a.csv", range(5))
    table(tmp_path, "b.csv", range(5, 9))
    first = ingest.ingest(config(tmp_path))
    (tmp_path / "in/a.csv").rename(tmp_path / "in/c.csv")
    second = ingest.ingest(config(tmp_path))
    assert (second.new, second.key, second.digest) == (False, first.key, first.digest)


def test_a_second_run_reads_nothing(tmp_path: Path, read: list[str]) -> None:
    """Unchanged files are known by name, size, time and tail."""
    wide(tmp_path)
    assert ingest.ingest(config(tmp_path)).new
    assert sorted(read) == ["a.csv", "b.csv", "c.csv"]
    read.clear()
    assert not ingest.ingest(config(tmp_path)).new
    assert read == []


def test_only_what_is_new_or_changed_is_taken_in(tmp_path: Path, read: list[str]) -> None:
    """A file more, one changed, one gone: the others' rows are the same files on disk; every row is there once."""
    settings = config(tmp_path, data={"unit_mb": 1})
    wide(tmp_path)
    table(tmp_path, "d.csv", range(400_000, 500_000))
    first = ingest.ingest(settings)
    read.clear()
    table(tmp_path, "b.csv", range(600_000, 700_000))
    table(tmp_path, "e.csv", range(700_000, 700_050))
    (tmp_path / "in/d.csv").unlink()
    second = ingest.ingest(settings)
    assert sorted(read) == ["b.csv", "e.csv"]
    assert sorted(ids(second)) == sorted([*range(150_000), *range(300_000, 300_010), *range(600_000, 700_050)])
    kept = files(first).items() & files(second).items()
    assert sum(pq.read_metadata(Path(second.snapshot) / path).num_rows for path, _ in kept) >= 100_000
    assert manifest(second)["rows"] == second.rows == 250_060
    assert manifest(second)["columns"]["id"]["max"] == 700_049
    assert pq.read_table(Path(first.snapshot) / "part-00000-000.parquet").num_rows


def test_rows_without_an_id_keep_their_numbers(tmp_path: Path, read: list[str]) -> None:
    """A file added at the end renumbers nobody; one in front renumbers all behind it, and they are written anew."""
    settings = config(
        tmp_path, columns={"x": NUMBER, "id": {"type": "int64", "role": "passthrough"}}, data={"unit_mb": 1}
    )
    table(tmp_path, "b.csv", range(100_000))
    first = ingest.ingest(settings)
    table(tmp_path, "c.csv", range(10))
    second = ingest.ingest(settings)
    assert files(first).items() <= files(second).items()
    table(tmp_path, "a.csv", range(5))
    third = ingest.ingest(settings)
    assert not files(first).items() & files(third).items()
    rows = pa.concat_tables(pq.read_table(Path(third.snapshot) / it["path"]) for it in manifest(third)["files"])
    assert rows.column("row_id").to_pylist() == list(range(100_015))
    assert rows.column("id").to_pylist() == [*range(5), *range(100_000), *range(10)]


def test_two_runs_at_once_commit_once_each(tmp_path: Path) -> None:
    """Other inputs under one name: two versions, each complete, none lost; the same input twice: one version."""
    for name, rows in (("one", 1000), ("two", 500)):
        (tmp_path / name).mkdir()
        table(tmp_path / name, "t.csv", range(rows))
    settings = [config(tmp_path / name, workspace=str(tmp_path / "w")) for name in ("one", "two", "one", "two")]
    found: list[Ingested] = []
    threads = [threading.Thread(target=lambda it=it: found.append(ingest.ingest(it))) for it in settings]
    for it in threads:
        it.start()
    for it in threads:
        it.join()
    assert len(found) == 4
    assert {it.rows for it in found} == {1000, 500}
    versions = snapshots.versions(tmp_path / "w/datasets/t")
    assert {it.manifest["rows"] for it in versions} == {1000, 500}
    assert [it.version for it in versions] == list(range(1, len(versions) + 1))


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_ids_that_repeat_in_other_units_are_found(tmp_path: Path, kind: str) -> None:
    """Across files, across units of a file, and within one: all counted, the first ten named."""
    table(tmp_path, "a.csv", range(200_000))
    table(tmp_path, "b.csv", range(199_988, 200_010))
    with (tmp_path / "in/b.csv").open("a") as file:
        file.write("200009,1\n")
    with pytest.raises(DataError) as caught:
        ingest.ingest(config(tmp_path, columns={"id": {**ID, "type": kind}, "x": NUMBER}, data={"unit_mb": 1}))
    expected = ", ".join(str(it) for it in range(199_988, 199_998))
    assert f"column 'id' repeats 13 ids: {expected}" in str(caught.value)
    assert snapshots.versions(tmp_path / "w/datasets/t") == []


def test_the_quarantine_is_data(tmp_path: Path) -> None:
    """Id, file, position, column, rule and value of every row set aside, over all units; secrets are not told."""
    table(tmp_path, "a.csv", range(150_000))
    table(tmp_path, "b.csv", range(150_000, 300_000))
    for name, line in (("a.csv", "300000,bad\n"), ("b.csv", "300001,1,2\n"), ("b.csv", ",5\n")):
        with (tmp_path / "in" / name).open("a") as file:
            file.write(line)
    settings = {"columns": {"id": ID, "x": {**NUMBER, "secret": True}}}
    record = ingest.ingest(config(tmp_path, data={"unit_mb": 1, "on_bad_row": "quarantine"}, **settings))
    assert (record.rows_in, record.rows, record.quarantined) == (300_003, 300_000, 3)
    aside = [pq.read_table(Path(record.snapshot) / it["path"]) for it in manifest(record)["quarantine"]]
    assert pa.concat_tables(aside).to_pylist() == [
        {"id": "300000", "file": "a.csv", "row": 150_000, "column": "x", "rule": "not float64", "value": "***"},
        {
            "id": None,
            "file": "b.csv",
            "row": 150_000,
            "column": "",
            "rule": "wrong number of cells",
            "value": "300001,1,2",
        },
        {"id": None, "file": "b.csv", "row": 150_001, "column": "id", "rule": "missing", "value": "None"},
    ]


def test_what_was_noticed_is_said(tmp_path: Path) -> None:
    """Files without rows, columns that nobody declared, constant columns, categories new to the contract."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text(
        "id,x,c,more\n" + "".join(f"{it},7,{'new' if it == 3 else 'old'},0\n" for it in range(20))
    )
    (tmp_path / "in/b.csv").write_text("id,x,c,more\n")
    (tmp_path / "in/c.csv").write_text("")
    category = {"type": "string", "likelihood": "categorical", "categories": ["old"]}
    columns = {"id": ID, "x": NUMBER, "c": category}
    record = ingest.ingest(config(tmp_path, columns=columns))
    assert record.notices == (
        "2 files without rows: b.csv, c.csv",
        "columns that nobody declared, ignored: 'more'",
        "column 'x' is constant",
        "column 'c': 1 cells in categories new to its contract: new",
    )
    with pytest.raises(
        DataError, match=r"column 'c': 1 of 20 cells are in categories new to its contract, such as new"
    ):
        ingest.ingest(config(tmp_path, columns=columns, data={"unseen_limit": 0.01}))
    with pytest.raises(DataError, match="more"):
        ingest.ingest(config(tmp_path, columns=columns, data={"extra_columns": "refuse"}))


def test_a_file_that_changes_during_the_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewritten after it was listed: refused, by name, and nothing is published."""
    path = table(tmp_path, "a.csv", range(10))
    blocks = sources.blocks

    def late(piece: sources.Piece, *arguments: Any, **settings: Any) -> Any:
        path.write_text("id,x\n1,1\n")
        return blocks(piece, *arguments, **settings)

    monkeypatch.setattr("pipeline.intake.taking.sources.blocks", late)
    with pytest.raises(DataError, match=r"a\.csv: .*changed"):
        ingest.ingest(config(tmp_path))
    assert snapshots.versions(tmp_path / "w/datasets/t") == []


def test_statistics_are_of_the_rows_kept(tmp_path: Path) -> None:
    """In the manifest, by column; merged over units and carried over to the next snapshot."""
    wide(tmp_path)
    settings = config(tmp_path, data={"unit_mb": 1})
    first = manifest(ingest.ingest(settings))["columns"]
    assert first["id"] == {**first["id"], "rows": 300_010, "nulls": 0, "min": 0, "max": 300_009, "mean": 150_004.5}
    assert first["x"]["variance"] == pytest.approx((300_010**2 - 1) / 12 / 16, rel=1e-9)
    assert first["x"]["quantiles"]["0.5"] == pytest.approx(300_009 / 8, rel=2**-8)
    table(tmp_path, "d.csv", range(300_010, 300_020))
    assert manifest(ingest.ingest(settings))["columns"]["id"]["mean"] == 150_009.5
