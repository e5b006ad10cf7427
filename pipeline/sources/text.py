"""The text of a file as UTF-8, a window at a time: as it lies there, or unpacked, or decoded."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Final

import numpy as np
import pyarrow as pa

from pipeline.config import Data
from pipeline.errors import ConfigError, DataError
from pipeline.sources.file import File
from pipeline.sources.limits import check_ratio

COMPRESSED: Final = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
WINDOW_BYTES: Final = 8 << 20
BOM: Final = codecs.BOM_UTF8
Read = Callable[[int], pa.Buffer]
"""So many bytes, or fewer; none at the end."""


class Text:
    """Text that is read once, from its beginning to its end, with a look ahead. A byte-order mark is left out."""

    def __init__(self, read: Read, file: File) -> None:
        self.file = file
        self.at = 0
        """Bytes of the whole text before what `peek` shows."""
        self._read, self._held = read, pa.py_buffer(b"")
        if self.peek(len(BOM)).to_pybytes() == BOM:
            self.advance(len(BOM))

    def peek(self, size: int) -> pa.Buffer:
        """The next bytes; fewer only at the end."""
        while self._held.size < size and (more := self._read(size - self._held.size)).size:
            self._held = pa.py_buffer(b"".join([self._held, more])) if self._held.size else more
        return self._held.slice(0, min(size, self._held.size))

    def advance(self, count: int) -> None:
        """Go on by so many of the bytes that were shown."""
        self._held = self._held.slice(count)
        self.at += count


class Slice:
    """The same of bytes that lie in a file as they are, from `start` on; nothing is copied but what is read."""

    def __init__(self, source: pa.NativeFile, file: File, *, start: int = 0, stop: int | None = None) -> None:
        self.file, self.at, self.source = file, start, source
        self.stop = file.bytes if stop is None else stop
        if start == 0 and self.peek(len(BOM)).to_pybytes() == BOM:
            self.advance(len(BOM))

    def peek(self, size: int) -> pa.Buffer:
        """The next bytes; fewer only at the end."""
        self.source.seek(self.at)
        return self.source.read_buffer(min(size, self.stop - self.at))

    def advance(self, count: int) -> None:
        """Go on by so many of the bytes that were shown."""
        self.at += count


def compression(file: File) -> str | None:
    """The codec that the name's last suffix stands for."""
    return COMPRESSED.get(PurePosixPath(file.name).suffix.lower())


def is_plain(file: File, data: Data) -> bool:
    """Whether the file's bytes are UTF-8 text as they are, so that any part of them can be read alone.

    Raises ConfigError for an encoding that is not one of text.
    """
    try:
        "".encode(data.encoding)
    except (LookupError, UnicodeError) as error:
        cure = "utf-8, utf-16, latin-1 or another that Python knows"
        raise ConfigError(f"encoding = {data.encoding!r} is not known", "data", cure) from error
    return compression(file) is None and codecs.lookup(data.encoding).name in ("utf-8", "utf-8-sig")


def text(source: pa.NativeFile, file: File, data: Data) -> Text | Slice:
    """The whole text of an open file."""
    source.seek(0)
    if is_plain(file, data):
        return Slice(source, file)
    read: Read = source.read_buffer
    if codec := compression(file):
        read = _unpacked(pa.CompressedInputStream(source, codec), file, data)
    if codecs.lookup(data.encoding).name not in ("utf-8", "utf-8-sig"):
        read = _decoded(read, file, data.encoding)
    return Text(read, file)


def check_utf8(window: pa.Buffer, at: int, file: File) -> None:
    """Raise DataError, naming the byte, unless it is UTF-8."""
    offsets = pa.py_buffer(np.array([0, window.size], dtype=np.int32))
    try:
        pa.StringArray.from_buffers(1, offsets, window).validate(full=True)
    except pa.ArrowInvalid:
        _decode(codecs.getincrementaldecoder("utf-8")(), window, at, file, "UTF-8", final=True)


def _unpacked(stream: pa.NativeFile, file: File, data: Data) -> Read:
    unpacked = 0

    def read(size: int) -> pa.Buffer:
        nonlocal unpacked
        found = stream.read_buffer(min(size, WINDOW_BYTES))
        unpacked += found.size
        check_ratio(unpacked, file, data)
        return found

    return read


def _decoded(raw: Read, file: File, encoding: str) -> Read:
    """A decoder may hold bytes back, so it is asked until it says something or the end is reached."""
    at, decoder = 0, codecs.getincrementaldecoder(encoding)()

    def read(size: int) -> pa.Buffer:
        nonlocal at
        decoded = ""
        while not decoded:
            some = raw(size)
            decoded = _decode(decoder, some, at, file, encoding, final=not some.size)
            at += some.size
            if not some.size:
                break
        return pa.py_buffer(decoded.encode())

    return read


def _decode(
    decoder: codecs.IncrementalDecoder, some: pa.Buffer, at: int, file: File, encoding: str, *, final: bool
) -> str:
    held = len(decoder.getstate()[0])
    try:
        return decoder.decode(some.to_pybytes(), final)
    except UnicodeError as error:
        place, byte = getattr(error, "start", 0), getattr(error, "object", b"")
        shown = f" 0x{byte[place]:02x}" if place < len(byte) else ""
        reason = f"byte {at - held + place:,}{shown} is not {encoding}"
        raise DataError(reason, file.name, "set data.encoding, or mend the file") from error
