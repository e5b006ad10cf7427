"""explain: every link of a row's chain, for ids of every type; and honest words where a link is gone."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import small_settings
from workspaces import Workspace, restated, rewritten, run

from pipeline import cli, ingest, runfile
from pipeline.errors import DataError
from pipeline.parts import plain_id
from pipeline.snapshots import Snapshot
from pipeline.trust.explain import explain, lines
from pipeline.trust.verify import verify


def test_a_row_of_latents_is_followed_to_its_source(made: Workspace) -> None:
    """Output file and row, model, preprocessing, dataset, and the very line of the table."""
    chain = explain(made.latents, "1150")
    assert (chain["latents"]["file"], chain["latents"]["row"]) == ("part-00000-001.parquet", 22)
    assert len(chain["latents"]["cells"]["mu"]) == 3
    assert (chain["model"]["name"], chain["model"]["mlflow_run"]) == ("small", "a run")
    assert chain["preprocessing"]["file"] == "features.json"
    assert (chain["dataset"]["file"], chain["dataset"]["row"]) == ("part-00000-001.parquet", 22)
    assert (chain["source"]["name"], chain["source"]["row"]) == ("small.csv", 150)
    line = (made.root / "small.csv").read_text().splitlines()[1 + chain["source"]["row"]]
    assert line.split(",") == list(chain["source"]["cells"].values())


def test_coordinates_have_the_longest_chain(made: Workspace) -> None:
    """Through the latents they were made from."""
    links = [it for it in explain(made.reduced, "1000") if it not in ("id", "snapshot", "unit")]
    assert links == ["reduced", "latents", "model", "preprocessing", "dataset", "source"]


def test_units_are_a_link(made: Workspace, tmp_path: Path) -> None:
    """Of latents whose manifest lists them: the one that wrote the row's file, and what it was made from."""
    here = made.copied(tmp_path)
    read = {"file": "part-00000-000.parquet", "sha256": "-", "row_groups": [0, 1], "rows": 128}
    unit = {"number": 7, "identity": "i", "input": read, "files": ["part-00000-000.parquet"], "quarantine": []}
    restated(here.latents, lambda it: it.update(units=[{**unit, "rows": 128, "quarantined": 0}]))
    assert explain(here.latents, "1000")["unit"] == {"number": 7, "identity": "i", "inputs": [read]}
    assert "unit" not in explain(here.latents, "1200")


def test_a_row_set_aside_has_its_reason(made: Workspace) -> None:
    """From the dataset's quarantine, asked for in the latents."""
    aside = explain(made.latents, "1299")["set aside"]
    assert (aside["file"], aside["row"], aside["column"], aside["rule"], aside["value"]) == (
        *("small.csv", 299, "height", "not float64", "abc"),
    )


def test_a_row_that_was_lost_is_said_to_be(made: Workspace, tmp_path: Path) -> None:
    """In the dataset, but neither in the latents nor set aside."""
    here = made.copied(tmp_path)
    restated(here.latents, lambda it: it["files"].pop())
    assert explain(here.latents, "1298")["latents"].startswith("not in ")


@pytest.mark.parametrize(
    ("asked", "told", "cure"),
    [
        ("1300", "the next is 1298", "ids are int64"),
        ("12", "the next is 1000", "ids are int64"),
        ("abc", "ids are int64", "give a whole number"),
    ],
)
def test_an_unknown_id_is_an_error_with_a_hint(made: Workspace, asked: str, told: str, cure: str) -> None:
    """The ids next to it, or what type ids are of."""
    with pytest.raises(DataError) as caught:
        explain(made.latents, asked)
    assert told in caught.value.what
    assert caught.value.cure == cure


def ingested(folder: Path, ids: pa.Array | None, *, kind: str = "", suffix: str = "parquet", **data: Any) -> Path:
    """A dataset of one file with these ids and a number each, in two row groups."""
    count = 6 if ids is None else len(ids)
    numbers = pa.array([it / 2 for it in range(count)])
    table = pa.table({"x": numbers} if ids is None else {"key": ids, "x": numbers})
    path = folder / f"table.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path, row_group_size=4)
    else:
        text = "".join(f"{json.dumps(it)}\n" for it in table.to_pylist()).encode()
        path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    columns: dict[str, Any] = {"x": {"type": "float64", "likelihood": "gaussian"}}
    if ids is not None:
        columns["key"] = {"type": kind, "role": "id"}
    settings = small_settings(folder)
    settings |= {"data": {"uri": str(path), "part_rows": 4, **data}, "columns": columns}
    return Path(ingest.ingest(runfile.parse(settings)).snapshot)


UUIDS = [uuid.UUID(int=it << 100) for it in (5, 3, 1, 9, 2, 4)]
TYPED = {
    "unsigned": ("uint64", pa.array([2**63 + it for it in range(6)], pa.uint64()), str(2**63 + 5)),
    "text": ("string", pa.array(["b", "a", "ö", "", "a b", "z"]), "z"),
    "text like numbers": ("string", pa.array([*"123450"]), "0"),
    "bytes": ("binary", pa.array([bytes([it, 255]) for it in (3, 1, 2, 0, 9, 7)]), "0x07ff"),
    "uuid": ("binary", pa.array([it.bytes for it in UUIDS], pa.binary(16)), str(UUIDS[5])),
}


