"""Latents of contract 1, written once and committed: every later program reads them, and finds them whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pytest
from harness import ROOT

from pipeline import latents
from pipeline.trust.verify import verify

GOLDEN = ROOT / "tests/golden"
SNAPSHOTS = sorted((GOLDEN / "latents-v1").iterdir())
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())


@pytest.fixture(params=SNAPSHOTS, ids=[it.name for it in SNAPSHOTS])
def golden(request: pytest.FixtureRequest) -> Path:
    """A folder with one snapshot."""
    folder: Path = request.param
    return folder


def row(table: pa.Table) -> dict[str, Any]:
    """The first row, floats in hexadecimal: every bit of them."""
    plain = table.sort_by("id").slice(0, 1).to_pylist()[0]
    return {name: [it.hex() for it in value] if name in ("mu", "logvar") else value for name, value in plain.items()}


def test_our_reader_reads_them(golden: Path) -> None:
    """Types, rows and a row's very bits, as they were when they were written."""
    expected = EXPECTED[golden.name]
    codes = latents.read(golden)
    assert {it.name: [str(it.type), it.nullable] for it in codes.schema} == expected["columns"]
    assert codes.count_rows() == expected["rows"]
    assert row(codes.to_table()) == expected["first"]


def test_polars_reads_them(golden: Path) -> None:
    """By a plain glob; a vector is an array of fixed length."""
    table = polars.read_parquet(golden / "v000001/*.parquet")
    assert table.schema["mu"] == polars.Array(polars.Float32, 3)
    assert row(table.to_arrow()) == EXPECTED[golden.name]["first"]


def test_duckdb_reads_them(golden: Path) -> None:
    """By a plain glob; a vector is cast to one of fixed length."""
    files = str(golden / "v000001/*.parquet")
    with duckdb.connect() as connection:
        query = "select count(*), min(array_distance(mu::float[3], mu::float[3])) from read_parquet($1)"
        assert connection.execute(query, [files]).fetchone() == (EXPECTED[golden.name]["rows"], 0.0)
        first = connection.execute("select mu from read_parquet($1) order by id limit 1", [files]).fetchone()
    assert first is not None
    assert [it.hex() for it in first[0]] == EXPECTED[golden.name]["first"]["mu"]


def test_they_are_whole(golden: Path) -> None:
    """By size, footer and seal; and by every byte and row, as far as that goes without their dataset."""
    assert verify(golden, quick=True).ok
    verdict = verify(golden)
    assert verdict.ok
    assert {it.name for it in verdict.checks if it.outcome == "--"} == {"input"}


def test_they_are_small() -> None:
    """A repository is no store."""
    assert sum(it.stat().st_size for it in GOLDEN.rglob("*") if it.is_file()) < 64_000
