"""A bucket as a store of snapshots: a version is an object that nobody else has put, and names where its files lie.

_attempts/<key>/<uuid>/   what a try uploads, and its lease, put again every minute
_data/<uuid>/             the accepted files of one try, copied by the server: complete for a plain glob
v000007/_manifest.json    the commit: one `If-None-Match: *`; it names the folder in `_data`
"""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Final, final

from pipeline.errors import InfrastructureError
from pipeline.stores.names import ATTEMPTS, DATA, LEASE, MANIFEST, Leftover, foreign
from pipeline.stores.objects import Objects
from pipeline.stores.remote import Remote, names

BEAT_S: Final = 60.0
LIVE_S: Final = 600.0
"""So long after its last sign of life a try counts as live, ten beats."""


@cache
def client() -> Objects:
    """One for the process."""
    return Objects()


@final
class S3:
    """`objects` makes its requests."""

    AT_ONCE: Final = 8

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    def ready(self, root: Remote) -> None:
        """Raise InfrastructureError unless it can be written to, and honours `If-None-Match`; or if it is foreign."""
        foreign(root, names(root))
        probe = root / ATTEMPTS / "preflight" / uuid.uuid4().hex
        with self.begun(probe):
            first, second = (self.objects.put_new(probe / "new", content) for content in (b"first", b"second"))
            if not first or second:
                raise InfrastructureError(
                    "the store ignores If-None-Match, so that two runs could overwrite each other's snapshots",
                    str(root),
                    "use one that honours conditional writes, or leave storage.uri empty",
                )

    @contextmanager
    def begun(self, folder: Remote) -> Iterator[None]:
        """A prefix of its own, its lease put anew as long as this process lives; gone afterwards."""
        self.objects.put(folder / LEASE, b"")
        done = threading.Event()
        heart = threading.Thread(target=self._beat, args=(folder / LEASE, done), daemon=True, name="lease")
        heart.start()
        try:
            yield
        finally:
            done.set()
            heart.join()
            with suppress(InfrastructureError):
                self._delete(folder)

    @contextmanager
    def writing(self, target: Remote) -> Iterator[Path]:
        """A temporary file, uploaded when it is finished."""
        with tempfile.TemporaryDirectory(prefix="latentpipe-") as folder:
            yield (path := Path(folder) / target.name)
            self.objects.upload(path, target)

    def carried(self, source: Remote, folder: Remote) -> str:
        """Where it lies: what is published stays there."""
        return str(source)

    def accept(self, source: Remote, target: Remote) -> None:
        """A copy, by the server."""
        self.objects.copy(source, target)

    def gathering(self, root: Remote, folder: Remote) -> Remote:
        """Beside the versions, under the try's own name."""
        return root / DATA / folder.name

    def told(self, data: Remote) -> dict[str, str]:
        """Their folder, seen from the root."""
        return {"data": f"{DATA}/{data.name}"}

    def commit(self, data: Remote, target: Remote, manifest: bytes) -> bool:
        """Put the manifest, which names `data`, unless there is one."""
        return self.objects.put_new(target / MANIFEST, manifest)

    def point(self, folder: Remote, target: Remote, content: bytes) -> None:
        """By a put."""
        self.objects.put(target, content)

    def leftovers(self, root: Remote) -> list[Leftover]:
        """Of tries and of what they gathered; both go by the try's name, and live together."""
        seen: dict[str, datetime] = {}
        places: dict[Remote, str] = {}
        now = datetime.max
        for below, depth in ((root / ATTEMPTS, 2), (root / DATA, 1)):
            found, now = self.objects.below(below)
            for it in found:
                parts = it.place.uri.removeprefix(f"{below}/").split("/")[:depth]
                places[below / "/".join(parts)] = name = parts[-1]
                seen[name] = max(seen.get(name, it.written), it.written)
        silent = {name: (now - written).total_seconds() for name, written in seen.items()}
        return [
            Leftover(place=place, silent_s=silent[name], live=silent[name] < LIVE_S) for place, name in places.items()
        ]

    def delete(self, place: Remote) -> None:
        """All below it."""
        self._delete(place)

    def _delete(self, folder: Remote) -> None:
        self.objects.delete([it.place for it in self.objects.below(folder)[0]])

    def _beat(self, lease: Remote, done: threading.Event) -> None:
        while not done.wait(BEAT_S):
            with suppress(InfrastructureError):  # a store that is back in time has lost us nothing
                self.objects.put(lease, b"")
