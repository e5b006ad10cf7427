"""A place in a bucket, `s3://bucket/a/b`, with the few things of pathlib.Path that a reader needs. pyarrow only.

Endpoint, region and credentials come from the environment: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and so on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
from pyarrow import fs

from pipeline.errors import ConfigError, InfrastructureError
from pipeline.stores.arrow import connected

ANSWER: Final = "check AWS_ENDPOINT_URL, the network and the credentials in the environment, then run again"
_S3: Final = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9.-]+(/[^/?#]+)*")


@dataclass(frozen=True, order=True)
class Remote:
    """An object, or what begins with its name: a bucket has no folders."""

    uri: str
    """`s3://bucket/key`, without options and without a last `/`."""

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> Remote:
        return Remote(name if "://" in name else f"{self.uri}/{name}")

    @property
    def name(self) -> str:
        """The last part of its key."""
        return self.uri.rpartition("/")[2]

    @property
    def parent(self) -> Remote:
        """What it lies below."""
        return Remote(self.uri.rpartition("/")[0])

    @property
    def bucket(self) -> str:
        """Its bucket's name."""
        return self.uri.removeprefix("s3://").partition("/")[0]

    @property
    def key(self) -> str:
        """Its name in the bucket."""
        return self.uri.removeprefix("s3://").partition("/")[2]

    def is_file(self) -> bool:
        """Whether there is such an object."""
        with self._asked() as (filesystem, path):
            return filesystem.get_file_info(path).type is fs.FileType.File

    def read_bytes(self) -> bytes:
        """The object's content. Raises FileNotFoundError if there is none."""
        with self._asked() as (filesystem, path), filesystem.open_input_stream(path) as stream:
            content: bytes = stream.read()
            return content

    def listed(self) -> list[fs.FileInfo]:
        """What lies one level below, with sizes; nothing if there is nothing."""
        with self._asked() as (filesystem, path):
            found: list[fs.FileInfo] = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
            return found

    @contextmanager
    def _asked(self) -> Iterator[tuple[fs.FileSystem, str]]:
        try:
            yield arrow(self)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise InfrastructureError(f"the store does not answer: {reason}", self.uri, ANSWER) from error


Location = Path | Remote


def located(text: str | Location) -> Location:
    """A path of this machine, made absolute, or a place in a bucket. Raises ConfigError for any other URI."""
    if isinstance(text, Remote):
        return text
    if "://" not in str(text):
        return Path(text).absolute()
    uri = str(text).rstrip("/")
    if not _S3.fullmatch(uri):
        cure = "a folder, or s3://bucket/prefix; endpoint and credentials by AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID ..."
        raise ConfigError(f"no place for snapshots: {uri.partition('?')[0]}", cure=cure)
    return Remote(uri)


def uri(text: str) -> str:
    """What a browser, or another program, takes for a snapshot's place: `file://` or `s3://`."""
    place = located(text)
    return place.as_uri() if isinstance(place, Path) else place.uri


def arrow(location: Location) -> tuple[fs.FileSystem, str]:
    """The filesystem of a place, and its path there, as pyarrow's readers take them."""
    if isinstance(location, Path):
        return fs.LocalFileSystem(), str(location)
    filesystem, _ = connected(f"s3://{location.bucket}")
    return filesystem, location.uri.removeprefix("s3://")


def written(location: Location) -> float:
    """When a file was written, by the store's clock, seconds since 1970."""
    filesystem, path = arrow(location)
    return float(filesystem.get_file_info(path).mtime.timestamp())


def names(folder: Location) -> list[str]:
    """What lies directly in a folder; nothing if there is no such folder."""
    if isinstance(folder, Path):
        with suppress(FileNotFoundError):
            return os.listdir(folder) if folder.is_dir() else []
        return []
    return [info.base_name for info in folder.listed()]


def sizes(folder: Location) -> dict[str, int]:
    """Bytes of each file that lies directly in a folder, by name."""
    if isinstance(folder, Path):
        return {it.name: it.stat().st_size for it in folder.iterdir() if it.is_file()} if folder.is_dir() else {}
    return {info.base_name: info.size for info in folder.listed() if info.is_file}
