"""Evidence per row, of a trained model over a mixed table: a row's figures are its own, and they mean what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import jobs
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from pipeline import draws, parts, reference
from pipeline.codec import Codec
from pipeline.config import EVIDENCE, Encode
from pipeline.errors import ConfigError, DataError
from pipeline.evidence import Evidence
from pipeline.features import Features
from pipeline.reference import Reference, percentile
from pipeline.training import shards, worker
from vae import evaluate
from vae.checkpoint import sealed

EVERYTHING = Encode(draws=3, importance_samples=20, errors=True, imputed=4)
NOTHING = Encode(elbo=False, percentile=False, worst=False)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """A model trained on a table with a column of nearly every kind, a tenth of the cells missing."""
    job = jobs.prepared(tmp_path_factory.mktemp("evidence") / "job", epochs=25)
    worker.run(job)
    return Codec.load(job.path / "model")


def found(codec: Codec, rows: pa.Table, settings: Encode, **other: Any) -> pa.Table:
    """The columns of these rows, as `encode` asks for them; every cell checked against the fields."""
    it = Evidence(codec, settings)
    values, observed = codec.features.transform(rows)
    columns = it.columns(rows, rows.column("id"), values, observed, codec.infer(values, observed), **other)
    table = pa.table(columns, schema=pa.schema(it.fields()))
    table.validate(full=True)
    assert all(not table[field.name].null_count for field in table.schema if not field.nullable)
    return table


def training_rows() -> pa.Table:
    """The rows that the model was trained on."""
    rows = jobs.table()
    return rows.filter(
        pa.array(shards.splits(rows.column("id").combine_chunks(), validation=0.2, test=0.2) == shards.TRAIN)
    )


def numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """A column as float64."""
    return column.to_numpy().astype(np.float64)


def test_a_rows_evidence_is_its_own(codec: Codec) -> None:
    """Shuffled, repeated, cut in pieces, alone, or in more batches than one: the same to the bit, in every column."""
    rows = jobs.table()
    whole = found(codec, rows, EVERYTHING)
    order = [(7 * i) % 400 for i in range(400)] * 6
    assert found(codec, rows.take(order), EVERYTHING).equals(whole.take(order).combine_chunks())
    for start, size in ((0, 1), (17, 1), (5, 150), (399, 1)):
        assert found(codec, rows.slice(start, size), EVERYTHING).equals(whole.slice(start, size).combine_chunks())
    assert found(codec, rows.slice(0, 0), EVERYTHING).num_rows == 0


def test_a_known_reconstruction_changes_nothing(codec: Codec) -> None:
    """Whoever has decoded `mu` already may hand it over."""
    rows = jobs.table()
    guess = codec.guess(codec.encode(rows).mu)
    assert found(codec, rows, EVERYTHING, guess=guess).equals(found(codec, rows, EVERYTHING))


def test_draws_belong_to_the_id(codec: Codec) -> None:
    """Another id, other draws of the same row; fewer draws are the first of more; they are q(z | x)'s."""
    rows = jobs.table()
    few, many = (found(codec, rows, replace(NOTHING, draws=count))["z"].to_pylist() for count in (3, 200))
    assert few == [it[:3] for it in many]
    renamed = rows.set_column(0, "id", pc.add(rows.column("id"), 1000))
    other = found(codec, renamed, replace(NOTHING, draws=3))["z"].to_pylist()
    assert not any(one == two for one, two in zip(few, other, strict=True))
    codes, z = codec.encode(rows), np.array(many)
    standard = (z - codes.mu[:, None]) / np.exp(0.5 * codes.logvar)[:, None]
    assert abs(standard.mean()) < 4 / standard.size**0.5
    assert abs(standard.std() - 1) < 4 / (2 * standard.size) ** 0.5
    assert abs((standard**4).mean() - 3) < 4 * (96 / standard.size) ** 0.5


