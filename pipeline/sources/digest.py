"""The sha256 of a file that is being read."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

import pyarrow as pa

CHUNK_BYTES: Final = 8 << 20


class Digest:
    """Takes the digest in a thread of its own, while the caller looks at the same bytes or reads on."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="digest")
        self._pending: Future[None] | None = None

    def add(self, some: pa.Buffer | bytes) -> None:
        """The next bytes. One chunk waits at most."""
        self._wait()
        self._pending = self._thread.submit(self._sha256.update, some)

    def rest(self, source: pa.NativeFile, *, start: int = 0) -> Self:
        """All bytes of an open file from `start` on."""
        source.seek(start)
        while (some := source.read_buffer(CHUNK_BYTES)).size:
            self.add(some)
        return self

    def hex(self) -> str:
        """Of all bytes so far."""
        self._wait()
        return self._sha256.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()


def digested(source: pa.NativeFile) -> str:
    """The sha256 of an open file."""
    with Digest() as digest:
        return digest.rest(source).hex()
