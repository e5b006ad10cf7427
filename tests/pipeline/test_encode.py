"""encode: every row once, the same code every time, only what changed, all of it or nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from harness import ROOT, small_settings
from workspaces import restated, rewritten, untrained

from pipeline import encode, ingest, keys, latents, reduce, reference, report, runfile, sample, storage
from pipeline.config import EVIDENCE, RunConfig, Storage
from pipeline.encoding import account, units
from pipeline.encoding.worker import Encoder
from pipeline.errors import DataError
from pipeline.records import Registered
from pipeline.snapshots import Snapshot
from pipeline.spread import Stopped
from pipeline.stores.remote import Remote
from pipeline.trust.again import Again
from pipeline.trust.verify import verify
from vae import checkpoint

EVERYTHING = {"draws": 2, "importance_samples": 3, "errors": True, "imputed": 2}


def model_of(settings: RunConfig, folder: Path) -> Registered:
    """A model with fitted preprocessing and untrained weights, as if it had been registered."""
    digest = untrained(settings, ingest.latest(settings), folder)
    facts = {"name": "small", "version": 1, "mlflow_run": "-", "training_key": "-", "champion": True, "new": True}
    return Registered(model=str(folder), digest=digest, **facts)


def encoded(settings: RunConfig, registered: Registered) -> pa.Table:
    """The latents of the newest dataset, by id."""
    found = encode.encode(settings, registered, ingest.latest(settings))
    return latents.read(found.snapshot).to_table().sort_by("id")


@pytest.mark.parametrize(
    ("changes", "threads"),
    [
        ({"encode": {"num_workers": 2}, "data": {"part_rows": 37}}, 1),
        ({"encode": {"num_workers": 3}, "data": {"part_rows": 37}}, 2),
        ({"data": {"part_rows": 299}}, 2),
    ],
)
def test_a_row_has_one_code_whatever_the_workers_and_files(
    tmp_path: Path, one_file: pa.Table, changes: dict[str, Any], threads: int
) -> None:
    """Same row, same model: the same latent to the bit for one worker or three, one file or nine, one thread or two."""
    everything = {**changes, "encode": {**changes.get("encode", {}), **EVERYTHING}}
    settings = runfile.parse(small_settings(tmp_path, **everything))
    ingest.ingest(settings)
    with torch_threads(threads):
        assert encoded(settings, model_of(settings, tmp_path / "model")).equals(one_file)


@pytest.mark.usefixtures("ray_up")
def test_actors_make_what_threads_make(tmp_path: Path, one_file: pa.Table) -> None:
    """By Ray Data actors, which have units of several files to do: the same latents to the bit."""
    changes = {"encode": {"local_mb": 0, **EVERYTHING}, "data": {"part_rows": 37}}
    settings = runfile.parse(small_settings(tmp_path, **changes))
    ingest.ingest(settings)
    assert encoded(settings, model_of(settings, tmp_path / "model")).equals(one_file)


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The latents of the small table, encoded by one worker from one file."""
    folder = tmp_path_factory.mktemp("one_file")
    changes = {"encode": {"num_workers": 1, **EVERYTHING}, "data": {"part_rows": 1000}}
    settings = runfile.parse(small_settings(folder, **changes))
    ingest.ingest(settings)
    table = encoded(settings, model_of(settings, folder / "model"))
    assert table.num_rows == 300
    assert set(EVIDENCE) < set(table.schema.names)
    return table


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """torch computes by so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_a_second_encode_is_a_no_op_and_a_new_model_is_a_new_snapshot(tmp_path: Path) -> None:
    """The key is (dataset, model, output); the older snapshot stays as it was."""
    settings = runfile.parse(small_settings(tmp_path))
    ingested = ingest.ingest(settings)
    registered = model_of(settings, tmp_path / "model")
    first = encode.encode(settings, registered, ingested)
    again = encode.encode(settings, registered, ingested)
    assert (first.new, again.new, again.digest) == (True, False, first.digest)
    bare = replace(settings, encode=replace(settings.encode, reconstruct=False))
    second = encode.encode(bare, registered, ingested)
    assert second.snapshot.endswith("v000002")
    assert "recon" not in latents.read(second.snapshot).schema.names
    assert Snapshot(Path(first.snapshot)).digest == first.digest


def test_a_failing_worker_publishes_nothing(tmp_path: Path) -> None:
    """A file of the dataset is damaged: an error with its name, no snapshot, no leftovers."""
    settings = runfile.parse(small_settings(tmp_path))
    ingested = ingest.ingest(settings)
    registered = model_of(settings, tmp_path / "model")
    damaged = Path(ingested.snapshot) / "part-00000-001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"part-00000-001\.parquet"):
        encode.encode(settings, registered, ingested)
    assert not list((settings.root / "latents").rglob("*.parquet"))


def test_a_model_without_a_reference_encodes_nothing(tmp_path: Path) -> None:
    """Found by the driver, before any actor is asked for; without percentiles and worst columns it encodes."""
    settings = runfile.parse(small_settings(tmp_path))
    ingested = ingest.ingest(settings)
    registered = model_of(settings, tmp_path / "model")
    for name in (reference.FACTS, reference.NUMBERS):
        (tmp_path / "model" / name).unlink()
    registered = replace(registered, digest=checkpoint.seal(tmp_path / "model"))
    with pytest.raises(DataError, match="trained before models had a reference"):
        encode.encode(settings, registered, ingested)
    bare = replace(settings, encode=replace(settings.encode, percentile=False, worst=False))
    assert encode.encode(bare, registered, ingested).rows == 300


def test_a_tampered_model_encodes_nothing(tmp_path: Path) -> None:
    """A worker verifies the model's checksums before it uses it."""
    settings = runfile.parse(small_settings(tmp_path))
    ingested = ingest.ingest(settings)
    registered = model_of(settings, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DataError, match="altered since it was saved"):
        encode.encode(settings, registered, ingested)


