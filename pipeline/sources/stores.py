"""Stores of files: a URI is a filesystem and a path in it, and a file is opened only while it is still what was listed.

On this machine an absolute or relative path, or `file://`; elsewhere whatever `pyarrow.fs` knows, such as
`s3://bucket/key?endpoint_override=127.0.0.1:9000&scheme=http`. A key is written as it is; only in `file://` does `%20`
stand for a blank. Credentials come from the environment, never from a URI.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from pipeline.errors import ConfigError, DataError, InfrastructureError
from pipeline.sources.file import File
from pipeline.stores.arrow import connected

MARK_BYTES: Final = 64 << 10
OPTIONS: Final = re.compile(r"\?(\w+=[^&?]*(&\w+=[^&?]*)*)$")
ODD: Final = re.compile(r"^$|[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What no name may be: nothing, or with control characters, line ends or bytes that are not UTF-8."""
CREDENTIAL: Final = re.compile(r"(passw\w*|pwd|secret\w*|token|\bsig|\b(access_?|account_?)?key)=", re.IGNORECASE)
KINDS: Final = {"p": "a FIFO", "s": "a socket", "c": "a device", "b": "a device", "d": "a folder"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a URI leads."""

    path: str
    """Absolute; in a store, below its root."""
    root: str = ""
    """`s3://bucket`; empty on this machine."""
    options: str = ""
    """The store's, as in the URI: `?region=eu-west-1`."""

    @property
    def uri(self) -> str:
        """What leads here again."""
        return f"{self.root}{self.path}{self.options}"

    def __str__(self) -> str:
        return f"{self.root}{self.path}"

    @property
    def parent(self) -> Place:
        """The folder it lies in."""
        return replace(self, path=self.path.rpartition("/")[0] or "/")

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def __truediv__(self, name: str) -> Place:
        return replace(self, path=f"{self.path.rstrip('/')}/{name}")


def place(uri: str) -> Place:
    """Where a path or URI leads. Raises ConfigError for one with a credential in it, DataError for an odd name."""
    legible(uri)
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return Place(path=str(Path(uri).absolute()))
    refuse_credentials(uri)
    options = OPTIONS.search(rest) if scheme != "file" else None
    authority, _, path = rest[: options.start() if options else None].partition("/")
    if scheme == "file" and authority in ("", "localhost"):
        return Place(path=str(Path("/", unquote(path))))
    path = path.rstrip("/")
    there = Place(root=f"{scheme}://{authority}", path=f"/{path}", options=options[0] if options else "")
    if path:
        settled(path, there)
    return there


def legible(name: str) -> None:
    """Raise DataError for a name that cannot be printed on a line, or is none."""
    if ODD.search(name):
        raise DataError("such a name is not read", repr(name), "rename it: text, without control characters")


def settled(name: str, where: Place) -> None:
    """Raise DataError for a store's name that a path walks away from, such as `a/../b` or `a//b`."""
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise DataError(f"the name {name!r} has a part that is empty, '.' or '..'", str(where), "rename it")


def refuse_credentials(uri: str) -> None:
    """Raise ConfigError, without repeating it, for a password or key in a URI: URIs end up in logs and manifests."""
    location, _, options = uri.partition("://")[2].partition("?")
    authority = re.sub(r"\[.*?\]", "", location.partition("/")[0])  # less an IPv6 address
    if re.search(r":(?!\d*(,|$))", authority) or CREDENTIAL.search(unquote(options)):
        raise ConfigError(
            "holds a password or a key", "data.uri", "leave it to the environment: AWS_SECRET_ACCESS_KEY, PGPASSWORD"
        )


def reached(at: Place) -> tuple[fs.FileSystem, str]:
    """The filesystem of a place, and its path there. Raises ConfigError if there is no such kind of store."""
    if not at.root:
        return fs.LocalFileSystem(), at.path
    try:
        filesystem, prefix = connected(at.root, at.options)
    except pa.ArrowInvalid as error:
        cure = "use a path, file://, s3:// or gs://; or, with data.query, a database's URL"
        raise ConfigError(f"no such store: {_first_line(error)}", str(at), cure) from error
    return filesystem, (prefix + at.path.lstrip("/")).rstrip("/")


@contextmanager
def refusals(at: Place) -> Iterator[None]:
    """Turn what a filesystem refuses into DataError, or into InfrastructureError where a server is in between."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError("no such file", str(at), "check data.uri") from error
    except (OSError, pa.ArrowInvalid) as error:
        if not at.root:
            number = getattr(error, "errno", None)
            reason = os.strerror(number) if number else _first_line(error)
            raise DataError(f"cannot be read: {reason}", str(at), "check its permissions") from error
        cure = "check the address, the network and the credentials in the environment, then run again"
        raise InfrastructureError(f"the store does not answer: {_first_line(error)}", str(at), cure) from error


def kind(at: Place) -> fs.FileType:
    """File, Directory or NotFound. Raises DataError for a device, a FIFO or a socket, which are never opened."""
    with refusals(at):
        filesystem, path = reached(at)
        found = filesystem.get_file_info(path).type
    if found is fs.FileType.Unknown:
        refuse_special(at, os.stat(at.path).st_mode)
    return found


def refuse_special(at: Place, mode: int) -> None:
    """Raise DataError unless the mode is that of a plain file."""
    if not stat.S_ISREG(mode):
        raise DataError(
            f"{KINDS[stat.filemode(mode)[0]]}, not a plain file", str(at), "name a file, a folder or a glob"
        )


def described(at: Place, *, name: str, keys: tuple[tuple[str, str], ...] = ()) -> File:
    """The file at a place: size, stamp and mark. Raises DataError or InfrastructureError if it cannot be read."""
    with refusals(at):
        size, stamp = _state(at)
        with _stream(at) as content:
            tail = content.read_at(min(size, MARK_BYTES), max(size - MARK_BYTES, 0))
    return File(uri=at.uri, name=name, bytes=size, stamp=stamp, mark=hashlib.sha256(tail).hexdigest(), keys=keys)


@contextmanager
def opened(file: File) -> Iterator[pa.NativeFile]:
    """The file's bytes, for random access. Raises DataError if it is not, before and after, what was listed.

    Not memory-mapped: that is no faster, counts as the process's memory, and a file cut short meanwhile would kill it.
    """
    at = place(file.uri)
    _same(at, file)
    with refusals(at):
        content = _stream(at)
    with content:
        try:
            yield content
        finally:
            _same(at, file)


def _same(at: Place, file: File) -> None:
    with refusals(at):
        try:
            found = _state(at)
        except FileNotFoundError:
            found = None
    if found != (file.bytes, file.stamp):
        raise DataError("changed while it was being read", str(at), "run again once nobody writes to it")


def _state(at: Place) -> tuple[int, str]:
    """Bytes and stamp: the store's tag of the content, or when it was written."""
    filesystem, path = reached(at)
    if at.root:
        with _stream(at) as content:
            facts = {key.lower(): value for key, value in content.metadata().items()}
            if "etag" in facts:
                return content.size(), facts["etag"].decode()
    info = filesystem.get_file_info(path)
    if not info.is_file:
        raise FileNotFoundError(path)
    return info.size, str(info.mtime_ns)


def _stream(at: Place) -> pa.NativeFile:
    filesystem, path = reached(at)
    return filesystem.open_input_file(path)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
