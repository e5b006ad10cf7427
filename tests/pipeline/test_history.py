"""snapshots, gc and rollback: what was published, what is swept away, and going back."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from faults.writer import commit, parts_of
from harness import small_settings

from pipeline import cli, history, runfile, snapshots, storage
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, DataError, InfrastructureError
from pipeline.stores.remote import Remote, located


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A run with two snapshots of latents, as far as a store can tell."""
    found = runfile.parse(small_settings(tmp_path))
    for key, ids in (("k1", [1, 2, 3]), ("k2", [4])):
        _latents(found, key, ids)
    return found


def _latents(config: RunConfig, key: str, ids: list[int]) -> None:
    root = storage.root(config, "latents")
    with storage.attempt(root, key) as directory:
        facts = {"run_key": key, "rows": len(ids), "model": {"name": "small", "version": 3}, "id": "id"}
        storage.publish(root, directory, parts_of(directory, ids), facts)


def rows(config: RunConfig, version: int) -> list[int]:
    """Rows of the files of a version of the latents."""
    found = storage.root(config, "latents") / snapshots.directory_name(version)
    return [part["rows"] for part in snapshots.Snapshot(found).manifest["files"]]


def test_the_history_names_every_snapshot(config: RunConfig) -> None:
    """Kind, version, rows, bytes, model, key, when, and which one is current; a line each."""
    first, second = history.published(config)
    assert (first.kind, first.version, first.rows, first.files, first.model) == ("latents", "v000001", 3, 2, "small/3")
    assert (first.key, first.current, second.key, second.current) == ("k1", False, "k2", True)
    assert first.bytes == sum(path.stat().st_size for path in Path(first.snapshot).glob("*.parquet"))
    assert second.line().startswith("* latents  v000002             1 rows")
    assert second.line().endswith("k2  small/3")


def test_going_back_is_a_new_version(config: RunConfig) -> None:
    """Of the old content; nothing is taken away, and going back to the newest is nothing to do."""
    again = history.rollback(config, "v000001", kind="latents")
    assert (again.version, again.key, again.manifest["previous"]) == (3, "k1", "v000002")
    assert rows(config, 3) == rows(config, 1) == [2, 1]
    assert [it.version for it in history.published(config)] == ["v000001", "v000002", "v000003"]
    assert history.rollback(config, "3", kind="latents") == again
    assert len(history.published(config)) == 3


@pytest.mark.parametrize("version", ["7", "v000007", "latest", ""])
def test_a_version_that_is_not_there_is_named(config: RunConfig, version: str) -> None:
    """With those that are."""
    with pytest.raises(ConfigError, match=rf"no version {version} of latents\n  cure: there are: v000001, v000002"):
        history.rollback(config, version, kind="latents")


def test_a_damaged_version_is_not_published_again(config: RunConfig) -> None:
    """Its files are no longer whole."""
    (Path(history.published(config)[0].snapshot) / "part-00000.parquet").unlink()
    with pytest.raises(DataError, match="files are missing or of another size"):
        history.rollback(config, "1", kind="latents")


def test_only_what_is_old_and_dead_is_swept(config: RunConfig) -> None:
    """By age, and first only named."""
    root = storage.root(config, "latents")
    for name, age_s in (("young", 0), ("old", 7200)):
        dead = located(f"{root}/_attempts/key/{name}")
        assert isinstance(dead, Path)
        dead.mkdir(parents=True)
        os.utime(dead, (time.time() - age_s,) * 2)
    old = [f"{root}/_attempts/key/old"]
    assert history.sweep(config, older_than="1h", dry_run=True) == old
    assert Path(old[0]).is_dir()
    assert history.sweep(config, older_than="1h", dry_run=False) == old
    assert history.sweep(config, older_than="1h", dry_run=False) == []
    assert Path(f"{root}/_attempts/key/young").is_dir()
    assert len(history.published(config)) == 2


@pytest.mark.parametrize(("text", "seconds"), [("0s", 0), ("90m", 5400), ("24h", 86_400), ("1.5d", 129_600)])
def test_an_age_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    """And nothing else."""
    assert history.seconds(text) == seconds
    with pytest.raises(ConfigError, match=r"--older-than .*\n  cure: a number and s, m, h or d"):
        history.seconds(text.rstrip("smhd"))


def test_the_verbs_answer(tmp_path: Path, config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """For a person and as JSON."""
    toml = tmp_path / "run.toml"
    toml.write_text(runfile.text(config))

    def told(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert told("snapshots", str(toml)).count("\n") == 2
    assert '"version": "v000002"' in told("snapshots", str(toml), "--json")
    assert "v000003" in told("rollback", str(toml), "1")
    assert told("gc", str(toml), "--dry-run") == "0 would be deleted\n"


def test_a_product_that_cannot_be_published_is_noticed_first(tmp_path: Path) -> None:
    """Before a run computes anything; nothing is deleted, and nothing is left where all is well."""
    config = runfile.parse(small_settings(tmp_path))
    storage.preflight(config)
    assert not config.root.exists() or [*config.root.iterdir()] == []
    foreign = config.root / "latents" / "small"
    foreign.mkdir(parents=True)
    (foreign / "letter.txt").write_text("dear")
    with pytest.raises(
        InfrastructureError, match=r"not a folder of snapshots: it holds letter.txt\n  cure: name another"
    ):
        storage.preflight(config)
    assert (foreign / "letter.txt").read_text() == "dear"


def test_datasets_stay_and_products_go_where_storage_says(tmp_path: Path) -> None:
    """A folder or a bucket; secrets and options are the environment's."""
    far = runfile.parse(small_settings(tmp_path, storage={"uri": "s3://bucket/prefix/"}))
    assert storage.root(far, "latents") == Remote("s3://bucket/prefix/latents/small")
    assert storage.root(far, "datasets") == far.root / "datasets" / "small"
    near = runfile.parse(small_settings(tmp_path, storage={"uri": str(tmp_path / "products")}))
    assert storage.root(near, "reduced") == tmp_path / "products/reduced/small"
    for uri in ("gs://bucket/k", "s3://user:secret@bucket/k", "s3://bucket/k?endpoint_override=x"):
        with pytest.raises(ConfigError, match=r"storage: uri: a folder, or s3://bucket/prefix"):
            runfile.parse(small_settings(tmp_path, storage={"uri": uri}))


def test_a_bucket_has_a_history_too(home: Remote, tmp_path: Path) -> None:
    """With the store's times; going back copies."""
    config = runfile.parse(small_settings(tmp_path, storage={"uri": str(home)}))
    _latents(config, "k1", [1, 2])
    commit(storage.root(config, "latents"), "k2", [3])
    again: Any = history.rollback(config, "1", kind="latents")
    assert again.version == 3
    assert again.files[0].parent != snapshots.versions(storage.root(config, "latents"))[0].files[0].parent