def test_a_reader_can_draw_again() -> None:
    """Seeds are what the module says, of every type of id; the same id as another integer type has the same."""
    assert draws.seeds(pa.array([-1, 7], pa.int32())).tolist() == draws.seeds(pa.array([-1, 7])).tolist()
    assert draws.seeds(pa.array([-1, 7])).tolist() == [2**64 - 1, 7]
    assert draws.seeds(pa.array([2**64 - 1], pa.uint64())).tolist() == [2**64 - 1]
    text, raw = draws.seeds(pa.array(["Zoë", ""])), draws.seeds(pa.array(["Zoë".encode(), b""]))
    assert text.tolist() == raw.tolist()
    assert len(set(text.tolist())) == 2
    once = draws.normal(draws.seeds(pa.array([7])), range(2), latent=3)
    expected = [[-0.330974, 1.087044, -1.543205], [0.331819, 0.107372, 0.110235]]
    np.testing.assert_allclose(once[0], expected, rtol=1e-5)


def test_the_elbo_is_the_judges(codec: Codec) -> None:
    """The column's mean is `evaluate`'s ELBO at the same draws; the NLL's, at others, within chance of `weigh`'s."""
    rows = jobs.table()
    table = found(codec, rows, replace(NOTHING, elbo=True, importance_samples=50))
    values, observed = (torch.from_numpy(it) for it in codec.features.transform(rows))
    noise = torch.from_numpy(draws.normal(draws.seeds(rows["id"]), range(reference.ELBO_DRAWS), latent=codec.latent))
    judged = evaluate.conclude(codec.model, evaluate.tally(codec.model, values, observed, noise))
    assert numbers(table["elbo"]).mean() == pytest.approx(judged.elbo, rel=1e-6)
    other = pa.table({name: rows[name] for name in rows.schema.names[1:]}).add_column(
        0, "id", pc.add(rows["id"], 10_000)
    )
    apart = numbers(table["nll"]) - numbers(found(codec, other, replace(NOTHING, importance_samples=50))["nll"])
    assert abs(apart.mean()) < 4 * apart.std() / 20
    blocks = zip(values.split(64), observed.split(64), strict=True)
    weighed = sum(
        evaluate.weigh(codec.model, *block, samples=50, seed=1, block=number).packed[2].item()
        for number, block in enumerate(blocks)
    )
    assert numbers(table["nll"]).mean() == pytest.approx(-weighed / 400, abs=4 * apart.std() / 20)
    assert numbers(table["nll"]).mean() < -numbers(table["elbo"]).mean()


def test_other_units_move_the_bound_by_their_jacobian(codec: Codec, tmp_path: Path) -> None:
    """Heights in thousandths, a model that knows: the same codes, log 1000 nats less per height, errors times 1000."""
    rows = jobs.table()
    fine = rows.set_column(1, "height", pc.multiply(rows["height"], 1000.0))
    height, *rest = codec.features.columns
    scaled = replace(height, center=1000 * height.center, scale=1000 * height.scale)
    features = Features((scaled, *rest))
    config = replace(codec.model.config, columns=features.model_columns())
    model = type(codec.model)(config)
    model.load_state_dict(codec.model.state_dict())
    settings = replace(NOTHING, elbo=True, errors=True)
    one, two = found(codec, rows, settings), found(Codec(model, features), fine, settings)
    there = np.asarray(rows["height"].is_valid())
    np.testing.assert_allclose(numbers(one["elbo"]) - numbers(two["elbo"]), there * np.log(1000), atol=1e-3)
    errors = [pc.struct_field(it["recon_error"].combine_chunks(), "height").drop_null().to_numpy() for it in (one, two)]
    np.testing.assert_allclose(errors[1], 1000 * errors[0], rtol=1e-3, atol=0.1)


def test_percentiles_are_uniform_on_training_rows(codec: Codec) -> None:
    """A training row's total error has the very rank among them that the column says; its ELBO by other draws about."""
    table = found(codec, training_rows(), Encode())
    rows = len(table)
    even = (np.arange(rows) + 0.5) / rows * 100
    error = np.sort(numbers(table["error_percentile"]))
    assert np.abs(error - even).max() < 100 / rows + 0.2
    elbo = np.sort(numbers(table["elbo_percentile"]))
    assert np.abs(elbo - even).max() < 163 / rows**0.5


