"""The output contract, as a reader meets it: pyarrow and this module, nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import latents, snapshots, storage
from pipeline.config import RESERVED
from pipeline.errors import DataError
from pipeline.parts import write
from pipeline.snapshots import Snapshot

SCHEMA = latents.schema(id=pa.field("id", pa.int64()), latent=2, recon=None, passthrough=[])


def codes(*ids: int) -> pa.RecordBatch:
    """One row per id."""
    flat = pa.array([float(it) for it in ids for _ in range(2)], pa.float32())
    mu = pa.FixedSizeListArray.from_arrays(flat, type=latents.vector(2))
    return pa.RecordBatch.from_arrays([pa.array(ids), mu, mu, pa.array(["7"] * len(ids))], schema=SCHEMA)


def published(
    root: Path, *batches: pa.RecordBatch, facts: dict[str, Any] | None = None, schema: pa.Schema = SCHEMA
) -> Snapshot:
    """A snapshot with one file per batch."""
    key = f"key-{len(snapshots.versions(root))}"
    manifest = {"run_key": key, "contract": latents.CONTRACT, "latent": 2, **(facts or {})}
    with storage.attempt(root, key) as directory:
        parts = [write(directory, f"part-{i}.parquet", [it], schema=schema) for i, it in enumerate(batches)]
        return storage.publish(root, directory, parts, manifest)


def ids(location: Path, **options: Any) -> list[int]:
    """The ids a reader sees."""
    found: list[int] = latents.read(location, **options).to_table(columns=["id"]).column("id").to_pylist()
    return sorted(found)


def test_the_columns_are_the_contract() -> None:
    """Id as in the input but never null; vectors of float32 that hold no null; recon and passthrough as given."""
    recon = pa.struct([("x", pa.int8())])
    found = latents.schema(
        id=pa.field("key", pa.string(), nullable=True),
        latent=3,
        recon=recon,
        passthrough=[pa.field("note", pa.string())],
    )
    assert [(it.name, str(it.type), it.nullable) for it in found] == [
        ("key", "string", False),
        ("mu", "fixed_size_list<element: float not null>[3]", False),
        ("logvar", "fixed_size_list<element: float not null>[3]", False),
        ("recon", "struct<x: int8>", False),
        ("model_version", "string", False),
        ("note", "string", True),
    ]
    assert "recon" not in SCHEMA.names
    assert {"mu", "logvar", "recon", "model_version"} == set(RESERVED)


def test_read_by_root_version_or_snapshot(tmp_path: Path) -> None:
    """The newest, a version, or exactly this directory; all of its files."""
    first, _ = published(tmp_path, codes(1), codes(2)), published(tmp_path, codes(3))
    assert ids(tmp_path) == [3]
    assert ids(tmp_path, version=1) == ids(first.directory) == [1, 2]
    assert ids(tmp_path, version=2) == [3]
    assert latents.read(str(tmp_path)).schema.equals(SCHEMA)


def test_any_reader_over_the_files_sees_the_same_rows(tmp_path: Path) -> None:
    """A snapshot is complete: a plain glob is enough."""
    snapshot = published(tmp_path, codes(1, 2), codes(3))
    plain = pa.concat_tables(pq.read_table(it) for it in sorted(snapshot.directory.glob("*.parquet")))
    assert plain.equals(latents.read(tmp_path).to_table())


@pytest.mark.parametrize("version", [None, 2])
def test_where_nothing_is_the_answer_is_the_command(tmp_path: Path, version: int | None) -> None:
    """No folder, an empty one, a version that is not: DataError with the cure."""
    for root in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match=r"no snapshot here\n  cure: write one with `latentpipe encode`"):
            latents.read(root, version=version)


@pytest.mark.parametrize("contract", [2, 0, None, "1"])
def test_an_unknown_contract_is_refused(tmp_path: Path, contract: Any) -> None:
    """A reader never guesses: what was written, and what it knows."""
    published(tmp_path, codes(1), facts={"contract": contract})
    with pytest.raises(DataError, match=f"written by latents contract {contract}; this reader knows 1"):
        latents.read(tmp_path)


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), latents.vector(3), pa.list_(pa.field("element", pa.float64(), nullable=False), 2)],
    ids=str,
)
@pytest.mark.parametrize("name", ["mu", "logvar"])
def test_a_vector_of_another_type_is_refused(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    """Of another length, another number, or no fixed length."""
    schema = SCHEMA.set(SCHEMA.get_field_index(name), pa.field(name, kind, nullable=False))
    row = {"id": 1, "mu": [0.0, 0.0], "logvar": [0.0, 0.0], "model_version": "7"}
    row[name] = [0.0] * (kind.list_size if pa.types.is_fixed_size_list(kind) else 2)
    published(tmp_path, pa.RecordBatch.from_pylist([row], schema=schema), schema=schema)
    with pytest.raises(DataError) as caught:
        latents.read(tmp_path)
    assert caught.value.what == f"column {name!r} is not fixed_size_list<element: float not null>[2]"


def test_a_snapshot_of_something_else_is_refused(tmp_path: Path) -> None:
    """A dataset is a snapshot, too, but holds no latents: DataError, not KeyError."""
    schema = pa.schema([("id", pa.int64())])
    with storage.attempt(tmp_path, "k") as directory:
        parts = [write(directory, "p.parquet", [pa.RecordBatch.from_pydict({"id": [1]})], schema=schema)]
        storage.publish(tmp_path, directory, parts, {"run_key": "k", "contract": 1, "kind": "dataset"})
    with pytest.raises(DataError):
        latents.read(tmp_path)


def test_a_snapshot_whose_file_is_gone_is_an_error(tmp_path: Path) -> None:
    """Never fewer rows in silence."""
    snapshot = published(tmp_path, codes(1), codes(2))
    snapshot.files[1].unlink()
    with pytest.raises(FileNotFoundError):
        latents.read(tmp_path).to_table()


def test_find_is_by_key(tmp_path: Path) -> None:
    """The newest with this run key, or none."""
    first = published(tmp_path, codes(1))
    published(tmp_path, codes(2))
    assert snapshots.find(tmp_path, "key-0") == first
    assert snapshots.find(tmp_path, "key-9") is None


def test_the_digest_is_of_every_byte(tmp_path: Path) -> None:
    """Through the manifest, which holds the digest of each file."""
    one, two = published(tmp_path / "a", codes(1)), published(tmp_path / "b", codes(2))
    assert one.digest != two.digest
    assert one.digest == published(tmp_path / "c", codes(1)).digest
    manifest = json.loads((one.directory / "_manifest.json").read_text())
    assert all({"path", "rows", "bytes", "sha256"} <= set(part) for part in manifest["files"])


def test_a_reader_pays_for_pyarrow_alone(tmp_path: Path) -> None:
    """In a fresh interpreter: three lines, and none of the heavy libraries is loaded by them."""
    published(tmp_path, codes(1, 2))
    program = (
        "import sys; from pipeline.latents import read; rows = read(sys.argv[1]).count_rows();"
        "heavy = {'ray', 'mlflow', 'prefect', 'torch', 'vae', 'pydantic', 'pipeline.config'};"
        "print(rows, heavy & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout == "2 set()\n", ended.stderr
