"""Asserts in what these tests share say what differs; one S3-compatible store for the session."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from pyarrow import fs
from servers import Bucket, s3_server

from pipeline.stores import arrow, s3
from pipeline.stores.remote import Remote

pytest.register_assert_rewrite("outcomes")


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """Of the store."""
    with s3_server() as port:
        yield port


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a user has them: in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    arrow.connected.cache_clear()
    yield
    arrow.connected.cache_clear()


@pytest.fixture
def bucket(s3_port: int, s3_credentials: None, request: pytest.FixtureRequest) -> Bucket:
    """An empty bucket."""
    filesystem = fs.S3FileSystem(endpoint_override=f"127.0.0.1:{s3_port}", scheme="http", allow_bucket_creation=True)
    name = f"bucket-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}"
    filesystem.create_dir(name)
    return Bucket(name, s3_port, filesystem)


@pytest.fixture
def home(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    """A place for snapshots in the bucket; the environment leads to it, as a user's would."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bucket.port}")
    s3.client.cache_clear()
    yield Remote(f"s3://{bucket.name}/some/prefix")
    s3.client.cache_clear()