def folder_of_csv(folder: Path, *, files: int = 3, rows: int = 50) -> dict[str, Any]:
    """A run over a folder of small files, each of which becomes a file of the dataset."""
    source = folder / "source"
    source.mkdir(parents=True)
    for number in range(files):
        csv_file(source / f"{number}.csv", first=1000 * number, rows=rows)
    settings = small_settings(folder)
    return {**settings, "data": {"uri": str(source), "part_rows": rows}, "ingest": {"num_workers": 1}}


def csv_file(path: Path, *, first: int, rows: int, height: str = "170") -> None:
    """Rows of the small table, their ids falling, so that files are not sorted."""
    cities = ("Rome", "Oslo", "Lima")
    lines = [f"{first + rows - i},{height if i == 3 else 150 + i},true,{cities[i % 3]},note {i}" for i in range(rows)]
    path.write_text("id,height,smoker,city,note\n" + "\n".join(lines) + "\n")


def units_of(snapshot: str) -> dict[str, str]:
    """sha256 of each unit's file of latents, by that of the dataset's file."""
    manifest = Snapshot(Path(snapshot)).manifest
    digests = {part["path"]: part["sha256"] for part in manifest["files"]}
    return {it["input"]["sha256"]: digests[it["files"][0]] for it in manifest["units"]}


def inode(snapshot: str) -> set[int]:
    """Of the files: carried over, a file stays the same one."""
    return {path.stat().st_ino for path in Snapshot(Path(snapshot)).files}


def test_only_what_changed_is_encoded(tmp_path: Path) -> None:
    """One file of three changes, one vanishes, one comes: units are carried over, made and retired, and said to be."""
    settings = runfile.parse(folder_of_csv(tmp_path) | {"data": {"uri": str(tmp_path / "source"), "unit_mb": 1}})
    settings = replace(settings, data=replace(settings.data, part_rows=50))
    first_data = ingest.ingest(settings)
    registered = model_of(settings, tmp_path / "model")
    encode.encode(settings, registered, first_data)
    source = tmp_path / "source"
    csv_file(source / "1.csv", first=1000, rows=50, height="199")
    (source / "2.csv").unlink()
    csv_file(source / "3.csv", first=3000, rows=40)
    second = encode.encode(settings, registered, ingest.ingest(settings))
    scratch = replace(settings, workspace=str(tmp_path / "scratch"))
    anew = encode.encode(scratch, registered, ingest.ingest(scratch))
    assert second.rows == latents.read(second.snapshot).count_rows() == anew.rows
    tables = [latents.read(it.snapshot).to_table().sort_by("id") for it in (second, anew)]
    assert tables[0].equals(tables[1])
    for path in Snapshot(Path(second.snapshot)).files:
        ids = pq.read_table(path).column("id").to_pylist()
        assert ids == sorted(ids)


