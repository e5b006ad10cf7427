"""What is asked of an S3 bucket, one request each, repeated with patience: the places where a machine can stop."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, final

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError

from pipeline.errors import InfrastructureError
from pipeline.stores.patience import Patience
from pipeline.stores.remote import Remote

T = TypeVar("T")
CHANGES: Final = ("put", "put_new", "copy", "upload", "delete")
TAKEN: Final = 412
"""The precondition failed: there is such an object."""
AT_ONCE: Final = 1000
"""Objects of one listing or deletion, at most."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An object."""

    place: Remote
    bytes: int
    written: datetime
    """By the store's clock."""


@final
class Objects:
    """The client; thread-safe. Its endpoint and credentials are those of the environment."""

    def __init__(self, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        settings = Config(
            connect_timeout=self.patience.connect_s,
            read_timeout=self.patience.answer_s,
            retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required",  # other makers' stores do not know the newer ones
            response_checksum_validation="when_required",
        )
        self._s3 = botocore.session.get_session().create_client("s3", config=settings)

    def put(self, target: Remote, content: bytes) -> None:
        """An object, in the place of another if there is one."""
        self._asked(target, lambda: self._s3.put_object(**_names(target), Body=content, ContentMD5=_md5(content)))

    def put_new(self, target: Remote, content: bytes) -> bool:
        """An object, unless there is one of that name.

        A reply may be lost and the request repeated; so if there is one, it may be ours: that is told by its content,
        which must be like no other writer's.
        """
        new = {**_names(target), "Body": content, "ContentMD5": _md5(content), "IfNoneMatch": "*"}
        try:
            self._asked(target, lambda: self._s3.put_object(**new), understood=TAKEN)
        except ClientError:
            return self.content(target) == content
        return True

    def copy(self, source: Remote, target: Remote) -> None:
        """An object of the same store under another name; its bytes do not travel. Up to 5 GB."""
        origin = {"Bucket": source.bucket, "Key": source.key}
        self._asked(target, lambda: self._s3.copy_object(**_names(target), CopySource=origin))

    def upload(self, path: Path, target: Remote) -> None:
        """A file, its digest checked by the store, its size by us. Up to 5 GB."""
        with path.open("rb") as file:
            md5 = base64.b64encode(hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest())

            def put() -> Any:
                file.seek(0)
                return self._s3.put_object(**_names(target), Body=file, ContentMD5=md5.decode())

            self._asked(target, put)
        there = self._asked(target, lambda: self._s3.head_object(**_names(target)))["ContentLength"]
        if there != path.stat().st_size:
            raise InfrastructureError(f"{path.stat().st_size:,} bytes sent, {there:,} are there", str(target))

    def delete(self, places: Sequence[Remote]) -> None:
        """Objects of one bucket, as far as they are there."""
        for first in range(0, len(places), AT_ONCE):
            some = places[first : first + AT_ONCE]
            names = {"Objects": [{"Key": it.key} for it in some], "Quiet": True}
            self._asked(some[0], partial(self._s3.delete_objects, Bucket=some[0].bucket, Delete=names))

    def content(self, place: Remote) -> bytes:
        """Of a small object."""

        def get() -> bytes:
            content: bytes = self._s3.get_object(**_names(place))["Body"].read()
            return content

        return self._asked(place, get)

    def below(self, folder: Remote) -> tuple[list[Listed], datetime]:
        """All objects whose names begin with the folder's, and the store's time now."""
        found: list[Listed] = []
        more: dict[str, str] = {}
        while True:
            page = self._asked(folder, partial(self._page, folder, more))
            found += _listed(folder, page)
            if not page.get("IsTruncated"):
                return found, parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, folder: Remote, more: dict[str, str]) -> Any:
        return self._s3.list_objects_v2(Bucket=folder.bucket, Prefix=f"{folder.key}/".lstrip("/"), **more)

    def _asked(self, place: Remote, ask: Callable[[], T], understood: int = 0) -> T:
        return self.patience.repeated(ask, where=str(place), understood=understood)


def _listed(folder: Remote, page: Any) -> Iterator[Listed]:
    root = Remote(f"s3://{folder.bucket}")
    for it in page.get("Contents", ()):
        yield Listed(place=root / it["Key"], bytes=it["Size"], written=it["LastModified"])


def _names(place: Remote) -> dict[str, str]:
    return {"Bucket": place.bucket, "Key": place.key}


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
