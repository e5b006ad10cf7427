"""compare: one split and budget for all, one table, one figure, one parent run; done once."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from harness import small_settings
from PIL import Image

from pipeline import compare, ingest, keys, runfile, tracking
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.records import Compared

FAMILY = ("marginals", "gaussian", "ppca", "mixture", "pca", "undercomplete", "vae")


def settings(folder: Path, **changes: object) -> RunConfig:
    """A comparison of seven, two of them trained for two epochs."""
    chosen = {"family": FAMILY, "label": "city", **changes}
    columns = {"city": {"type": "string", "role": "passthrough", "nullable": True}}
    train = {"epochs": 2, "importance_samples": 20}
    return runfile.parse(small_settings(folder, compare=chosen, columns=columns, train=train))


@pytest.fixture(scope="module")
def compared(ray_up: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Compared]:
    """A comparison that was made."""
    config = settings(tmp_path_factory.mktemp("compare"))
    return config, compare.compare(config, ingest.ingest(config))


def test_every_member_has_its_row(compared: tuple[RunConfig, Compared]) -> None:
    """The table holds the family in its order, with the figures that are defined for each and no others."""
    _, record = compared
    rows = {row["model"]: row for row in record.standings}
    assert tuple(rows) == FAMILY
    assert [name for name, row in rows.items() if row["nll"]] == ["marginals", "gaussian", "ppca", "mixture", "vae"]
    assert [name for name, row in rows.items() if row["elbo"]] == ["vae"]
    for figure in ("reconstruction", "linear_probe", "neighbours", "two_sample"):
        assert [name for name, row in rows.items() if row[figure]] == ["pca", "undercomplete", "vae"]
    assert rows["vae"]["nll_is"] == "20 importance samples"
    assert rows["ppca"]["nll_is"] == "exact"
    assert all(0 <= float(rows[name][score]) <= 1 for name in ("pca", "vae") for score in ("neighbours", "two_sample"))


def test_richer_rungs_are_no_worse_on_what_they_model(compared: tuple[RunConfig, Compared]) -> None:
    """A table whose columns are independent gains nothing: the rungs agree to a fraction of a nat."""
    nll = {row["model"]: float(row["nll"]) for row in compared[1].standings if row["nll"]}
    assert nll["gaussian"] == pytest.approx(nll["ppca"], abs=1e-6)  # one real column: the same model
    assert abs(nll["marginals"] - nll["gaussian"]) < 0.5


def test_the_files_are_whole(compared: tuple[RunConfig, Compared]) -> None:
    """A CSV and a Markdown table with the same rows, and a picture."""
    record = compared[1]
    with Path(record.table).open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(FAMILY)
    markdown = Path(record.table).with_name("table.md").read_text().splitlines()
    assert len(markdown) == len(FAMILY) + 2
    assert len({len(line) for line in markdown}) == 1
    with Image.open(record.figure) as picture:
        assert picture.size[0] > 800


def test_members_are_children_of_one_run(compared: tuple[RunConfig, Compared]) -> None:
    """Trained members' MLflow runs name the comparison's as parent; it holds the figures and the files."""
    config, record = compared
    client = tracking.connect(config)
    experiment = client.get_run(record.mlflow_run).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{record.mlflow_run}'")
    assert {child.data.tags["latentpipe.member"] for child in children} == {"undercomplete", "vae"}
    parent = client.get_run(record.mlflow_run)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["vae.nll"] == pytest.approx(float(record.standings[-1]["nll"]))
    assert {it.path for it in client.list_artifacts(record.mlflow_run)} == {"table.csv", "table.md", "figure.png"}


def test_a_comparison_is_made_once(compared: tuple[RunConfig, Compared]) -> None:
    """The same comparison again is read, not made; another family or label is another."""
    config, record = compared
    before = Path(record.table).stat().st_mtime_ns
    again = compare.compare(config, ingest.ingest(config))
    assert again == record
    assert Path(record.table).stat().st_mtime_ns == before
    other = replace(config, compare=replace(config.compare, label=""))
    assert keys.comparison(other, "d") != keys.comparison(config, "d")


def test_members_differ_in_what_they_are_named_after(tmp_path: Path) -> None:
    """Each member changes network and objective alone, and keeps table, split and budget."""
    config = settings(tmp_path)
    members = {name: compare.member(config, name) for name in compare.FAMILY}
    assert len({json.dumps(it.to_dict()) for it in members.values()}) == len(members)
    for member in members.values():
        assert (member.data, member.columns, member.train) == (config.data, config.columns, config.train)
        assert member.model.hidden == config.model.hidden
    assert members["iwae"].objective.bound == "iwae"
    assert members["undercomplete"].model.encoder == "deterministic"


@pytest.mark.parametrize("label", ["town", "smoker"])
def test_a_label_must_be_there_and_unseen(tmp_path: Path, label: str) -> None:
    """A label that is no column, or one that the codes have seen, is refused, naming the setting."""
    with pytest.raises(ConfigError, match=f"compare.label = '{label}': not a passthrough column"):
        settings(tmp_path, label=label)
