"""Other people's tables: `init`, a word changed, the whole flow."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import latents
from pipeline.init import init
from pipeline.runfile import load


@pytest.mark.usefixtures("prefect_up", "ray_up")
@pytest.mark.parametrize(
    ("table", "rows", "colour"), [("adult-train.csv", 32_561, "column_15"), ("housing.csv", 20_640, "ocean_proximity")]
)
def test_a_real_table_goes_the_whole_way(shared_data: Path, tmp_path: Path, table: str, rows: int, colour: str) -> None:
    """Mixed types and missing cells: every row is kept and encoded, every column comes back in its own type."""
    from flows.full import full

    (tmp_path / "my.toml").write_text(init(str(shared_data / table), name="my"))
    changes = ("train.epochs=3", f"report.colour_by={colour}", f"workspace={tmp_path}")
    summary = full(load(str(tmp_path / "my.toml"), overrides=changes))
    assert (summary.ingested.rows_in, summary.encoded.rows) == (rows, rows)
    recon = latents.read(summary.encoded.snapshot).schema.field("recon").type
    source = pq.read_schema(next(Path(summary.ingested.snapshot).glob("*.parquet")))
    assert {it.name: it.type for it in recon} == {it.name: it.type for it in source if it.name != "row_id"}
    assert summary.trained.active_units > 0
    assert summary.trained.nll is not None
    assert summary.trained.nll < -summary.trained.elbo
