"""Stores: this machine's files, and a real S3-compatible server on loopback."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import Bucket, free_port

from pipeline.config import Data
from pipeline.errors import ConfigError, DataError, InfrastructureError
from pipeline.sources import stores
from pipeline.sources.file import File
from pipeline.sources.listing import files
from pipeline.sources.stores import Place, opened, place
from pipeline.stores import arrow


def listed(uri: Path | str, **options: Any) -> list[File]:
    """The files of a source."""
    return files(Data(uri=str(uri), **options), workspace=Path("unused"))


def content(file: File) -> bytes:
    """All bytes of a file, opened where a worker would."""
    with opened(pickle.loads(pickle.dumps(file))) as stream:
        whole: bytes = stream.read()
        assert stream.read_at(1, 2) == whole[2:3], "random access"
    return whole


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/b c", Place(path="/a/b c")),
        ("file:///a/b%20c/", Place(path="/a/b c")),
        ("file://localhost/a?b#c", Place(path="/a?b#c")),
        ("s3://b", Place(root="s3://b", path="/")),
        ("s3://b/k%20/l m/?region=x", Place(root="s3://b", path="/k%20/l m", options="?region=x")),
        ("s3://b/part-?", Place(root="s3://b", path="/part-?")),
        ("s3://b/p?.csv?region=x&scheme=http", Place(root="s3://b", path="/p?.csv", options="?region=x&scheme=http")),
        ("gs://anonymous@b/k", Place(root="gs://anonymous@b", path="/k")),
    ],
)
def test_a_uri_is_a_place(uri: str, expected: Place) -> None:
    """A store, its options, and a key as it is written; and back."""
    assert place(uri) == expected
    assert place(expected.uri) == expected


HIDDEN = "hunter2"


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://key:{HIDDEN}@bucket/a.csv",
        f"s3://key:{HIDDEN}/with/slash@bucket/a.csv",
        f"s3://bucket/a.csv?secret_key={HIDDEN}",
        f"s3://bucket/a.csv?region=x&access%5Fkey={HIDDEN}",
        f"s3://bucket?session_token={HIDDEN}",
        f"abfs://container@account/a.csv?sig={HIDDEN}",
        f"postgresql://me:{HIDDEN}@host/db",
        f"postgresql://me@host:5432/db?password={HIDDEN}",
        f"mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{HIDDEN}",
    ],
)
@pytest.mark.parametrize("query", ["", "select 1"])
def test_a_uri_with_a_credential_is_refused(uri: str, query: str) -> None:
    """And not repeated: the message goes to logs."""
    with pytest.raises(ConfigError) as caught:
        listed(uri, query=query)
    assert str(caught.value) == (
        "data.uri: holds a password or a key\n  cure: leave it to the environment: AWS_SECRET_ACCESS_KEY, PGPASSWORD"
    )


@pytest.mark.parametrize(
    ("uri", "what"),
    [
        ("nope://x/y", "nope://x/y: no such store: Unrecognized filesystem type in URI: nope://x/x"),
        ("postgresql://me@[::1]:5432,h:1/db", "no such store: Cannot parse URI"),
        ("s3://b/k?regio=x", "s3://b/k: no such store: Unexpected query parameter in S3 URI: 'regio'"),
        ("s3:///k", "s3:///k: no such store: Missing bucket name in S3 URI"),
        ("file://host/k", "file://host/k: no such store: Unsupported hostname in non-Windows local URI"),
    ],
)
def test_a_uri_that_leads_nowhere(uri: str, what: str) -> None:
    """Says which word is not known, and which are."""
    with pytest.raises(ConfigError) as caught:
        listed(uri)
    assert what in str(caught.value)
    cure = "use a path, file://, s3:// or gs://; or, with data.query, a database's URL"
    assert str(caught.value).endswith(f"\n  cure: {cure}")


@pytest.mark.parametrize("key", ["a/../b.csv", "../other-bucket/b.csv", "a//b.csv", "./b.csv"])
def test_a_uri_does_not_walk(key: str) -> None:
    """A client would quietly read another object, even of another bucket."""
    with pytest.raises(DataError, match=r"the name '.*' has a part that is empty, '\.' or '\.\.'"):
        listed(f"s3://bucket/{key}")


def read_while(file: File, happens: Callable[[], Any]) -> None:
    """Read a file while something happens to it."""
    with opened(file) as stream:
        stream.read()
        happens()


def changed(path: Path) -> None:
    """Same length, other content, a moment later."""
    path.write_bytes(b"a\n2\n")
    os.utime(path, ns=(0, 1))


MESSAGE = "changed while it was being read\n  cure: run again once nobody writes to it"


@pytest.mark.parametrize("change", [changed, lambda it: it.write_bytes(b"a\n10\n"), lambda it: it.unlink()])
def test_a_file_that_changed_is_not_read(tmp_path: Path, change: Any) -> None:
    """Since the listing, or while it was open: rows of two versions must not meet."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n1\n")
    (file,) = listed(path)
    assert content(file) == b"a\n1\n"
    with pytest.raises(DataError) as caught:
        read_while(file, lambda: change(path))
    assert str(caught.value) == f"{path}: {MESSAGE}"
    with pytest.raises(DataError, match="changed while it was being read"), opened(file):
        pytest.fail("was opened")


