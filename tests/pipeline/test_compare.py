"""compare: one split and budget for all, one table, one figure, one parent run; done once."""

from __future__ import annotations

import argparse
import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import small_settings
from PIL import Image

from pipeline import cli, compare, ingest, keys, runfile
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.records import Compared
from pipeline.tracking import server
from vae.config import Objective

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


def defined(rows: dict[str, dict[str, Any]], figure: str) -> list[str]:
    """The models that have a figure."""
    return [name for name, row in rows.items() if row[figure] is not None]


def test_every_member_has_its_row(compared: tuple[RunConfig, Compared]) -> None:
    """The table holds the family in its order, with the figures that are defined for each and no others."""
    _, record = compared
    rows = {row["model"]: row for row in record.standings}
    assert tuple(rows) == FAMILY
    assert defined(rows, "nll") == ["marginals", "gaussian", "ppca", "mixture", "vae"]
    assert defined(rows, "elbo") == ["vae"]
    assert defined(rows, "active") == ["pca", "vae"]
    for figure in ("reconstruction", "linear", "knn"):
        assert defined(rows, figure) == ["pca", "undercomplete", "vae"]
    assert defined(rows, "two_sample") == []  # too few test rows to tell
    assert rows["vae"]["nll_is"] == "20 importance samples"
    assert rows["ppca"]["nll_is"] == "exact"
    assert all(0 <= rows[name][score] <= 1 for name in ("pca", "vae") for score in ("linear", "knn"))


def test_richer_rungs_are_no_worse_on_what_they_model(compared: tuple[RunConfig, Compared]) -> None:
    """A table whose columns are independent gains nothing: the rungs agree to a fraction of a nat."""
    nll = {row["model"]: row["nll"] for row in compared[1].standings if row["nll"]}
    assert nll["gaussian"] == pytest.approx(nll["ppca"], abs=1e-6)  # one real column: the same model
    assert abs(nll["marginals"] - nll["gaussian"]) < 0.5


def test_the_files_are_whole(compared: tuple[RunConfig, Compared]) -> None:
    """A CSV and a Markdown table with the same rows, and a picture."""
    record = compared[1]
    with Path(record.table).with_suffix(".csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(FAMILY)
    markdown = Path(record.table).read_text().splitlines()
    assert len({len(line) for line in markdown[: len(FAMILY) + 2]}) == 1
    assert re.fullmatch(r"\d+ test rows; .* accuracy for city, 0\.\d+ by its commonest value", markdown[-1])
    with Image.open(record.figure) as picture:
        assert picture.size[0] > 800


def test_members_are_children_of_one_run(compared: tuple[RunConfig, Compared]) -> None:
    """Trained members' MLflow runs name the comparison's as parent; it holds the figures and the files."""
    config, record = compared
    client = server.connect(config)
    experiment = client.get_run(record.mlflow_run).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{record.mlflow_run}'")
    parent = client.get_run(record.mlflow_run)
    members = {name: parent.data.tags[f"latentpipe.member.{name}"] for name in ("undercomplete", "vae")}
    assert {child.info.run_id for child in children} == set(members.values())
    assert client.get_run(members["undercomplete"]).data.params["model.encoder"] == "deterministic"
    assert client.get_run(members["vae"]).data.params["objective.beta"] == "1.0"
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["vae.nll"] == pytest.approx(record.standings[-1]["nll"])
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


@pytest.mark.parametrize("family", [(), ("vae", "vae")])
def test_a_family_has_members_each_once(tmp_path: Path, family: tuple[str, ...]) -> None:
    """An empty family, or one with twins, is refused before anything is trained."""
    with pytest.raises(ConfigError, match=r"family = .*name at least one member, and each once"):
        settings(tmp_path, family=family)


def test_the_runs_own_objective_is_not_compared(tmp_path: Path) -> None:
    """Members bring their objectives, so the run's own changes neither the comparison nor its key."""
    config = settings(tmp_path)
    other = replace(config, objective=Objective(beta=2.0))
    assert compare.member(config, "vae") == compare.member(other, "vae")


@pytest.mark.parametrize("label", ["town", "smoker"])
def test_a_label_must_be_there_and_unseen(tmp_path: Path, label: str) -> None:
    """A label that is no column, or one that the codes have seen, is refused, naming the setting."""
    with pytest.raises(ConfigError, match=f"compare.label = '{label}': not a passthrough column"):
        settings(tmp_path, label=label)


def test_the_command_prints_the_table(compared: tuple[RunConfig, Compared]) -> None:
    """The verb's lines are table.md and where it lies; with --json, numbers are numbers and what is missing is null."""
    config, record = compared
    answer, printed = cli._compare(config, argparse.Namespace())
    assert printed[:-2] == Path(record.table).read_text().splitlines()
    plain = json.loads(json.dumps(answer))
    assert plain["standings"][0]["elbo"] is None
    assert isinstance(plain["standings"][0]["nll"], float)
