"""What a writer of snapshots asks of a store."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import ConfigError
from pipeline.stores.local import Local
from pipeline.stores.names import Leftover
from pipeline.stores.remote import Location


class Store(Protocol):
    """Places below one root are `Any`: each store knows its own."""

    @property
    def AT_ONCE(self) -> int:  # noqa: N802 - a constant of each
        """Files that are accepted at a time."""

    def ready(self, root: Any) -> None:
        """Raise InfrastructureError unless snapshots can be published there. Deletes nothing, leaves nothing."""

    def begun(self, folder: Any) -> AbstractContextManager[None]:
        """A try's own folder, marked as live inside; all of it is gone afterwards."""

    def writing(self, target: Any) -> AbstractContextManager[Path]:
        """A local file to fill; at the end it is there, durable, under the target's name."""

    def carried(self, source: Any, folder: Any) -> str:
        """What to call a published file in a try's folder so that it can be accepted; its bytes are not moved."""

    def accept(self, source: Any, target: Any) -> None:
        """A try's file under the name it is published by; its old name may be gone."""

    def gathering(self, root: Any, folder: Any) -> Any:
        """Where a try's accepted files come together: nobody else ever writes there."""

    def told(self, data: Any) -> dict[str, str]:
        """What a manifest must say so that the gathered files are found."""

    def commit(self, data: Any, target: Any, manifest: bytes) -> bool:
        """The one step that makes a version visible, or False if another has taken it. All or nothing."""

    def point(self, folder: Any, target: Any, content: bytes) -> None:
        """Put a small file in the place of its predecessor; `folder` is the try's own."""

    def leftovers(self, root: Any) -> list[Leftover]:
        """All tries there are, and all gathered files, whether published or not."""

    def delete(self, place: Any) -> None:
        """A leftover, if nobody is at work in it."""


def of(location: Location) -> Store:
    """The store of a place. Raises ConfigError if its client is not installed."""
    if isinstance(location, Path):
        return Local()
    try:
        from pipeline.stores.s3 import S3, client
    except ImportError as error:
        raise ConfigError("publishing there needs botocore", str(location), "pip install 'latentpipe[s3]'") from error
    return S3(client())