def test_a_file_replaced_by_a_fifo_is_not_opened(tmp_path: Path) -> None:
    """It would wait for ever."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n1\n")
    (file,) = listed(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="changed while it was being read"), opened(file):
        pytest.fail("was opened")


def test_an_error_of_the_reader_stays_its_own(tmp_path: Path) -> None:
    """Unless the file changed, which explains it."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n1\n")
    (file,) = listed(path)
    with pytest.raises(OSError, match="no space"), opened(file):
        raise OSError("no space")

    def stumble() -> None:
        changed(path)
        raise ValueError("not UTF-8")

    with pytest.raises(DataError, match="changed while it was being read"):
        read_while(file, stumble)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Says why, in the system's words."""
    path = tmp_path / ("x" * 300)
    with pytest.raises(DataError) as caught:
        listed(path)
    assert str(caught.value) == f"{path}: cannot be read: File name too long\n  cure: check its permissions"


TREE = ("in/b.csv", "in/a[1].csv", "in/é b.csv", "in/100%25.csv", "in/_tmp/x.csv", "in/sub/c.csv", "in/.h.csv")


GLOBS = {
    "": ["in/100%25.csv", "in/a[1].csv", "in/b.csv", "in/sub/c.csv", "in/é b.csv"],
    "in": ["100%25.csv", "a[1].csv", "b.csv", "sub/c.csv", "é b.csv"],
    "in/b.csv": ["b.csv"],
    "in/a[1].csv": ["a[1].csv"],
    "in/100%25.csv": ["100%25.csv"],
    "in/?.csv": ["b.csv"],
    "in/[a-b]*": ["a[1].csv", "b.csv"],
    "**/c*": ["in/sub/c.csv"],
    "*/*/*.csv": ["in/sub/c.csv"],
    "in/_tmp/*": ["x.csv"],
}


def test_a_bucket_lists_like_a_folder(bucket: Bucket) -> None:
    """One object, a prefix, a glob; names as they are written."""
    for key in TREE:
        bucket.put(key, key.encode())
    for glob, expected in GLOBS.items():
        assert [it.name for it in listed(bucket.uri(glob))] == expected
    for file in listed(bucket.uri()):
        whole = content(file)
        assert whole.decode() == file.name
        assert (file.bytes, file.mark) == (len(whole), hashlib.sha256(whole).hexdigest())
        assert file.uri == bucket.uri(file.name)


def test_partitions_of_a_bucket(bucket: Bucket) -> None:
    """Keys are stored encoded, as Spark writes them, and decoded into columns."""
    bucket.put("t/day=2024-01-01 10%3A00/p.csv")
    bucket.put("t/day=%C3%A9/p.csv", b"")
    bucket.put("t/_SUCCESS", b"")
    found = listed(bucket.uri("t"), partitioning="hive")
    assert [(it.keys, it.bytes) for it in found] == [((("day", "é"),), 0), ((("day", "2024-01-01 10:00"),), 4)]
    assert listed(bucket.uri("t/day=2*/*.csv"), partitioning="hive") == found[1:]


@pytest.mark.parametrize("key", ["in/../b.csv", "in//b.csv", "in/./b.csv"])
def test_objects_that_walk_are_refused(bucket: Bucket, key: str) -> None:
    """`in/../b.csv` is a name like any other to the store, and `b.csv` to its clients."""
    bucket.put("in/a.csv")
    bucket.put_raw(key)
    with pytest.raises(DataError) as caught:
        listed(bucket.uri("in"))
    name = key.removeprefix("in/")
    assert str(caught.value) == (
        f"s3://{bucket.name}/in: the name {name!r} has a part that is empty, '.' or '..'\n  cure: rename it"
    )


