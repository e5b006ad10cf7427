"""Other people's tables: `init`, a word changed, `run`."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from harness import latentpipe

from pipeline import latents


@pytest.mark.parametrize(
    ("table", "rows", "colour"), [("adult-train.csv", 32_561, "column_15"), ("housing.csv", 20_640, "ocean_proximity")]
)
def test_a_real_table_goes_the_whole_way(shared_data: Path, tmp_path: Path, table: str, rows: int, colour: str) -> None:
    """Mixed types and missing cells: every row is kept and encoded, every column comes back in its own type."""
    written = latentpipe("init", "--data", shared_data / table, "--out", "my.toml", cwd=tmp_path)
    assert written.code == 0, written.stderr
    quick = ("--set", "train.epochs=3", "--set", f"report.colour_by={colour}")
    ended = latentpipe("run", "my.toml", *quick, "--json", cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    answer = ended.answer
    assert (answer["ingested"]["rows_in"], answer["encoded"]["rows"]) == (rows, rows)
    recon = latents.read(answer["encoded"]["snapshot"]).schema.field("recon").type
    source = pq.read_schema(next(Path(answer["ingested"]["snapshot"]).glob("*.parquet")))
    assert {it.name: it.type for it in recon} == {it.name: it.type for it in source if it.name != "row_id"}
    assert answer["trained"]["active_units"] > 0
