"""ingest: any table becomes a snapshot, the same one for the same input."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import small_settings

from pipeline import ingest, runfile, snapshots
from pipeline.errors import ConfigError, DataError
from pipeline.records import Ingested
from pipeline.snapshots import Snapshot

NUMBER = {"type": "float64", "likelihood": "gaussian"}
ID = {"type": "int64", "role": "id"}


def taken(folder: Path, **changes: Any) -> Ingested:
    """The small table with these changes to its settings, ingested; an existing table is left as it is."""
    table = folder / "small.csv"
    kept = table.read_bytes() if table.exists() else None
    settings = runfile.parse(small_settings(folder, **changes))
    if kept is not None:
        table.write_bytes(kept)
    return ingest.ingest(settings)


def simple(folder: Path, content: str, columns: dict[str, Any], **data: Any) -> Ingested:
    """A CSV of this content, ingested."""
    (folder / "t.csv").write_text(content)
    settings = {"name": "t", "workspace": str(folder / "w"), "data": {"uri": str(folder / "t.csv"), **data}}
    return ingest.ingest(runfile.parse({**settings, "columns": columns}))


def rows(record: Ingested) -> list[dict[str, Any]]:
    """The snapshot's rows, by any Parquet reader over a plain glob."""
    parts = sorted(Path(record.snapshot).glob("part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file below, and the digest of its bytes."""
    files = (it for it in sorted(folder.rglob("*")) if it.is_file())
    return {str(it.relative_to(folder)): hashlib.sha256(it.read_bytes()).hexdigest() for it in files}


def test_the_same_input_is_the_same_snapshot(tmp_path: Path) -> None:
    """Twice: one snapshot, no new file, not even a trace of the second try."""
    first = taken(tmp_path)
    before = fingerprint(tmp_path / "workspace")
    second = taken(tmp_path)
    assert (first.new, second.new) == (True, False)
    assert (first.snapshot, first.digest) == (second.snapshot, second.digest)
    assert fingerprint(tmp_path / "workspace") == before


def test_the_same_bytes_elsewhere_are_the_same_snapshot(tmp_path: Path) -> None:
    """A file's path does not matter; nor do settings that decide nothing about the rows."""
    first = taken(tmp_path)
    (tmp_path / "small.csv").rename(tmp_path / "moved.csv")
    moved = {"uri": str(tmp_path / "moved.csv"), "part_rows": 128, "validation": 0.2}
    assert taken(tmp_path, data=moved, train={"epochs": 9}).digest == first.digest


def test_layout_of_the_input_does_not_matter(tmp_path: Path) -> None:
    """The table as one CSV, or typed in Parquet files of other sizes: the same rows in the same files."""
    first = taken(tmp_path)
    table = pa.Table.from_pylist(rows(first), schema=pq.read_schema(Path(first.snapshot) / "part-00000-000.parquet"))
    (tmp_path / "parts").mkdir()
    encoded = table.set_column(3, "city", table.column("city").dictionary_encode()).select(table.column_names[::-1])
    for number, start in enumerate(range(0, 300, 70)):
        pq.write_table(encoded.slice(start, 70), tmp_path / f"parts/{number}.parquet", row_group_size=33)
    second = taken(tmp_path, data={"uri": str(tmp_path / "parts")})
    assert second.new
    assert rows(second) == rows(first)
    parts = [[part["sha256"] for part in Snapshot(Path(it.snapshot)).manifest["files"]] for it in (first, second)]
    assert parts[0] == parts[1], "what is in a file depends on the rows alone"


@pytest.mark.parametrize("size", [1, 7, 128, 300, 1000])
def test_part_rows_is_the_size_of_a_file(tmp_path: Path, size: int) -> None:
    """All files hold `part_rows` rows but the last; the manifest lists them in the rows' order."""
    record = taken(tmp_path, data={"part_rows": size}) if size > 1 else simple(tmp_path, "id,x\n1,1\n2,2\n3,3\n", {
        "id": ID, "x": NUMBER}, part_rows=1)  # fmt: skip
    manifest = Snapshot(Path(record.snapshot)).manifest
    sizes = [part["rows"] for part in manifest["files"]]
    assert sum(sizes) == record.rows == manifest["rows"]
    assert set(sizes[:-1]) <= {size}
    assert 0 < sizes[-1] <= size
    ids = [row["id"] for row in rows(record)]
    assert ids == sorted(ids)
    for part in manifest["files"]:
        content = (Path(record.snapshot) / part["path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (part["bytes"], part["sha256"])


def test_rows_without_an_id_are_numbered(tmp_path: Path) -> None:
    """`row_id` is the running number over all files, whatever the size of a block."""
    for number in range(3):
        (tmp_path / f"{number}.csv").write_text("x\n" + "\n".join(str(10 * number + i) for i in range(4)))
    settings = {"name": "t", "workspace": str(tmp_path / "w"), "data": {"uri": str(tmp_path / "*.csv")}}
    found = rows(ingest.ingest(runfile.parse({**settings, "columns": {"x": NUMBER}})))
    assert [it["row_id"] for it in found] == list(range(12))
    assert [it["x"] for it in found] == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]


@pytest.mark.parametrize("role", ["ignore", "passthrough"])
def test_a_column_named_row_id_that_is_no_id(tmp_path: Path, role: str) -> None:
    """Either it works or its name is refused; it is no KeyError."""
    try:
        record = simple(tmp_path, "row_id,x\n5,1\n6,2\n", {"row_id": {"type": "int64", "role": role}, "x": NUMBER})
    except (ConfigError, DataError) as refused:
        message = str(refused)
    else:
        message = f"row_id and x are {[it['x'] for it in rows(record)]}"
    assert "row_id" in message
    assert message.endswith("[1.0, 2.0]") or "role = 'id'" in message


def test_an_id_is_never_missing(tmp_path: Path) -> None:
    """A null id is refused even where the column is declared nullable."""
    with pytest.raises((ConfigError, DataError), match="id"):
        simple(tmp_path, "id,x\n5,1\n,2\n", {"id": {**ID, "nullable": True}, "x": NUMBER})


def test_ids_are_unique_over_all_files(tmp_path: Path) -> None:
    """The first ten that are not are named; nothing is published."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("id,x\n" + "\n".join(f"{i},1" for i in range(12)))
    settings = {"name": "t", "workspace": str(tmp_path / "w"), "data": {"uri": str(tmp_path / "*.csv")}}
    with pytest.raises(DataError) as caught:
        ingest.ingest(runfile.parse({**settings, "columns": {"id": ID, "x": NUMBER}}))
    assert "column 'id' repeats 12 ids: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n  cure: ids must be unique" in str(caught.value)
    assert snapshots.versions(tmp_path / "w/datasets/t") == []


def test_large_ids_stay_as_they_are(tmp_path: Path) -> None:
    """2^63 - 1 and its neighbour never pass through a float."""
    big = [2**63 - 1, 2**63 - 2, -(2**63)]
    content = "id,x\n" + "\n".join(f"{it},1.5" for it in big)
    assert [it["id"] for it in rows(simple(tmp_path, content, {"id": ID, "x": NUMBER}))] == big


def test_changed_content_is_a_new_version(tmp_path: Path) -> None:
    """v000002 beside v000001, which stays byte for byte; the manifest names the one before."""
    first = taken(tmp_path)
    before = fingerprint(Path(first.snapshot))
    path = tmp_path / "small.csv"
    path.write_text(path.read_text().replace("Oslo", "Bergen"))
    second = taken(tmp_path)
    assert [Path(it.snapshot).name for it in (first, second)] == ["v000001", "v000002"]
    assert fingerprint(Path(first.snapshot)) == before
    assert Snapshot(Path(second.snapshot)).manifest["previous"] == "v000001"
    assert ingest.latest(runfile.parse(small_settings(tmp_path))).digest == second.digest


def test_an_earlier_input_is_the_newest_again(tmp_path: Path) -> None:
    """Back to the table before: `latest` is that table, in the bytes it had, and no version is altered."""
    settings, path = runfile.parse(small_settings(tmp_path)), tmp_path / "small.csv"
    before = path.read_text()
    first = taken(tmp_path)
    path.write_text(before.replace("Oslo", "Bergen"))
    second, kept = taken(tmp_path), fingerprint(Path(first.snapshot))
    path.write_text(before)
    third = taken(tmp_path)
    assert ingest.latest(settings).snapshot == third.snapshot != second.snapshot
    assert rows(third) == rows(first)
    assert fingerprint(Path(first.snapshot)) == kept
    assert {k: v for k, v in fingerprint(Path(third.snapshot)).items() if k.startswith("part")} == {
        k: v for k, v in kept.items() if k.startswith("part")
    }


@pytest.mark.parametrize("change", [{"part_rows": 64}, {"null_tokens": ["", "Rome"]}, {"on_bad_row": "quarantine"}])
def test_other_rules_are_another_snapshot(tmp_path: Path, change: dict[str, Any]) -> None:
    """What decides what a snapshot holds is part of its key."""
    first = taken(tmp_path)
    assert taken(tmp_path, data=change).digest != first.digest


def test_rows_in_are_rows_kept_and_set_aside(tmp_path: Path) -> None:
    """The sum is exact; every bad row is a row of the quarantine, which the manifest lists apart from the data."""
    lines = [f"{i},{'bad' if i % 10 == 3 else i}" for i in range(100)]
    lines[50] = "50"
    lines[60] = "60,1,2"
    columns = {"id": ID, "x": NUMBER}
    record = simple(
        tmp_path, "id,x\n" + "\n".join(lines), columns, on_bad_row="quarantine", quarantine_limit=0.2, part_rows=30
    )
    assert (record.rows_in, record.rows, record.quarantined) == (100, 88, 12)
    manifest = Snapshot(Path(record.snapshot)).manifest
    assert {name: manifest[name] for name in ("rows_in", "rows", "quarantined")} == {
        "rows_in": 100,
        "rows": 88,
        "quarantined": 12,
    }
    (aside,) = manifest["quarantine"]
    assert (aside["path"], aside["rows"]) == ("_quarantine/part-00000.parquet", 12)
    assert not any(part["path"].startswith("_") for part in manifest["files"])
    set_aside = pq.read_table(Path(record.snapshot) / aside["path"]).to_pylist()
    assert {it["file"] for it in set_aside} == {"t.csv"}
    bad = [it for it in set_aside if it["rule"] == "not float64"]
    assert [(it["column"], it["value"]) for it in bad] == [("x", "bad")] * 10
    assert {it["value"] for it in set_aside if it["rule"] == "wrong number of cells"} == {"50", "60,1,2"}
    assert [it["id"] for it in rows(record)] == [i for i in range(100) if i % 10 != 3 and i not in (50, 60)]


def test_the_position_of_a_bad_row_counts_every_row_before_it(tmp_path: Path) -> None:
    """One way to count for all rules: a ragged row shifts nobody."""
    content = "id,x\n0,0\n1\n2,bad\n3,3\n"
    record = simple(tmp_path, content, {"id": ID, "x": NUMBER}, on_bad_row="quarantine", quarantine_limit=1.0)
    set_aside = pq.read_table(Path(record.snapshot) / "_quarantine").to_pylist()
    positions = {it["rule"]: it["row"] for it in set_aside}
    assert positions["not float64"] - positions["wrong number of cells"] == 1, positions


def test_too_many_bad_rows_stop_the_run(tmp_path: Path) -> None:
    """Above the limit nothing is published, and the first bad row is shown."""
    content = "id,x\n0,0\n1,bad\n"
    with pytest.raises(
        DataError, match=r"1 of 2 rows break the contract \(50.0%\), first: row 1, column 'x': not float64"
    ):
        simple(tmp_path, content, {"id": ID, "x": NUMBER}, on_bad_row="quarantine", quarantine_limit=0.4)
    assert not list((tmp_path / "w").rglob("*.parquet"))


def test_a_column_of_a_type_that_cannot_be_cast_is_a_data_error(tmp_path: Path) -> None:
    """A struct where a number is declared: the file and the column, no stranger's exception."""
    pq.write_table(pa.table({"x": [{"a": 1}, {"a": 2}]}), tmp_path / "t.parquet")
    settings = {"name": "t", "workspace": str(tmp_path / "w"), "data": {"uri": str(tmp_path / "t.parquet")}}
    with pytest.raises(DataError, match="column 'x'"):
        ingest.ingest(runfile.parse({**settings, "columns": {"x": NUMBER}}))


def test_a_missing_vector_can_be_read_again(tmp_path: Path) -> None:
    """What is published is readable: pyarrow before 26 writes a null vector and cannot read it (apache/arrow#35692)."""
    pq.write_table(pa.table({"v": [[1.0, 2.0], None, [3.0, 4.0]]}), tmp_path / "t.parquet")
    settings = {"name": "t", "workspace": str(tmp_path / "w"), "data": {"uri": str(tmp_path / "t.parquet")}}
    vector = {"type": "float32[2]", "likelihood": "gaussian", "nullable": True}
    try:
        record = ingest.ingest(runfile.parse({**settings, "columns": {"v": vector}}))
    except (ConfigError, DataError) as refused:
        found, message = [], str(refused)
    else:
        found, message = [it["v"] for it in rows(record)], ""
    assert "columns.v" in message or "'v'" in message or found[::2] == [[1, 2], [3, 4]]
    assert message or found[1] in (None, [None, None])


def test_many_small_files_are_no_small_row_groups(tmp_path: Path) -> None:
    """Row groups follow `part_rows` and a fixed bound, not the pieces the rows came in."""
    for number in range(20):
        (tmp_path / f"{number:02d}.csv").write_text("x\n" + "\n".join(str(10 * number + i) for i in range(10)))
    settings = {"name": "t", "workspace": str(tmp_path / "w"), "data": {"uri": str(tmp_path / "*.csv")}}
    record = ingest.ingest(runfile.parse({**settings, "columns": {"x": NUMBER}}))
    metadata = pq.read_metadata(Path(record.snapshot) / "part-00000-000.parquet")
    assert (metadata.num_rows, metadata.num_row_groups) == (200, 1)


def test_without_a_dataset_the_answer_is_the_step_that_makes_one(tmp_path: Path) -> None:
    """`latest` names the folder and the command."""
    with pytest.raises(DataError, match=r"datasets/small: no dataset here\n  cure: run `latentpipe ingest` first"):
        ingest.latest(runfile.parse(small_settings(tmp_path)))