def test_what_is_told_to_stop_encodes_no_batch_more(tmp_path: Path) -> None:
    """Not between row groups, not amid evidence; what it has written so far is no part of anything."""
    settings = runfile.parse(small_settings(tmp_path, encode=EVERYTHING))
    ingested, registered = ingest.ingest(settings), model_of(settings, tmp_path / "model")
    (unit, *_) = units.cut(Snapshot(Path(ingested.snapshot)), {}, unit_bytes=1 << 20)
    with storage.attempt(encode.root(settings), "key") as directory:
        encoder = Encoder(encode._output(settings, registered, directory, rows=unit.rows))
        assert encoder.encode(unit).rows == unit.rows
        encoder.stop()
        with pytest.raises(Stopped):
            encoder.encode(unit)
        table = pa.table(pq.read_table(unit.source.path))
        with pytest.raises(Stopped):
            encoder.evidence.columns(table, table.column("id"), *_numbers(encoder, table))


def _numbers(encoder: Encoder, table: pa.Table) -> Any:
    values, observed = encoder.codec.features.transform(table)
    return values, observed, encoder.codec.infer(values, observed)


def test_what_was_carried_over_says_what_computed_it(tmp_path: Path) -> None:
    """Units made on a GPU, one of which is made anew here: each is verified by what it was made by."""
    settings = runfile.parse(folder_of_csv(tmp_path))
    settings = replace(settings, data=replace(settings.data, part_rows=50, unit_mb=1))
    ingested = ingest.ingest(settings)
    registered = model_of(settings, tmp_path / "model")
    registered = replace(registered, model=str(shutil.copytree(registered.model, placed(settings, registered))))
    first = Path(encode.encode(settings, registered, ingested).snapshot)

    def elsewhere(facts: dict[str, Any]) -> None:
        for it in (facts, *facts["units"]):
            it["computed"]["device"] = "cuda"

    for path in Snapshot(first).files:
        rewritten(first, path.name, lambda it: nudged(it, 1e-7))
    restated(first, elsewhere)
    csv_file(tmp_path / "source" / "1.csv", first=1000, rows=50, height="199")
    second = Snapshot(Path(encode.encode(settings, registered, ingest.ingest(settings)).snapshot))
    assert sorted(it["computed"]["device"] for it in second.manifest["units"]) == ["cpu", "cuda", "cuda"]
    assert "computed" not in second.manifest
    verdict = verify(second.directory, again=Again(rows=150))
    assert verdict.violations == []
    (line,) = [it.detail for it in verdict.checks if it.name == "sample"]
    assert ": 50 equal to the bit on this CPU; of 100, made elsewhere (cpu " in line
    assert line.endswith("the codes within 0.0001, reconstruction and evidence not compared")


def placed(settings: RunConfig, registered: Registered) -> Path:
    """Where the workspace keeps this model."""
    return settings.root / "models" / registered.digest[:16]


def nudged(table: pa.Table, by: float) -> pa.Table:
    """Codes as another processor may compute them."""
    at, mu = table.schema.get_field_index("mu"), table.column("mu").combine_chunks()
    other = pa.FixedSizeListArray.from_arrays(pc.add(mu.flatten(), pa.scalar(by, pa.float32())), type=mu.type)
    return table.set_column(at, table.schema.field("mu"), other)


def test_a_new_model_or_output_encodes_all_anew(tmp_path: Path) -> None:
    """The account says how many units are new and why; unchanged ones are the same files."""
    settings = runfile.parse(small_settings(tmp_path, data={"part_rows": 100}))
    ingested = ingest.ingest(settings)
    registered = model_of(settings, tmp_path / "model")
    first = encode.encode(settings, registered, ingested)

    def change(config: RunConfig, version: int) -> str:
        output = keys.output(config, model=f"small/{version}", model_digest=registered.digest)
        wanted = units.cut(Snapshot(Path(ingested.snapshot)), output, unit_bytes=1 << 20)
        return str(account.change(wanted, output, encode.root(config)))

    bare = replace(settings, encode=replace(settings.encode, reconstruct=False))
    assert change(settings, 1) == "0 units new; 3 carried over; 0 retired"
    assert change(settings, 2) == "3 units new: model changed (3); 0 carried over; 3 retired"
    assert change(bare, 1) == "3 units new: output changed (3); 0 carried over; 3 retired"
    second = encode.encode(settings, replace(registered, version=2), ingested)
    assert latents.read(second.snapshot).to_table(columns=["model_version"])["model_version"][0].as_py() == "small/2"
    assert not inode(first.snapshot) & inode(second.snapshot)


