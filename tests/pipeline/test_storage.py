"""All of a snapshot, or none of it: real files, real threads, real damage."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import latents, snapshots, storage
from pipeline.errors import DataError, InfrastructureError
from pipeline.parts import ROW_GROUP_ROWS, write
from pipeline.schema import arrow_type
from pipeline.snapshots import Snapshot

SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False)])


def numbers(*values: int) -> pa.RecordBatch:
    """Rows of the one column."""
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], schema=SCHEMA)


def published(root: Path, key: str, *values: int) -> Snapshot:
    """A snapshot of two files, made as a step makes it."""
    with storage.attempt(root, key) as directory:
        parts = [write(directory, f"part-{i:05d}.parquet", [numbers(*values, i)], schema=SCHEMA) for i in range(2)]
        return storage.publish(root, directory, parts, {"run_key": key, "kind": "numbers"})


def at_once(count: int, work: Callable[[int], Snapshot]) -> list[Snapshot]:
    """What so many threads get that start together."""
    barrier = threading.Barrier(count)

    def start(number: int) -> Snapshot:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return [it.result() for it in [pool.submit(start, number) for number in range(count)]]


def assert_complete(snapshot: Snapshot) -> None:
    """Every file of the manifest is there with its bytes, and no other."""
    listed = {part["path"]: part["sha256"] for part in snapshot.manifest["files"]}
    there = {it.name: hashlib.sha256(it.read_bytes()).hexdigest() for it in snapshot.directory.glob("*.parquet")}
    assert there == listed
    assert listed


def test_a_snapshot_is_its_files_and_a_manifest_that_accounts_for_them(tmp_path: Path) -> None:
    """Path, rows, bytes and sha256 of each; version and the one before; the pointer follows."""
    first, second = published(tmp_path, "k1", 1, 2), published(tmp_path, "k2", 3)
    assert_complete(first)
    assert (first.version, second.version) == (1, 2)
    assert (first.manifest["previous"], second.manifest["previous"]) == (None, "v000001")
    assert [part["rows"] for part in first.manifest["files"]] == [3, 3]
    assert first.manifest["quarantine"] == []
    assert json.loads((tmp_path / "_latest.json").read_text()) == {"snapshot": "v000002", "version": 2}
    assert first.digest == hashlib.sha256((first.directory / "_manifest.json").read_bytes()).hexdigest()


def test_an_attempt_leaves_nothing(tmp_path: Path) -> None:
    """On success, on error: the directory is gone, and so are its parents."""
    published(tmp_path, "k", 1)
    assert sorted(it.name for it in tmp_path.iterdir()) == ["_latest.json", "v000001"]

    def fails() -> None:
        with storage.attempt(tmp_path / "new", "k") as directory:
            (directory / "deep").mkdir()
            (directory / "deep/file").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert list((tmp_path / "new").iterdir()) == []


def test_publishing_is_all_or_nothing(tmp_path: Path) -> None:
    """A try that breaks off after its files are written leaves no snapshot, and the next one is not hindered."""

    def breaks_off(error: Exception | None) -> None:
        with storage.attempt(tmp_path, "k") as directory:
            parts = [write(directory, f"part-{i}.parquet", [numbers(i)], schema=SCHEMA) for i in range(2)]
            if error is not None:
                raise error
            (directory / parts[1].staged).unlink()
            storage.publish(tmp_path, directory, parts, {"run_key": "k"})

    with pytest.raises(RuntimeError, match="half way"):
        breaks_off(RuntimeError("half way"))
    with pytest.raises(InfrastructureError, match="cannot write: No such file"):
        breaks_off(None)
    assert snapshots.versions(tmp_path) == []
    assert_complete(published(tmp_path, "k", 1))


def test_a_batch_that_cannot_be_written_is_no_file(tmp_path: Path) -> None:
    """An error in the rows' source passes through, and nothing is published."""

    def broken() -> object:
        yield numbers(1)
        raise DataError("bad row")

    with pytest.raises(DataError, match="bad row"), storage.attempt(tmp_path, "k") as directory:
        write(directory, "part-00000.parquet", broken(), schema=SCHEMA)  # type: ignore[arg-type]
    assert snapshots.versions(tmp_path) == []


def test_publishers_of_different_keys_take_versions_in_turn(tmp_path: Path) -> None:
    """Eight at once: versions 1 to 8 without a gap, each complete, each its own."""
    found = at_once(8, lambda number: published(tmp_path, f"key-{number:020d}", number))
    assert sorted(it.version for it in found) == list(range(1, 9))
    for number, snapshot in enumerate(found):
        assert_complete(snapshot)
        assert snapshot.manifest["run_key"] == f"key-{number:020d}"
    chain = [it.manifest["previous"] for it in snapshots.versions(tmp_path)]
    assert chain == [None, *(snapshots.directory_name(version) for version in range(1, 8))]


def test_publishers_of_the_same_key_share_one_snapshot(tmp_path: Path) -> None:
    """Exactly one is published and all get it, also when one arrives while another is committing."""
    for trial in range(5):
        root = tmp_path / str(trial)
        for number in range(25):
            published(root, f"before-{number}", number)

        def late(number: int, root: Path = root) -> Snapshot:
            time.sleep(number * 0.0015)
            return published(root, "same", 1)

        found = at_once(8, late)
        assert {it.directory.name for it in found} == {"v000026"}, f"trial {trial}"
        assert len(snapshots.versions(root)) == 26
        assert_complete(found[0])


def test_attempts_side_by_side_do_not_trip_over_each_other(tmp_path: Path) -> None:
    """One try that tidies up never takes the ground from under another that begins."""

    def come_and_go(_: int) -> None:
        for _ in range(100):
            with storage.attempt(tmp_path, "k") as directory:
                assert directory.is_dir()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(8)))
    assert not (tmp_path / "_attempts").exists()


