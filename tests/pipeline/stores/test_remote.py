"""A place in a bucket: its parts, what lies there, and what is no place."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from servers import Bucket

from pipeline import latents, snapshots
from pipeline.errors import ConfigError, DataError, InfrastructureError
from pipeline.stores.remote import Remote, located, names, sizes, uri


def test_a_place_has_the_parts_of_a_path() -> None:
    """And says itself in full: what it says leads there again, in another process too."""
    place = located("s3://bucket/a/") / "b" / "c.parquet"
    assert (str(place), place.name, str(place.parent)) == ("s3://bucket/a/b/c.parquet", "c.parquet", "s3://bucket/a/b")
    assert (place.bucket, place.key) == ("bucket", "a/b/c.parquet")
    assert located(str(place)) == pickle.loads(pickle.dumps(place)) == place
    assert located("s3://bucket/a") / "s3://other/b" == Remote("s3://other/b")


def test_a_path_stays_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Made absolute."""
    monkeypatch.chdir(tmp_path)
    assert located("w/latents") == located(Path("w/latents")) == tmp_path / "w/latents"


def test_a_link_leads_to_either() -> None:
    """As the report's in Prefect's UI."""
    assert (uri("/w/latents/v000001"), uri("s3://bucket/v000001")) == (
        "file:///w/latents/v000001",
        "s3://bucket/v000001",
    )


@pytest.mark.parametrize(
    "wrong",
    ["gs://bucket/k", "s3://", "s3:///k", "s3://bucket//k", "s3://bucket/k?region=x", "s3://key:secret@bucket/k"],
)
def test_what_is_no_place_is_refused(wrong: str) -> None:
    """Without repeating what may be a secret's option."""
    with pytest.raises(ConfigError, match="no place for snapshots"):
        located(wrong)


def test_what_lies_there(home: Remote, bucket: Bucket) -> None:
    """Names one level below, sizes of files, content; nothing where there is nothing."""
    bucket.put("some/prefix/a", b"123")
    bucket.put("some/prefix/deep/b", b"4")
    assert sorted(names(home)) == ["a", "deep"]
    assert sizes(home) == {"a": 3}
    assert ((home / "a").read_bytes(), (home / "a").is_file(), (home / "b").is_file()) == (b"123", True, False)
    assert names(home / "none") == []
    with pytest.raises(FileNotFoundError):
        (home / "none").read_bytes()


def test_a_reader_finds_no_snapshot_in_an_empty_bucket(home: Remote) -> None:
    """As in an empty folder."""
    assert snapshots.versions(home) == []
    with pytest.raises(DataError, match="no snapshot here"):
        latents.read(str(home))


def test_a_store_that_does_not_answer_is_no_missing_snapshot(home: Remote, bucket: Bucket) -> None:
    """InfrastructureError, exit 4: the snapshot may well be there."""
    bucket.ask("POST", "/moto-api/reset-auth", b"0")
    try:
        with pytest.raises(InfrastructureError, match=r"the store does not answer: .*ACCESS_KEY_ID"):
            snapshots.latest(home)
    finally:
        bucket.ask("POST", "/moto-api/reset-auth", b"inf")