def test_a_files_metadata_is_what_latents_md_says(tmp_path: Path) -> None:
    """Each key by its name, and no other of ours."""
    settings = runfile.parse(small_settings(tmp_path))
    ingested, registered = ingest.ingest(settings), model_of(settings, tmp_path / "model")
    (path, *_) = Snapshot(Path(encode.encode(settings, registered, ingested).snapshot)).files
    said = (ROOT / "LATENTS.md").read_text().split("Key-value metadata")[1].split("\n\n")[0]
    keys_said = {f"latentpipe.{it}" for it in re.findall(r"`(?:latentpipe)?\.(\w+)`", said)}
    found = {it.decode() for it in pq.read_schema(path).metadata}
    assert {it for it in found if it.startswith("latentpipe.")} == keys_said


def test_an_unchanged_unit_is_the_same_file(tmp_path: Path) -> None:
    """Carried over by hard link, under the name that its input has now."""
    settings = runfile.parse(folder_of_csv(tmp_path))
    settings = replace(settings, ingest=replace(settings.ingest, num_workers=1), data=replace(settings.data, unit_mb=1))
    ingest.ingest(settings)
    registered = model_of(settings, tmp_path / "model")
    first = encode.encode(settings, registered, ingest.latest(settings))
    limited = replace(settings, encode=replace(settings.encode, reconstruct=False))
    encode.encode(limited, registered, ingest.latest(settings))
    manifest = Snapshot(Path(first.snapshot)).manifest
    damaged = Path(first.snapshot) / "_manifest.json"
    damaged.write_text(json.dumps({**manifest, "run_key": "another"}))
    again = encode.encode(settings, registered, ingest.latest(settings))
    assert inode(again.snapshot) == inode(first.snapshot)
    assert units_of(again.snapshot) == units_of(first.snapshot)


def overflowing(settings: RunConfig, folder: Path) -> Registered:
    """A model that takes infinity from infinity where a row lies more than ten deviations out, and 0 elsewhere."""
    registered = model_of(settings, folder)
    model = checkpoint.load(folder)
    first = model.encoder.body[0]
    with torch.no_grad():
        first.weight[:2] = 3e37
        model.mean.weight[:, 0], model.mean.weight[:, 1] = 1.0, -1.0
    checkpoint.save(model, folder)
    return replace(registered, digest=checkpoint.seal(folder))


def test_rows_without_a_finite_code_are_set_aside(tmp_path: Path) -> None:
    """Id and reason lie in the quarantine, every other row is there; beyond the limit nothing is published."""
    settings = runfile.parse(small_settings(tmp_path, data={"part_rows": 100}))
    source = Path(settings.data.uri)
    lines = source.read_text().splitlines()
    cells = lines[152].split(",")
    source.write_text("\n".join([*lines[:152], ",".join([cells[0], "1000000", *cells[2:]]), *lines[153:]]) + "\n")
    ingested = ingest.ingest(settings)
    registered = overflowing(settings, tmp_path / "model")
    strict = replace(settings, data=replace(settings.data, quarantine_limit=0.001))
    with pytest.raises(DataError, match=r"codes of 1 of 300 rows are not finite \(0.3%\), first in part-00000-001"):
        encode.encode(strict, registered, ingested)
    assert not list(encode.root(settings).rglob("*.parquet"))
    found = encode.encode(settings, registered, ingested)
    snapshot = Snapshot(Path(found.snapshot))
    [aside] = snapshot.manifest["quarantine"]
    rows = pq.read_table(snapshot.directory / aside["path"]).to_pylist()
    assert rows == [{"id": cells[0], "reason": "its code is not finite"}]
    assert (found.rows, found.quarantined) == (299, 1)
    assert [(it["rows"], it["quarantined"], len(it["quarantine"])) for it in snapshot.manifest["units"]] == [
        (100, 0, 0),
        (99, 1, 1),
        (100, 0, 0),
    ]
    ids = latents.read(found.snapshot).to_table().column("id").to_pylist()
    assert sorted([*ids, int(cells[0])]) == list(range(1000, 1300))


