"""LATENTS.md, "Readers": each block runs as it stands on a snapshot that `encode`'s own writer published."""

from __future__ import annotations

import re
import runpy
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from harness import ROOT, small_settings

from pipeline import catalogue, latents, runfile, storage
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, DataError
from pipeline.parts import write
from pipeline.snapshots import Snapshot

TEXT = (ROOT / "LATENTS.md").read_text().partition("## Readers")[2]
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
READERS = ["pyarrow.dataset", "pandas", "polars", "duckdb", "sklearn", "faiss", "pipeline.latents"]
LATENT = 4


@dataclass(frozen=True)
class Published:
    """Some latents of a run."""

    run: RunConfig
    folder: Path
    codes: Any

    def add(self, rows: int, *, seed: int) -> Snapshot:
        """A newer snapshot."""
        return publish(self.run, np.random.default_rng(seed).normal(size=(rows, LATENT)).astype(np.float32))


def publish(run: RunConfig, codes: Any) -> Snapshot:
    """In two files, with a reconstruction and a passthrough column."""
    root = run.root / "latents" / run.name
    recon = pa.struct([pa.field("height", pa.float64())])
    schema = latents.schema(
        id=pa.field("id", pa.int64()),
        latent=LATENT,
        recon=recon,
        evidence=[pa.field("elbo", pa.float32())],
        passthrough=[pa.field("note", pa.string())],
    )
    key = str(len(codes))
    with storage.attempt(root, key) as directory:
        parts = []
        for number, rows in enumerate(np.array_split(np.arange(len(codes)), 2)):
            mu = pa.FixedSizeListArray.from_arrays(pa.array(codes[rows].ravel()), type=latents.vector(LATENT))
            height = pa.StructArray.from_arrays([pa.array(rows, pa.float64())], fields=list(recon))
            by_name = {"id": pa.array(rows), "mu": mu, "logvar": mu, "recon": height}
            by_name |= {"elbo": pa.array(rows, pa.float32()), "note": pa.array([f"note {i}" for i in rows])}
            by_name["model_version"] = pa.array(["small/1"] * len(rows))
            batch = pa.RecordBatch.from_arrays([by_name[name] for name in schema.names], schema=schema)
            parts.append(write(directory, f"part-{number:05d}.parquet", [batch], schema=schema, id_column="id"))
        facts = {"contract": latents.CONTRACT, "latent": LATENT, "id": "id", "rows": len(codes)}
        return storage.publish(root, directory, parts, {**facts, "run_key": key})


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """One snapshot; the current directory is the one that it lies in."""
    run = runfile.parse(small_settings(tmp_path))
    codes = np.random.default_rng(0).normal(size=(50, LATENT)).astype(np.float32)
    monkeypatch.chdir(publish(run, codes).directory.parent)
    return Published(run, run.root, codes)


def after(code: str, **names: Any) -> dict[str, Any]:
    """The names there are when the code has run beside some."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(code)
        file.flush()
        return runpy.run_path(file.name, init_globals=names)


def block(module: str) -> str:
    """The one that imports the module."""
    [found] = [it for it in BLOCKS if re.search(rf"^(import|from) {re.escape(module)}\b", it, re.MULTILINE)]
    return found


@pytest.mark.parametrize("module", READERS[:4])
def test_each_reader_gives_the_codes(published: Published, module: str) -> None:
    """The matrix, to the bit, in three lines after the imports."""
    pytest.importorskip(module)
    names = after(block(module))
    assert names["mu"].shape == (50, LATENT)
    assert sorted(map(bytes, names["mu"])) == sorted(map(bytes, published.codes))
    code = [line for line in block(module).splitlines() if line and not line.startswith(("import", "from"))]
    assert len(code) <= 3


def test_sklearn_and_faiss_take_them_and_agree(published: Published) -> None:
    """A row's nearest neighbour is itself, the others are the same."""
    faiss = pytest.importorskip("faiss")
    assert faiss
    found = [after(block(module), mu=published.codes)["nearest"] for module in READERS[4:6]]
    assert (found[0][:, 0] == np.arange(10)).all()
    assert (found[0] == found[1]).all()


def test_the_newest_snapshot_is_read_by_its_folder(published: Published) -> None:
    """By `pipeline.latents`."""
    published.add(70, seed=1)
    assert after(block("pipeline.latents"))["table"].num_rows == 70


def test_every_block_is_run_here() -> None:
    """None is forgotten."""
    assert len(BLOCKS) == len(READERS) + len(catalogue.FORMATS)


@pytest.mark.parametrize("format", catalogue.FORMATS)
def test_a_table_holds_the_newest_snapshots_own_files(published: Published, format: catalogue.Format) -> None:
    """Read back as LATENTS.md says it equals the glob; a newer snapshot replaces the older; no byte is touched."""
    module = {"iceberg": "pyiceberg.catalog.sql", "delta": "deltalake"}[format]
    pytest.importorskip(module)
    code = block(module).replace("WORKSPACE", str(published.folder)).replace("NAME", published.run.name)
    snapshots = [latents.resolve(published.folder / "latents/small")]
    for rows in (50, 71):
        snapshots += [published.add(rows, seed=rows)] if rows != 50 else []
        before = {path: path.read_bytes() for path in snapshots[-1].files}
        listed = catalogue.publish(published.run, format)
        assert (listed.rows, listed.files, listed.new) == (rows, 2, True)
        assert not catalogue.publish(published.run, format).new
        table = after(code)["table"].sort_by("id")
        plain = latents.open_file(*snapshots[-1].files).to_table().sort_by("id")
        assert table.column("mu").to_pylist() == plain.column("mu").to_pylist()
        assert table.column("recon").to_pylist() == plain.column("recon").to_pylist()
        assert table.column("id").to_pylist() == list(range(rows))
        assert {path: path.read_bytes() for path in before} == before
    assert {it.digest for it in snapshots} == {Snapshot(it.directory).digest for it in snapshots}
    assert {it.name for it in snapshots[-1].directory.iterdir()} == {path.name for path in before} | {"_manifest.json"}


@pytest.mark.parametrize("format", catalogue.FORMATS)
def test_duckdb_reads_a_table_too(published: Published, format: catalogue.Format) -> None:
    """Through Arrow, without an extension of its own."""
    duckdb, module = pytest.importorskip("duckdb"), {"iceberg": "pyiceberg.catalog.sql", "delta": "deltalake"}[format]
    pytest.importorskip(module)
    catalogue.publish(published.run, format)
    code = block(module).replace("WORKSPACE", str(published.folder)).replace("NAME", published.run.name)
    connection = duckdb.connect()
    connection.register("latents", after(code)["table"])
    found = connection.sql("SELECT count(*), max(mu[1]) FROM latents").fetchall()
    assert found == [(50, published.codes[:, 0].max())]


def test_a_missing_package_or_latents_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cure, and nothing is written."""
    run = runfile.parse(small_settings(tmp_path))
    with pytest.raises(DataError, match="no snapshot here"):
        catalogue.publish(run, "delta")
    publish(run, np.ones((10, LATENT), np.float32))
    packages: dict[catalogue.Format, str] = {"iceberg": "pyiceberg.catalog.sql", "delta": "deltalake"}
    for kind, module in packages.items():
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=rf"cure: pip install 'latentpipe\[{kind}\]'"):
            catalogue.publish(run, kind)
    assert not (run.root / "catalogue.db").exists()
