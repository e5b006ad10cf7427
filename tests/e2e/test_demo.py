"""The demo, as its user sees it and as downstream jobs read it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import ROOT, Demo, latentpipe

from pipeline import latents


def test_every_row_has_a_code_and_nothing_else_does(demo: Demo) -> None:
    """The id set of the latents is the input's; ids and passthrough cells are untouched."""
    source = pq.read_table(demo.workspace / "sources" / "digits.parquet").sort_by("id")
    found = latents.read(demo.latents).to_table().sort_by("id")
    assert found.column("id").equals(source.column("id"))
    assert found.column("label").equals(source.column("label"))


def test_the_schema_is_the_contract(demo: Demo) -> None:
    """Vectors are fixed_size_list<float not null>[d], reconstructions have the input's type, ids are not null."""
    schema = latents.read(demo.latents).schema
    evidence = ["elbo", "elbo_percentile", "error_percentile", "worst"]
    assert schema.names == ["id", "mu", "logvar", "recon", *evidence, "model_version", "label"]
    assert schema.field("mu").type == pa.list_(pa.field("element", pa.float32(), nullable=False), 16)
    assert not schema.field("mu").nullable
    assert not schema.field("id").nullable
    assert str(schema.field("recon").type.field("pixels").type) == "fixed_size_list<element: float>[64]"


def test_codes_and_reconstructions_mean_something(demo: Demo) -> None:
    """Codes are finite; reconstructions are nearer to the images than the mean image is, by far."""
    source = pq.read_table(demo.workspace / "sources" / "digits.parquet").sort_by("id")
    found = latents.read(demo.latents).to_table().sort_by("id")
    images = np.stack(source.column("pixels").to_numpy())
    recon = np.stack([row["pixels"] for row in found.column("recon").to_pylist()])
    assert np.isfinite(np.stack(found.column("mu").to_numpy())).all()
    assert ((recon - images) ** 2).mean() < 0.35 * ((images.mean(0) - images) ** 2).mean()


def test_three_other_readers(demo: Demo) -> None:
    """Polars, DuckDB and pandas read the snapshot by a plain glob, vectors as vectors."""
    files = f"{demo.latents}/*.parquet"
    frame = pl.read_parquet(files)
    assert frame.schema["mu"] == pl.Array(pl.Float32, 16)
    near = duckdb.sql(
        f"select count(*) from read_parquet('{files}') where array_distance(mu::FLOAT[16], mu::FLOAT[16]) = 0"
    ).fetchall()
    assert near == [(1797,)]
    assert np.stack(pd.read_parquet(demo.latents)["mu"]).shape == (1797, 16)


READER = """
import sys
from pipeline.latents import read
rows = read(sys.argv[1]).count_rows()
heavy = {"ray", "torch", "mlflow", "prefect", "pydantic", "vae"} & set(sys.modules)
print(rows, sorted(heavy))
"""


def reader(code: str, argument: Path) -> str:
    """What a fresh process prints."""
    ended = subprocess.run([sys.executable, "-c", code, str(argument)], capture_output=True, text=True, check=True)
    return ended.stdout.strip()


def test_a_reader_pays_for_pyarrow_alone(demo: Demo) -> None:
    """`pipeline.latents.read` in a fresh process loads none of the heavy packages."""
    assert reader(READER, demo.workspace / "latents" / "digits") == "1797 []"


def test_the_check_above_can_fail(demo: Demo) -> None:
    """With one heavy import added, the same check names it."""
    assert reader("import pipeline.features\n" + READER, demo.latents) == "1797 ['torch', 'vae']"


