"""encode, on real Ray Data: every row once, the same code every time, all of it or nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from harness import small_settings

from pipeline import encode, ingest, latents, reduce, report, runfile, sample
from pipeline.config import RunConfig, Storage
from pipeline.errors import DataError
from pipeline.features import Features, fitting
from pipeline.records import Registered
from pipeline.snapshots import Snapshot
from pipeline.spread import threads
from pipeline.stores.remote import Remote
from vae import VAE, ModelConfig, checkpoint

pytestmark = pytest.mark.usefixtures("ray_up")


def model_of(settings: RunConfig, folder: Path) -> Registered:
    """A model with fitted preprocessing and untrained weights, as if it had been registered."""
    snapshot = Snapshot(Path(ingest.latest(settings).snapshot))
    rows = [batch for path in snapshot.files for batch in pq.read_table(path).to_batches()]
    fitted: Features = fitting.fit(rows, settings.role("feature"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        checkpoint.save(VAE(ModelConfig(columns=fitted.model_columns(), network=settings.model)), folder)
    fitted.save(folder)
    digest = checkpoint.seal(folder)
    facts = {"name": "small", "version": 1, "mlflow_run": "-", "training_key": "-", "champion": True, "new": True}
    return Registered(model=str(folder), digest=digest, **facts)


def encoded(settings: RunConfig, registered: Registered) -> pa.Table:
    """The latents of the newest dataset, by id."""
    found = encode.encode(settings, registered, ingest.latest(settings))
    return latents.read(found.snapshot).to_table().sort_by("id")


def test_a_row_has_one_code_whatever_the_workers_and_files(tmp_path: Path) -> None:
    """Same row, same model: the same latent to the bit for one actor or two, one file or nine."""
    tables = []
    for number, (workers, part_rows) in enumerate([(1, 1000), (2, 37)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        changes = {"encode": {"num_workers": workers}, "data": {"part_rows": part_rows}}
        settings = runfile.parse(small_settings(folder, **changes))
        ingest.ingest(settings)
        tables.append(encoded(settings, model_of(settings, folder / "model")))
    assert tables[0].equals(tables[1])
    assert tables[0].num_rows == 300


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


def test_a_failing_actor_publishes_nothing(tmp_path: Path) -> None:
    """A file of the dataset is damaged: an error with its name, no snapshot, no leftovers."""
    settings = runfile.parse(small_settings(tmp_path))
    ingested = ingest.ingest(settings)
    registered = model_of(settings, tmp_path / "model")
    damaged = Path(ingested.snapshot) / "part-00000-001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"part-00000-001\.parquet"):
        encode.encode(settings, registered, ingested)
    assert not list((settings.root / "latents").rglob("*.parquet"))


def test_a_tampered_model_encodes_nothing(tmp_path: Path) -> None:
    """An actor verifies the model's checksums before it uses it."""
    settings = runfile.parse(small_settings(tmp_path))
    ingested = ingest.ingest(settings)
    registered = model_of(settings, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DataError, match="altered since it was saved"):
        encode.encode(settings, registered, ingested)


def test_a_bucket_holds_what_a_folder_holds(tmp_path: Path, home: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """encode, reduce, sample and the report's plots; the same rows, and the second time nothing to do.

    The units are done by this process: Ray was up before the environment led to the bucket.
    """
    monkeypatch.setattr(encode, "actors", lambda work, units, workers, use_gpu: threads(work, units, workers=workers))
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