def test_a_dataset_that_changed_is_refused(tmp_path: Path) -> None:
    """A byte flipped, another length, another file of the same length while the work goes on: exit 3, by name."""
    settings = runfile.parse(small_settings(tmp_path))
    ingested = ingest.ingest(settings)
    registered = model_of(settings, tmp_path / "model")
    path = Snapshot(Path(ingested.snapshot)).files[0]
    content = path.read_bytes()
    path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    with pytest.raises(DataError, match=r"part-00000-000\.parquet: changed since it was ingested: its sha256 differs"):
        encode.encode(settings, registered, ingested)
    path.write_bytes(content + b" ")
    with pytest.raises(DataError, match=r"part-00000-000\.parquet: changed since it was ingested"):
        encode.encode(settings, registered, ingested)
    path.write_bytes(content)
    [unit, *_] = units.cut(Snapshot(Path(ingested.snapshot)), {}, unit_bytes=1 << 20)
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match=r"part-00000-000\.parquet: changed since the work was planned"):
        unit.source.check()


def test_a_large_file_is_cut_between_row_groups(tmp_path: Path) -> None:
    """Units cover each row group once, about evenly, and their names sort as their rows do; a file alone is whole."""
    for sizes, unit_bytes in [([10] * 8, 20), ([10] * 8, 33), ([100, 1, 1, 1], 2), ([5], 1), ([3, 3, 3], 1000)]:
        spans = list(units._spans([(1, size) for size in sizes], unit_bytes))
        assert [index for first, end in spans for index in range(first, end)] == list(range(len(sizes)))
    assert list(units._spans([(1, 10)] * 8, 20)) == [(0, 2), (2, 4), (4, 6), (6, 8)]


def test_loads_are_biggest_first_and_small_ones_together() -> None:
    """Every unit in one load; none is joined to a big one; workers have several loads to choose from."""

    class Sized:
        def __init__(self, size: int) -> None:
            self.bytes = size

    sizes = [1] * 100 + [500, 400]
    found = units.loads([Sized(it) for it in sizes], workers=2, unit_bytes=64)  # type: ignore[misc]
    assert sorted(index for load in found for index in load) == list(range(102))
    assert found[:2] == [[100], [101]]
    assert all(sum(sizes[index] for index in load) <= 64 for load in found[2:])


def test_a_bucket_holds_what_a_folder_holds(tmp_path: Path, home: Remote) -> None:
    """encode, reduce, sample and the report's plots; the same rows, and the second time nothing to do."""
    far = runfile.parse(small_settings(tmp_path, storage={"uri": str(home)}, report={"colour_by": "note"}))
    near = replace(far, storage=Storage())
    dataset = ingest.ingest(far)
    registered = model_of(far, tmp_path / "model")
    ours, theirs = (encode.encode(it, registered, dataset) for it in (near, far))
    assert theirs.snapshot == f"{home}/latents/small/v000001"
    assert latents.read(theirs.snapshot).to_table().equals(latents.read(ours.snapshot).to_table())
    reduced = reduce.reduce(far, theirs)
    assert reduce.reduce(far, encode.latest(far)).new is encode.encode(far, registered, dataset).new is False
    assert len(report._scatter(far, theirs, reduced).axes[0].collections) >= 1
    drawn = sample.sample(far, registered, rows=5, seed=0)
    assert latents.open_file(*Snapshot.at(drawn.snapshot).files).count_rows() == 5


def test_where_nothing_changed_nothing_heavy_is_loaded() -> None:
    """A second run costs what Python and pyarrow cost: the module alone loads no torch, Ray, MLflow or pandas."""
    told = "import sys, pipeline.encode; print({'torch', 'ray', 'mlflow', 'pandas', 'pyarrow'} & {*sys.modules})"
    ended = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "{'pyarrow'}\n"
