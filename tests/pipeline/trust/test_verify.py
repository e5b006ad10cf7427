"""verify, on snapshots that ingest, encode and reduce wrote: sound ones pass, and every lie is found by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from workspaces import Change, Workspace, restated, rewritten

from pipeline import cli, latents
from pipeline.errors import DataError
from pipeline.snapshots import MANIFEST, Snapshot
from pipeline.trust.again import Again
from pipeline.trust.verify import verify

FIRST = "part-00000-000.parquet"


def found(snapshot: Path, **options: Any) -> list[str]:
    """The violations, by file."""
    return [f"{it.where}: {it.what}" for it in verify(snapshot, **options).violations]


@pytest.mark.parametrize("kind", ["dataset", "latents", "reduced"])
def test_what_was_published_is_sound(made: Workspace, kind: str) -> None:
    """Every kind, in full: nothing amiss, nothing left out."""
    verdict = verify(getattr(made, kind), again=Again(rows=100))
    assert [it for it in verdict.checks if it.outcome != "ok"] == []
    assert ("sample" in [it.name for it in verdict.checks]) == (kind == "latents")


def test_a_folder_of_snapshots_means_the_newest(made: Workspace, tmp_path: Path) -> None:
    """And where none is, that is an error."""
    assert verify(made.latents.parent, quick=True).snapshot == str(made.latents)
    with pytest.raises(DataError, match="no snapshot here"):
        verify(tmp_path)


def test_all_rows_computed_anew_are_the_same_to_the_bit(made: Workspace) -> None:
    """A sample of as many rows as there are is all of them."""
    (line,) = [it.detail for it in verify(made.latents, again=Again(rows=299)).checks if it.name == "sample"]
    assert line.startswith("299 rows computed anew by small/1")
    assert line.endswith("equal to the bit on this CPU")


LIES: list[tuple[str, Change, str]] = [
    ("latents", lambda it: it.update(rows=300), "300 rows stated, 299 in its files"),
    ("latents", lambda it: it.update(rows_in=300), "300 rows in are not 299 kept + 0 set aside"),
    ("latents", lambda it: it.update(quarantined=1), "1 rows stated as set aside, 0 in its quarantine"),
    ("latents", lambda it: it.update(version=2), "says it is version 2"),
    ("latents", lambda it: it.update(contract=99), "contract 99; this program knows latents contract 1"),
    ("latents", lambda it: it.update(kind="codes"), "contract 1; this program knows no 'codes'"),
    ("latents", lambda it: it.pop("model"), "model is not an object"),
    ("latents", lambda it: it.update(rows="299"), "rows is not of type int"),
    ("latents", lambda it: it.update(latent=4), "column 'mu' is"),
    ("latents", lambda it: it["model"].update(digest="0" * 64), "its metadata says model_digest"),
    ("latents", lambda it: it["passthrough"].update(note="int8"), "column 'note' is string, not int8"),
    ("latents", lambda it: it["files"][0].update(path="../x.parquet"), "leads out of the snapshot"),
    ("latents", lambda it: it["files"].append(it["files"][0]), "listed twice"),
    ("latents", lambda it: it["files"][0].update(sha256="0" * 64), "its bytes changed"),
    ("latents", lambda it: it["files"][0].update(bytes=1), "1 listed"),
    ("latents", lambda it: it["files"][0].update(rows=127), "128 rows, 127 listed"),
    ("latents", lambda it: it["files"][0].update(id_min=999), "listed as 999"),
    ("dataset", lambda it: it["columns"]["height"].update(nulls=0), "column 'height': nulls is stated as 0"),
    ("dataset", lambda it: it["columns"]["height"].update(mean=170.0), "column 'height': mean"),
    ("dataset", lambda it: it["columns"]["city"]["values"].pop(), "column 'city': values"),
    ("dataset", lambda it: it["schema"].update(height="float"), "its columns are"),
    ("dataset", lambda it: it.update(content="0" * 64), "`content` is not the digest"),
    ("dataset", lambda it: it["units"].clear(), "in 0 units, not in one"),
    ("dataset", lambda it: it["units"][0]["taken"].update(rows=298), "298 rows stated, 299 in its files"),
    ("dataset", lambda it: it["inputs"][0].update(sha256="0" * 64), "a piece of the source is not in exactly one"),
    ("reduced", lambda it: it["files"].pop(), "not a file of this snapshot"),
]


@pytest.mark.parametrize(("kind", "change", "told"), LIES, ids=[told for _, _, told in LIES])
def test_a_manifest_that_lies_is_found(made: Workspace, tmp_path: Path, kind: str, change: Change, told: str) -> None:
    """Though it is well sealed: what can be counted is counted again."""
    snapshot: Path = getattr(made.copied(tmp_path), kind)
    restated(snapshot, change)
    assert any(told in it for it in found(snapshot)), found(snapshot)


def with_units(latents: Path, dataset: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """State a unit for each file of the dataset, then change them."""
    read = {it["path"]: it for it in Snapshot(dataset).manifest["files"]}
    written = Snapshot(latents).manifest["files"]
    units = [
        {
            "number": number,
            "identity": str(number),
            "files": [it["path"]],
            "quarantine": [],
            "rows": it["rows"],
            "quarantined": 0,
            "input": {"file": it["path"], "sha256": read[it["path"]]["sha256"], "row_groups": None, "rows": it["rows"]},
        }
        for number, it in enumerate(written)
    ]
    change(units)
    restated(latents, lambda it: it.update(units=units))


UNITS: list[tuple[Callable[[list[dict[str, Any]]], Any], str]] = [
    (lambda it: it.pop(), "in 0 units, not in one"),
    (lambda it: it.append(it[0]), "in 2 units, not in one"),
    (lambda it: it[0]["files"].append("other.parquet"), "a unit's file that the manifest does not list"),
    (lambda it: it[0].update(rows=1), "1 rows stated, 128 in its files"),
    (lambda it: it[0]["input"].update(rows=1), "unit 0: 1 rows in are not those kept and set aside"),
    (lambda it: it[0]["input"].update(sha256="0" * 64), "unit 0 is of a file that the dataset has not"),
    (lambda it: it[0]["input"].update(row_groups=[0, 2]), "its row groups are not each in exactly one unit"),
    (lambda it: it[0].update(input=it[1]["input"]), "its row groups are not each in exactly one unit"),
]


@pytest.mark.parametrize(("change", "told"), UNITS, ids=[f"{at}-{told}" for at, (_, told) in enumerate(UNITS)])
def test_units_that_do_not_add_up_are_found(made: Workspace, tmp_path: Path, change: Any, told: str) -> None:
    """Against the files that are there, and the dataset's own."""
    here = made.copied(tmp_path)
    with_units(here.latents, here.dataset, lambda it: None)
    assert found(here.latents) == []
    with_units(here.latents, here.dataset, change)
    assert any(told in it for it in found(here.latents)), found(here.latents)