def test_a_percentile_counts_half_of_what_is_equal() -> None:
    """Below all 0, above all 100, the median 50, amid ties their middle; no figure, no percentile."""
    quantiles = np.concatenate([np.zeros(501), np.arange(1, 501)])
    got = percentile(quantiles, np.array([-1.0, 0.0, 250.5, 501.0, np.nan]))
    np.testing.assert_allclose(got, [0, 50 * 501 / 1001, 100 * 751 / 1001, 100, np.nan])


def test_what_is_wrong_with_a_row_is_named(codec: Codec) -> None:
    """A height that nobody has: `worst` begins with it, in units of the usual error; the percentiles are extreme."""
    rows = jobs.table().slice(0, 4)
    spoilt = rows.set_column(1, "height", pa.array([100.0, None, 171.0, 170.0]))
    table = found(codec, spoilt, replace(EVERYTHING, draws=0))
    first, second, *_ = table.to_pylist()
    assert first["worst"][0]["column"] == "height"
    it = Evidence(codec, Encode()).reference
    usual = dict(zip(it.columns, it.usual_error, strict=True))
    assert first["worst"][0]["error"] == pytest.approx(first["recon_error"]["height"] / usual["height"], rel=1e-5)
    assert first["error_percentile"] == 100
    assert first["elbo_percentile"] == 0
    assert second["recon_error"]["height"] is None
    assert "height" not in [it["column"] for it in second["worst"]]
    for row in table.to_pylist():
        errors = [it["error"] for it in row["worst"]]
        each = {name: error / usual[name] for name, error in row["recon_error"].items() if error is not None}
        assert errors == sorted(errors, reverse=True)
        assert errors == pytest.approx(sorted(each.values(), reverse=True)[:3], rel=1e-5)


def test_a_row_of_nothing_has_no_errors(codec: Codec) -> None:
    """All nullable cells missing: a bound there is, by the others; a row without any cell has no worst column."""
    rows = jobs.table().slice(0, 2)
    gone = [pa.nulls(2, it.type) if it.name != "id" else rows["id"] for it in rows.schema]
    table = found(codec, pa.table(gone, schema=rows.schema), EVERYTHING).to_pylist()
    assert table[0]["worst"] == []
    assert table[0]["error_percentile"] is None
    assert set(table[0]["recon_error"].values()) == {None}


def test_imputed_says_which_cells_and_how_sure(codec: Codec) -> None:
    """Null where the cell was there; else a value of the column's own type, with sd or probability; whole rows too."""
    rows = jobs.table()
    table = found(codec, rows, replace(NOTHING, imputed=8))
    imputed = table["imputed"].combine_chunks()
    gaps = [feature for feature in codec.features.columns if feature.nullable]
    assert [it.name for it in imputed.type] == [it.name for it in gaps]
    complete = np.ones(len(rows), bool)
    for feature in gaps:
        cells = imputed.field(feature.name)
        if feature.vector:
            missing = np.array([it is None or None in it for it in rows[feature.name].to_pylist()])
        else:
            missing = np.asarray(rows[feature.name].is_null())
        assert np.array_equal(np.asarray(pc.is_valid(pc.struct_field(imputed, feature.name))), missing)
        complete &= ~missing
        assert cells.type.field("value").type == (pa.list_(feature.scalar) if feature.vector else feature.arrow)
        sure = [it for row in np.flatnonzero(missing) for it in np.ravel(cells[row].as_py()[cells.type[1].name])]
        assert cells.type[1].name == ("probability" if feature.coded else "sd")
        assert all(0 < it <= 1 if feature.coded else it > 0 for it in sure)
    assert np.array_equal(np.asarray(imputed.is_null()), complete)
    assert complete.any()