def test_a_directory_without_a_manifest_is_no_snapshot_and_no_obstacle(tmp_path: Path) -> None:
    """What somebody left under the next version's name is not read, not touched, and publishing goes on."""
    published(tmp_path, "k1", 1)
    stray = tmp_path / "v000002"
    stray.mkdir()
    (stray / "part-00000.parquet").write_text("torn")
    assert [it.version for it in snapshots.versions(tmp_path)] == [1]
    second = published(tmp_path, "k2", 2)
    assert second.directory != stray
    assert_complete(second)
    assert snapshots.latest(tmp_path) == second
    assert (stray / "part-00000.parquet").read_text() == "torn"


def test_other_names_are_nobodys_snapshot(tmp_path: Path) -> None:
    """Only `v` and at least six digits; versions are ordered as numbers."""
    for name in ("v1", "v00001x", "_attempts", "x000001", "v000009", "v1000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_manifest.json").write_text('{"run_key": "k"}')
    assert [it.version for it in snapshots.versions(tmp_path)] == [9, 1_000_000]
    assert snapshots.directory_name(1_000_000) == "v1000000"
    assert snapshots.versions(tmp_path / "none") == []


def test_a_broken_manifest_is_named(tmp_path: Path) -> None:
    """By its directory and the reason."""
    (tmp_path / "v000001").mkdir()
    (tmp_path / "v000001/_manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"v000001: not a snapshot: _manifest.json is missing or broken"):
        _ = Snapshot(tmp_path / "v000001").manifest


def test_a_row_too_few_is_not_published(tmp_path: Path) -> None:
    """The parts hold what was read, or it is an error."""
    with storage.attempt(tmp_path, "k") as directory:
        parts = [write(directory, "part-00000.parquet", [numbers(1, 2)], schema=SCHEMA)]
        storage.verify_rows(2, parts, tmp_path)
        with pytest.raises(DataError, match="2 rows written, 3 expected; nothing was published"):
            storage.verify_rows(3, parts, tmp_path)


LATENTS = latents.schema(
    id=pa.field("id", pa.string()),
    latent=4,
    recon=pa.struct([("x", pa.float64()), ("v", arrow_type("float32[2]")), ("city", pa.string())]),
    passthrough=[pa.field("a.b", pa.float32()), pa.field("label", pa.int8())],
)


def coded(rows: int) -> pa.RecordBatch:
    """Rows of every kind of column that is written."""
    flat = pa.array([float(i) for i in range(4 * rows)], pa.float32())
    vectors = pa.FixedSizeListArray.from_arrays(flat, type=latents.vector(4))
    recon = pa.array([{"x": i / 7, "v": [i, i], "city": f"c{i % 3}"} for i in range(rows)], LATENTS.field("recon").type)
    ids, model = pa.array([f"r{i}" for i in range(rows)]), pa.array(["1"] * rows)
    arrays = [
        ids,
        vectors,
        vectors,
        recon,
        model,
        pa.array([0.5] * rows, pa.float32()),
        pa.array([1] * rows, pa.int8()),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=LATENTS)


def test_every_leaf_has_the_encoding_of_its_type(tmp_path: Path) -> None:
    """In vectors too: floats BYTE_STREAM_SPLIT, whole numbers as differences, texts that repeat by dictionary."""
    part = write(tmp_path, "part.parquet", [coded(2000)], schema=LATENTS)
    with pq.ParquetFile(tmp_path / part.staged) as file:
        assert file.schema_arrow.equals(LATENTS)
        group = file.metadata.row_group(0)
        columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    floats = {"mu.list.element", "logvar.list.element", "recon.x", "recon.v.list.element", "a.b"}
    whole, texts = {"label"}, {"recon.city", "model_version"}
    unique = {"id"}
    assert set(columns) == floats | whole | texts | unique
    for name, column in columns.items():
        assert column.compression == "ZSTD", name
        assert column.has_column_index, name
        assert ("BYTE_STREAM_SPLIT" in column.encodings) == (name in floats), name
        assert ("DELTA_BINARY_PACKED" in column.encodings) == (name in whole), name
        assert column.has_dictionary_page == (name in texts), name


def test_row_groups_are_bounded(tmp_path: Path) -> None:
    """A large file has several."""
    part = write(tmp_path, "p", [numbers(*range(70_000)), numbers(1)], schema=SCHEMA)
    assert part.rows == 70_001
    metadata = pq.read_metadata(tmp_path / part.staged)
    assert max(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)) <= ROW_GROUP_ROWS


def test_a_flipped_byte_in_any_page_is_noticed(tmp_path: Path) -> None:
    """`latents.read` verifies page checksums: damage is an error, never other numbers."""
    with storage.attempt(tmp_path, "k") as directory:
        parts = [write(directory, "part-0.parquet", [coded(500)], schema=LATENTS)]
        facts = {"run_key": "k", "contract": latents.CONTRACT, "latent": 4}
        snapshot = storage.publish(tmp_path, directory, parts, facts)
    (path,) = snapshot.files
    whole, content = latents.read(tmp_path).to_table(), path.read_bytes()
    assert whole.num_rows == 500
    group = pq.read_metadata(path).row_group(0)
    for number in range(group.num_columns):
        column = group.column(number)
        end = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
        damaged = bytearray(content)
        damaged[end - 5] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(OSError, match=r"CRC|checksum"):
            latents.read(tmp_path).to_table()
    path.write_bytes(content)
    assert latents.read(tmp_path).to_table().equals(whole)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """InfrastructureError with path and cure, not a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InfrastructureError, match=r"cannot write: .*\n  cure: check the folder, then run again"):
        published(tmp_path / "file", "k", 1)