def test_the_model_loads_on_torch_alone(demo: Demo) -> None:
    """`vae.load(directory)` needs torch and safetensors only, and decodes the published codes again."""
    code = (
        "import sys, vae, torch; model = vae.load(sys.argv[1]);"
        "x = model.reconstruct(torch.zeros(1, 16)); print(tuple(x.shape),"
        "sorted({'ray', 'mlflow', 'prefect', 'pyarrow', 'pandas', 'pydantic', 'pipeline'} & set(sys.modules)))"
    )
    assert reader(code, Path(demo.summary["registered"]["model"])) == "(1, 64) []"


def test_the_manifest_tells_the_whole_chain(demo: Demo) -> None:
    """Model, training, input and every file's rows and sha256 stand in the manifest, and they are true."""
    from pipeline.disk import sha256

    manifest = json.loads((demo.latents / "_manifest.json").read_text())
    assert manifest["model"]["mlflow_run"] == demo.summary["trained"]["mlflow_run"]
    assert manifest["input"]["digest"] == demo.summary["ingested"]["digest"]
    assert sum(part["rows"] for part in manifest["files"]) == manifest["rows"] == 1797
    assert all(sha256(demo.latents / part["path"]) == part["sha256"] for part in manifest["files"])
    assert [part["path"] for part in manifest["files"]] == [f"part-00000-{i:03d}.parquet" for i in range(4)]


def test_progress_is_plain_lines_and_no_noise(demo: Demo) -> None:
    """Without a terminal, stderr holds one line or more per stage, and nothing else."""
    stages = ("ingest", "train", "register", "encode", "reduce", "report")
    lines = demo.stderr.splitlines()
    assert all(line.startswith(stages) for line in lines), demo.stderr
    assert [line.split()[0] for line in lines if " done in " in line] == list(stages)


@pytest.fixture(scope="module")
def again(demo: Demo) -> str:
    """What the same command prints the second time, for a person."""
    ended = latentpipe(*demo.arguments, cwd=demo.workspace.parent)
    assert ended.code == 0, ended.stderr
    return ended.stdout


def test_a_second_run_writes_nothing(demo: Demo, again: str) -> None:
    """Every step of an unchanged run is a no-op; the summary has twelve lines at most and names the same snapshot."""
    assert len(again.splitlines()) <= 12
    assert f"snapshot   {demo.latents}" in again
    assert "1,797 in = 1,797 kept + 0 quarantined" in again
    assert "champion" in again
    assert [path.name for path in demo.latents.parent.glob("v*")] == ["v000001"]


def test_nothing_is_left_lying_about(demo: Demo) -> None:
    """No attempt, partial file or foreign folder stays in the workspace."""
    assert not list(demo.workspace.rglob("*partial*"))
    assert not list(demo.workspace.rglob("_attempts"))
    known = {"datasets", "latents", "logs", "mlartifacts", "mlflow.db", "models", "reduced", "reports", "sources"}
    assert {path.name for path in demo.workspace.iterdir()} == known | {"training"}


def test_the_report_stands_alone(demo: Demo) -> None:
    """One page without a link to anything, its plots inside, its figures those of the summary."""
    page = Path(demo.summary["reported"]["page"]).read_text()
    assert set(re.findall(r"""(?:src|href)=["']?([a-z]+:?)""", page)) == {"data:"}
    assert page.count("data:image/png;base64") == len(demo.summary["reported"]["plots"]) == 5
    assert f"{demo.summary['trained']['elbo']:.4f}" in page


def test_help_is_quick_and_complete() -> None:
    """`latentpipe --help` names every verb and imports none of the heavy packages."""
    code = (
        "import sys; sys.argv = ['latentpipe', '--help']\n"
        "import atexit; heavy = {'torch', 'ray', 'prefect', 'pyarrow', 'pydantic'}\n"
        "atexit.register(lambda: print(heavy & set(sys.modules)))\n"
        "from flows.__main__ import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stdout.strip().endswith("set()")
    verbs = ["init", "run", "plan", "ingest", "train", "register", "encode", "reduce", "report", "sample", "doctor"]
    assert all(f"\n    {verb} " in ended.stdout for verb in verbs)