def test_hidden_cells_are_found_again(codec: Codec) -> None:
    """Heights taken away: nine in ten within two sd of their imputed value, which errs by far less than the mean."""
    rows = jobs.table()
    rows = rows.filter(rows["height"].is_valid())
    blind = rows.set_column(1, "height", pa.nulls(len(rows), pa.float64()))
    cells = pc.struct_field(found(codec, blind, replace(NOTHING, imputed=32))["imputed"].combine_chunks(), "height")
    value, sd = (pc.struct_field(cells, name).to_numpy() for name in ("value", "sd"))
    apart = numbers(rows["height"]) - value
    assert (np.abs(apart) < 2 * sd).mean() > 0.9
    assert apart.std() < 0.5 * numbers(rows["height"]).std()
    assert sd.mean() < numbers(rows["height"]).std()


def test_a_vector_that_misses_some_keeps_the_rest(codec: Codec) -> None:
    """Its elements that were there are as they were, with an sd of 0."""
    rows = jobs.table().slice(0, 1)
    pixels = pa.array([[3, None, 5, None]], pa.list_(pa.uint8(), 4))
    rows = rows.set_column(rows.schema.get_field_index("pixels"), rows.schema.field("pixels"), pixels)
    (row,) = found(codec, rows, replace(NOTHING, imputed=4)).to_pylist()
    cell = row["imputed"]["pixels"]
    assert cell["value"][::2] == [3, 5]
    assert [it > 0 for it in cell["sd"]] == [False, True, False, True]


@pytest.mark.parametrize("size", [1e7, 1e12, 1e30, 1e300])
@pytest.mark.parametrize("column", ["height", "income", "east"])
def test_a_wild_cell_spoils_no_figure(codec: Codec, column: str, size: float, tmp_path: Path) -> None:
    """Its row is the worst there is; a figure that overflows is float32's largest, and all of it can be written."""
    rows = jobs.table().slice(0, 50)
    cells = rows.column(column).to_pylist()
    cells[7] = size
    wild = rows.set_column(rows.schema.get_field_index(column), column, pa.array(cells, rows.schema.field(column).type))
    table = found(codec, wild, EVERYTHING)
    part = parts.write(tmp_path, "wild.parquet", table.to_batches(), schema=table.schema)
    row = pq.read_table(tmp_path / part.staged).to_pylist()[7]
    assert all(np.isfinite(row[name]) for name in ("elbo", "nll", "elbo_percentile", "error_percentile"))
    assert (row["elbo_percentile"], row["error_percentile"]) == (0, 100)
    assert all(np.isfinite(it["error"]) for it in row["worst"])
    assert table.slice(8).equals(found(codec, rows, EVERYTHING).slice(8))


def test_nothing_asked_is_nothing_written(codec: Codec) -> None:
    """No column, no reference needed."""
    assert found(Codec(codec.model, codec.features), jobs.table(), NOTHING).num_columns == 0


def test_a_model_without_a_reference_is_named(codec: Codec, tmp_path: Path) -> None:
    """Percentiles and worst columns need one: an error with the cure; the rest does not."""
    old = Codec(codec.model, codec.features, tmp_path)
    with pytest.raises(
        DataError, match=r"reference\.json.*trained before.*\n.*train it again, or set encode\.percentile"
    ):
        Evidence(old, Encode())
    assert found(old, jobs.table(), replace(NOTHING, elbo=True, errors=True)).num_columns == 2


def test_a_deterministic_encoder_has_no_bound(tmp_path: Path) -> None:
    """No ELBO and no percentile of one, by default; draws asked for are an error; errors and imputation remain."""
    job = jobs.prepared(tmp_path / "job", network={"encoder": "deterministic"}, epochs=1)
    worker.run(job)
    codec = Codec.load(job.path / "model")
    assert found(codec, jobs.table(), Encode(imputed=2, errors=True)).schema.names == [
        *("error_percentile", "recon_error", "worst", "imputed")
    ]
    for asked in ({"draws": 1}, {"importance_samples": 5}):
        with pytest.raises(ConfigError, match="with encoder = 'deterministic': one code a row"):
            Evidence(codec, Encode(**asked))