def test_an_object_that_changed_is_not_read(bucket: Bucket) -> None:
    """By its entity tag: a second of time would not tell, nor would its length. Written anew, the same is the same."""
    bucket.put("a.csv", b"a\n1\n")
    (file,) = listed(bucket.uri("a.csv"))
    bucket.put("a.csv", b"a\n1\n")
    assert listed(bucket.uri("a.csv")) == [file]
    with pytest.raises(DataError) as caught, opened(file):
        bucket.put("a.csv", b"a\n2\n")
    assert str(caught.value) == f"s3://{bucket.name}/a.csv: {MESSAGE}"
    with pytest.raises(DataError, match="changed while it was being read"), opened(file):
        pytest.fail("was opened")
    bucket.filesystem.delete_file(f"{bucket.name}/a.csv")
    with pytest.raises(DataError, match="changed while it was being read"), opened(file):
        pytest.fail("was opened")


@pytest.mark.parametrize("key", ["none.csv", "none/*.csv", "no*"])
def test_a_bucket_without_it(bucket: Bucket, key: str) -> None:
    """Nothing there, or no such bucket, is the source's name that is wrong."""
    bucket.put("a.csv")
    for uri in (bucket.uri(key), bucket.uri(key).replace("bucket-", "absent-")):
        with pytest.raises(DataError) as caught:
            listed(uri)
        assert str(caught.value) == f"{uri.partition('?')[0]}: no such file, folder or match\n  cure: check data.uri"


CURE = "check the address, the network and the credentials in the environment, then run again"


def test_a_store_that_refuses(bucket: Bucket) -> None:
    """Wrong credentials: the store's word for it, nothing of the credentials."""
    bucket.put("a.csv")
    bucket.ask("POST", "/moto-api/reset-auth", b"0")
    try:
        with pytest.raises(InfrastructureError) as caught:
            listed(bucket.uri("a.csv"))
    finally:
        bucket.ask("POST", "/moto-api/reset-auth", b"inf")
    assert str(caught.value).startswith(f"s3://{bucket.name}/a.csv: the store does not answer: ")
    assert "ACCESS_DENIED" in str(caught.value)
    assert str(caught.value).endswith(f"\n  cure: {CURE}")
    assert "testing" not in str(caught.value)


@pytest.fixture
def hurried(s3_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the waits between tries."""
    monkeypatch.setattr(arrow, "ATTEMPTS", 2)
    monkeypatch.setattr(arrow, "PATIENCE", "retry_limit_seconds=0.1")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://b/k?scheme=http&endpoint_override=127.0.0.1:{}",
        "gs://anonymous@b/k?scheme=http&endpoint_override=127.0.0.1:{}",
    ],
)
def test_a_store_that_is_not_there(hurried: None, uri: str) -> None:
    """Is tried for a bounded time, then named."""
    with pytest.raises(InfrastructureError) as caught:
        listed(uri.format(free_port()))
    assert str(caught.value).startswith(f"{uri.partition('?')[0]}: the store does not answer: ")
    assert "ould not connect to server" in str(caught.value)


@contextmanager
def failing(port: int, *, times: int) -> Iterator[int]:
    """A way to the store that is overloaded for the first few requests; its port."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve() -> None:
        threads = []
        for number in range(1000):
            try:
                client, _ = server.accept()
            except OSError:
                break
            if number < times:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                client.close()
                continue
            store = socket.create_connection(("127.0.0.1", port))
            held.extend((client, store))
            threads += [threading.Thread(target=pump, args=pair) for pair in ((client, store), (store, client))]
            for thread in threads[-2:]:
                thread.start()

    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=serve)
        accepting.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        accepting.join()
    for it in held:
        it.close()


def test_a_store_that_is_busy_is_asked_again(bucket: Bucket) -> None:
    """503 three times over, then the answer."""
    bucket.put("a.csv", b"a\n1\n")
    with failing(bucket.port, times=3) as port:
        (file,) = listed(bucket.uri("a.csv", port=port))
        assert content(file) == b"a\n1\n"
    stores.connected.cache_clear()