def altered(column: str, row: int, change: Callable[[Any], Any]) -> Callable[[pa.Table], pa.Table]:
    """One cell of a column."""

    def alter(table: pa.Table) -> pa.Table:
        cells = table.column(column).to_pylist()
        cells[row] = change(cells[row])
        at = table.schema.get_field_index(column)
        return table.set_column(at, table.schema.field(at), pa.array(cells, table.schema.field(at).type))

    return alter


def next_up(vector: list[float]) -> list[float]:
    """The last number by one bit."""
    return [*vector[:-1], float(np.nextafter(np.float32(vector[-1]), np.float32(np.inf)))]


WRONG: list[tuple[str, Callable[[pa.Table], pa.Table], str]] = [
    ("latents", altered("mu", 5, lambda it: [float("nan"), *it[1:]]), "'mu' of id = 1005 is not finite"),
    ("latents", altered("logvar", 5, lambda it: [float("inf"), *it[1:]]), "'logvar' of id = 1005 is not finite"),
    ("latents", altered("id", 5, lambda it: 1004), "1 ids come more than once: 1004"),
    ("latents", altered("id", 0, lambda it: 999), "its ids are not those of its input"),
    ("latents", lambda it: it.take([1, 0, *range(2, len(it))]), "not sorted by id"),
    ("latents", lambda it: it.slice(1), "298 ids kept or set aside, 299 in its input"),
    ("latents", lambda it: it.drop_columns("mu"), "column 'mu' is missing"),
    ("latents", altered("mu", 5, next_up), "id = 1005: mu is"),
    ("latents", altered("logvar", 5, next_up), "id = 1005: logvar is"),
    ("latents", altered("note", 5, lambda it: "other"), "id = 1005: note is other, and should be note 5"),
    ("latents", altered("recon", 5, lambda it: {**it, "height": 1.0}), "id = 1005: recon.height is 1.0, and should be"),
    ("latents", lambda it: it.drop_columns("elbo"), f"its columns are not those of {FIRST}: elbo: float not null"),
    ("latents", altered("elbo", 5, lambda it: it + 1), "id = 1005: elbo is"),
    ("latents", altered("elbo_percentile", 5, lambda it: 101.0), "id = 1005: elbo_percentile is 101.0, and should be"),
    ("latents", altered("worst", 5, lambda it: it[1:]), "id = 1005: worst is"),
    ("latents", altered("z", 5, lambda it: [next_up(it[0]), *it[1:]]), "id = 1005: z is"),
    ("latents", altered("nll", 5, lambda it: it - 1), "id = 1005: nll is"),
    ("dataset", altered("height", 5, lambda it: float("inf")), "'height' of id = 1005 is not finite"),
    ("dataset", altered("height", 5, lambda it: 0.5), "column 'height': min is stated as 150.0, and is 0.5"),
    ("dataset", altered("id", 5, lambda it: 1004), "1 ids come more than once: 1004"),
    ("reduced", altered("coords", 5, lambda it: [float("nan"), 0.0]), "'coords' of id = 1005 is not finite"),
]