def test_the_reference_is_of_the_training_rows(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealed with the model; it holds the columns' marginals, the codes and the errors of those very rows."""
    assert {reference.FACTS, reference.NUMBERS} <= set(sealed(codec.directory))
    it, rows = Reference.load(codec.directory), training_rows()
    assert it.rows == len(rows)
    assert list(it.columns) == [feature.name for feature in codec.features.layout]
    height = rows["height"].drop_null().to_numpy()
    np.testing.assert_allclose(it.columns["height"].quantiles, np.quantile(height, np.linspace(0, 1, 101)), rtol=1e-5)
    assert it.columns["height"].missing == pytest.approx(rows["height"].null_count / len(rows))
    city = codec.features.columns[list(rows.schema.names[1:]).index("city")]
    counts = [pc.sum(pc.equal(rows["city"], name)).as_py() for name in city.categories]
    np.testing.assert_allclose(it.columns["city"].shares, [0, *(n / sum(counts) for n in counts)])
    np.testing.assert_allclose(it.mu, codec.encode(rows).mu, rtol=1e-4, atol=1e-5)
    errors = found(codec, rows, replace(NOTHING, errors=True))["recon_error"].combine_chunks()
    place = list(it.columns).index("height")
    expected = np.quantile(pc.struct_field(errors, "height").drop_null().to_numpy(), reference.STEPS)
    np.testing.assert_allclose(it.error[place], expected, rtol=1e-3, atol=1e-4)
    assert it.elbo is not None
    assert (np.diff(it.elbo) >= 0).all()


def test_few_rows_of_many_are_measured_evenly(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """More training rows than ROWS: every n-th of them, and of these every m-th code."""
    monkeypatch.setattr(reference, "ROWS", 100)
    monkeypatch.setattr(reference, "CODES", 10)
    rows = jobs.table()
    values, observed = (torch.from_numpy(it) for it in codec.features.transform(rows))
    it = reference.measure(codec.model, codec.features, lambda at: (values[at], observed[at]), rows=400)
    assert it.rows == 100
    np.testing.assert_allclose(it.mu, codec.encode(rows.take(list(range(0, 400, 40)))).mu, rtol=1e-4, atol=1e-5)


def test_every_reader_finds_the_draws_the_worst_and_the_imputed(codec: Codec, tmp_path: Path) -> None:
    """From our Parquet: polars, DuckDB and pandas read the same numbers, lists and structs as pyarrow."""
    table = found(codec, jobs.table(), EVERYTHING)
    part = parts.write(tmp_path, "part", table.to_batches(), schema=table.schema)
    path = tmp_path / part.staged
    frame = polars.read_parquet(path)
    assert frame.schema["z"] == polars.Array(polars.Float32, (3, codec.latent))
    assert frame["z"].to_numpy().tolist() == table["z"].to_pylist()
    first = frame["worst"].list.first().struct.field("column").to_list()
    assert first == [row[0]["column"] for row in table["worst"].to_pylist()]
    query = f"SELECT imputed.city.value, imputed.city.probability, z[2], elbo FROM '{path}'"
    expected = zip(table["imputed"].to_pylist(), table["z"].to_pylist(), table["elbo"].to_pylist(), strict=True)
    for row, (imputed, z, elbo) in zip(duckdb.connect().execute(query).fetchall(), expected, strict=True):
        cell = (imputed and imputed["city"]) or {"value": None, "probability": None}
        assert row == (cell["value"], cell["probability"], z[1], elbo)
    assert pq.read_table(path).equals(table)
    plain = pd.read_parquet(path)
    assert np.stack(plain["z"].map(np.stack).to_list()).tolist() == table["z"].to_pylist()
    assert plain["elbo_percentile"].tolist() == table["elbo_percentile"].to_pylist()


def test_every_column_has_its_setting(codec: Codec) -> None:
    """Meta: a config refuses clashing names by the very settings that bring, or leave out, each column."""
    asked = [field.name for field in Evidence(codec, EVERYTHING).fields()]
    assert asked == list(EVIDENCE)
    for name, setting in EVIDENCE.items():
        without = replace(EVERYTHING, **{setting: type(getattr(EVERYTHING, setting))()})
        left = [field.name for field in Evidence(codec, without).fields()]
        assert left == [it for it in asked if EVIDENCE[it] != setting]
        assert name not in left