@pytest.mark.parametrize(("kind", "ids", "asked"), TYPED.values(), ids=list(TYPED))
def test_ids_of_every_type(tmp_path: Path, kind: str, ids: pa.Array, asked: str) -> None:
    """The row is the sixth; in the dataset it is in the second file, in the source where it was."""
    snapshot = ingested(tmp_path, ids, kind=kind)
    assert verify(snapshot).violations == []
    chain = explain(snapshot, asked)
    assert chain["id"] == plain_id(ids[5].as_py())
    assert (chain["dataset"]["file"], chain["dataset"]["row"]) == ("part-00000-001.parquet", 1)
    assert (chain["source"]["row"], chain["source"]["cells"]["x"]) == (5, 2.5)


@pytest.mark.parametrize(("kind", "asked"), [("bytes", "7f"), ("uuid", str(uuid.UUID(int=6 << 100)))])
def test_the_nearest_bytes(tmp_path: Path, kind: str, asked: str) -> None:
    """By their digits, of which an odd number is none."""
    snapshot = ingested(tmp_path, TYPED[kind][1], kind="binary")
    with pytest.raises(DataError, match=r"the next (is|are) [0-9a-f]+"):
        explain(snapshot, asked)
    with pytest.raises(DataError, match="ids are binary"):
        explain(snapshot, "7")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "jsonl.gz"])
def test_a_table_without_ids_numbers_its_rows(tmp_path: Path, suffix: str) -> None:
    """The number is the id, and leads to the row."""
    chain = explain(ingested(tmp_path, None, suffix=suffix), "5")
    assert (chain["source"]["row"], float(chain["source"]["cells"]["x"])) == (5, 2.5)


def test_a_source_that_changed_or_went_is_said_so(tmp_path: Path) -> None:
    """With the files that the row's unit was taken from; never a row of another table."""
    snapshot = ingested(tmp_path, pa.array([*range(6)]), kind="int64")
    table = tmp_path / "table.parquet"
    taken = explain(snapshot, "5")["source"]["sha256"]
    pq.write_table(pa.table({"key": [5], "x": [9.0]}), table)
    told = explain(snapshot, "5")["source"]
    assert told["why"] == "table.parquet changed since it was taken in"
    assert [(it["name"], it["sha256"]) for it in told["files"]] == [("table.parquet", taken)]
    table.unlink()
    assert "no such file" in explain(snapshot, "5")["source"]["why"]


def test_secrets_stay_secret(tmp_path: Path) -> None:
    """Neither the dataset's cell nor the source's."""
    settings = small_settings(tmp_path, columns={"note": {"type": "string", "role": "passthrough", "secret": True}})
    snapshot = Path(ingest.ingest(runfile.parse(settings)).snapshot)
    chain = explain(snapshot, "1007")
    assert [chain[link]["cells"]["note"] for link in ("dataset", "source")] == ["***", "***"]
    assert "note 7" not in json.dumps(chain)


def test_secrets_of_the_dataset_are_secrets_of_its_latents(made: Workspace, tmp_path: Path) -> None:
    """Whose own manifest does not name them."""
    here = made.copied(tmp_path)
    restated(here.dataset, lambda it: it["rules"]["columns"]["note"].update(secret=True))
    restated(here.latents, lambda it: it["input"].update(digest=Snapshot(here.dataset).digest))
    assert explain(here.latents, "1007")["latents"]["cells"]["note"] == "***"


SECRETS = {
    "id": {"type": "int64", "role": "id", "secret": True},
    "city": {"type": "string", "likelihood": "categorical", "nullable": True, "secret": True},
    "note": {"type": "string", "role": "passthrough", "secret": True},
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A run whose id, passthrough column and one feature are secret."""
    evidence = {"errors": True, "imputed": 2}
    return run(tmp_path_factory.mktemp("secrets"), columns=SECRETS, encode=evidence)


def test_no_secret_is_in_a_chain(kept: Workspace, tmp_path: Path) -> None:
    """Neither a cell, nor what stands for a missing one, nor its error; not with the dataset, not without."""
    alone = kept.copied(tmp_path).latents
    restated(alone, lambda it: it["input"].update(snapshot="datasets/gone/v000001", digest="gone"))
    for snapshot in (kept.latents, kept.reduced, alone):
        told = json.dumps(explain(snapshot, "1003"))
        assert not [it for it in ("note 3", "Rome", "Oslo", "Lima", "probability") if it in told], told
    cells = explain(kept.latents, "1003")["latents"]["cells"]
    assert (cells["note"], "city" in cells["recon_error"]) == ("***", False)
    restated(alone, lambda it: it.pop("secret"))
    assert "note" not in explain(alone, "1003")["latents"]["cells"]


def test_no_secret_id_is_in_a_message(kept: Workspace, tmp_path: Path) -> None:
    """Of an unknown id not the next; of a lost row no more than is true; in no violation."""
    with pytest.raises(DataError, match=r"no row with id = 5\n") as caught:
        explain(kept.latents, "5")
    assert "1000" not in str(caught.value)
    here = kept.copied(tmp_path)
    rewritten(here.latents, "part-00000-000.parquet", lambda it: it.take([1, 0, 0, *range(2, len(it))]))
    told = [it.what for it in verify(here.latents).violations]
    assert any("ids come more than once: ***" in it for it in told), told
    assert not [it for it in told if "100" in it], told


def test_the_command_prints_a_line_for_each_link(made: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """For a person, and the same facts as JSON; an unknown id ends with 3."""
    for options in ([], ["--json"]):
        with pytest.raises(SystemExit, match="0"):
            cli.main(["explain", str(made.latents.parent), "1150", *options])
    *printed, answer = capsys.readouterr().out.splitlines()
    chain = explain(made.latents, "1150")
    assert printed == lines(chain)
    assert json.loads(answer) == {"ok": True, **chain}
    with pytest.raises(SystemExit, match="3"):
        cli.main(["explain", str(made.latents), "7"])
    assert "the next is 1000" in capsys.readouterr().err
