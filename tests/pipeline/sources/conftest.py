"""One S3-compatible store and one PostgreSQL for the session."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from pyarrow import fs
from servers import Bucket, PostgreSQL, postgresql, postgresql_programs, s3_server

from pipeline.sources import stores


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
    stores.connected.cache_clear()
    yield
    stores.connected.cache_clear()


@pytest.fixture
def bucket(s3_port: int, s3_credentials: None, request: pytest.FixtureRequest) -> Bucket:
    """An empty bucket."""
    filesystem = fs.S3FileSystem(endpoint_override=f"127.0.0.1:{s3_port}", scheme="http", allow_bucket_creation=True)
    name = f"bucket-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}"
    filesystem.create_dir(name)
    return Bucket(name, s3_port, filesystem)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """A server of its own."""
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    with postgresql(programs) as server:
        yield server