@pytest.mark.parametrize(("kind", "change", "told"), WRONG, ids=[told for _, _, told in WRONG])
def test_rows_that_are_wrong_are_found(
    made: Workspace, tmp_path: Path, kind: str, change: Callable[[pa.Table], pa.Table], told: str
) -> None:
    """Though file and manifest agree in digest, bytes and rows: as a writer with a bug would leave them."""
    snapshot: Path = getattr(made.copied(tmp_path), kind)
    rewritten(snapshot, FIRST, change)
    assert any(told in it for it in found(snapshot, again=Again(rows=299))), found(snapshot)


def test_evidence_that_was_asked_for_and_is_in_no_file_is_missed(made: Workspace, tmp_path: Path) -> None:
    """All files alike, and all without it."""
    snapshot = made.copied(tmp_path).latents
    for path in Snapshot(snapshot).files:
        rewritten(snapshot, path.name, lambda it: it.drop_columns(["recon", "worst"]))
    told = found(snapshot, again=Again(rows=9))
    assert told == [f"{FIRST}: column '{it}' is missing, and was asked for" for it in ("recon", "worst")]


def test_what_is_secret_is_not_told(made: Workspace, tmp_path: Path) -> None:
    """Not in a column of its own, not as a reconstruction."""
    here = made.copied(tmp_path)
    restated(here.dataset, lambda it: [it["rules"]["columns"][name].update(secret=True) for name in ("height", "note")])
    restated(here.latents, lambda it: it["input"].update(digest=Snapshot(here.dataset).digest))
    for column, change in (("recon", lambda it: {**it, "height": 1.0}), ("note", lambda it: "other")):
        rewritten(here.latents, FIRST, altered(column, 5, change))
    told = [it.split(": ", 2)[2] for it in found(here.latents, again=Again(rows=299))]
    assert told == ["recon.height is ***, and should be ***", "note is ***, and should be ***"]


def test_a_manifest_whose_seal_is_broken_is_not_believed(made: Workspace, tmp_path: Path) -> None:
    """A blank more, a digit less, no seal: each is named, and nothing else is looked at."""
    snapshot = made.copied(tmp_path).latents
    whole = (snapshot / MANIFEST).read_bytes()
    spoiled = {
        "its bytes are not those": whole.replace(b"{", b"{ ", 1),
        "its facts are not those": whole.replace(b'"rows": 299', b'"rows": 298'),
        "it has no seal": json.dumps({"rows": 1}).encode(),
        "not readable as JSON": whole[:-1],
    }
    for told, content in spoiled.items():
        (snapshot / MANIFEST).write_bytes(content)
        (violation,) = found(snapshot)
        assert violation.startswith(f"{MANIFEST}: altered: {told}")


def test_files_missing_short_and_extra(made: Workspace, tmp_path: Path) -> None:
    """By their names, in one go; --quick sees them, too."""
    snapshot = made.copied(tmp_path).latents
    one, two, three = Snapshot(snapshot).files
    one.unlink()
    two.write_bytes(two.read_bytes()[:-1])
    (snapshot / "part-9.parquet").write_bytes(three.read_bytes())
    for quick in (False, True):
        told = found(snapshot, quick=quick)
        assert [it.split(":")[0] for it in told] == ["part-9.parquet", one.name, two.name]


def test_quick_reads_no_page(made: Workspace, tmp_path: Path) -> None:
    """A flipped bit in a page is beyond it; in full it is found by the digest."""
    snapshot = made.copied(tmp_path).latents
    path = snapshot / FIRST
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    assert found(snapshot, quick=True) == []
    assert found(snapshot)[0].startswith(f"{FIRST}: its bytes changed")


def test_what_cannot_be_looked_at_is_said(made: Workspace, tmp_path: Path) -> None:
    """Without the model no sample, without the dataset no ids: not a violation, and not passed over in silence."""
    here = made.copied(tmp_path / "a")
    restated(here.latents, lambda it: it["model"].update(name="gone"))
    alone = tmp_path / "b" / "v000001"
    alone.parent.mkdir()
    made.copied(tmp_path / "c").latents.rename(alone)
    restated(alone, lambda it: it["input"].update(snapshot=str(tmp_path / "nowhere" / "v000001")))
    skipped = [it.name for it in verify(alone, again=Again(rows=9)).checks if it.outcome == "--"]
    assert skipped == ["input", "sample"]


def elsewhere(facts: dict[str, Any]) -> None:
    """As if a GPU had made them all."""
    for it in (facts, *facts["units"]):
        it["computed"]["device"] = "cuda"


def test_another_processor_is_given_a_tolerance(made: Workspace, tmp_path: Path) -> None:
    """Codes made elsewhere are compared within 1e-4: one bit is none, a hundredth is one."""
    for number, (change, violations) in enumerate([(next_up, 0), (lambda it: [it[0] + 0.01, *it[1:]], 1)]):
        snapshot = made.copied(tmp_path / str(number)).latents
        restated(snapshot, elsewhere)
        rewritten(snapshot, FIRST, altered("mu", 5, change))
        assert len(found(snapshot, again=Again(rows=299))) == violations


@pytest.mark.parametrize("spoil", [False, True])
def test_the_command_exits_with_3(
    made: Workspace, tmp_path: Path, spoil: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 and every check on a line; or 3 and the file, what is wrong with it and the cure. The same as JSON."""
    snapshot = made.copied(tmp_path).latents
    if spoil:
        (snapshot / FIRST).unlink()
    code = 3 if spoil else 0
    for options in ([], ["--json"]):
        with pytest.raises(SystemExit, match=str(code)):
            cli.main(["verify", str(snapshot), "--quick", *options])
    *lines, answer = capsys.readouterr().out.splitlines()
    assert json.loads(answer)["ok"] == (not spoil)
    assert [it["what"] for it in json.loads(answer)["violations"]] == ["missing"] * spoil
    assert (f"FAIL  {FIRST}: missing" in lines) == spoil
    assert any(line.startswith("ok    manifest") for line in lines)


def test_latents_of_today_are_contract_1(made: Workspace) -> None:
    """What the golden files are of."""
    assert Snapshot(made.latents).manifest["contract"] == latents.CONTRACT == 1
