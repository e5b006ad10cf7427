"""numpy arrays: `.npy`, whose column is named `values`, and `.npz`, of a column for each array. Never a pickle.

The first axis counts the rows. What further axes there are make a vector of each row, in C order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from math import prod
from tokenize import TokenError
from typing import IO, Any, Final
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipExtFile, ZipFile, ZipInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.lib import format as npy

from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.sources.digest import digested
from pipeline.sources.file import Block, Cut, File, Piece
from pipeline.sources.limits import check_names, check_ratio

COLUMN: Final = "values"
SUFFIX: Final = ".npy"
BLOCK_BYTES: Final = 8 << 20
KINDS: Final = "biufUSMm"
"""Booleans, integers, floats, text, bytes, times and durations; not complex numbers, records or objects."""
ENCRYPTED: Final = 1


@dataclass(frozen=True, kw_only=True)
class Array:
    """An array of an open file."""

    name: str
    content: IO[bytes]
    offset: int
    """Of its first byte in the content."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    by_column: bool
    """Whether it lies in Fortran order."""

    @property
    def width(self) -> int:
        """Elements of a row."""
        return prod(self.shape[1:])

    @property
    def bytes(self) -> int:
        """Of all its rows."""
        return self.shape[0] * self.width * self.dtype.itemsize

    def rows(self, start: int, count: int) -> pa.Array:
        """Some neighbouring rows. Raises EOFError if they are not there."""
        if self.by_column and len(self.shape) > 1:
            columns = [self._elements(at * self.shape[0] + start, count) for at in range(self.width)]
            elements = np.concatenate(columns).reshape((count, *self.shape[1:]), order="F").ravel()
        else:
            elements = self._elements(start * self.width, count * self.width)
        flat = pa.array(elements.astype(self.dtype.newbyteorder("="), copy=False))
        return flat if len(self.shape) == 1 else pa.FixedSizeListArray.from_arrays(flat, self.width)

    def _elements(self, start: int, count: int) -> npt.NDArray[Any]:
        at, size = self.offset + start * self.dtype.itemsize, count * self.dtype.itemsize
        if self.content.tell() != at:
            self.content.seek(at)
        found = self.content.read(size)
        if len(found) < size:
            raise EOFError(f"array {self.name!r} ends early")
        return np.frombuffer(found, self.dtype)


def names(source: pa.NativeFile, file: File, data: Data) -> list[str]:
    """The arrays."""
    with _arrays(source, file, data) as arrays:
        return [it.name for it in arrays]


def cut(source: pa.NativeFile, file: File, data: Data) -> Cut:
    """Pieces of about `data.unit_mb`; an archive is one."""
    with _arrays(source, file, data) as arrays:
        rows, alone = arrays[0].shape[0], arrays[0].content is source
    step = max(1, (data.unit_mb << 20) * rows // file.bytes) if alone else max(1, rows)
    pieces = []
    for start in range(0, rows, step):
        count = min(step, rows - start)
        share = file.bytes * count // rows
        pieces.append(Piece(file=file, start=start, stop=start + count, first=start, rows=count, bytes=share))
    return Cut(sha256=digested(source), rows=rows, pieces=tuple(pieces))


def blocks(
    source: pa.NativeFile, piece: Piece, data: Data, *, types: Mapping[str, pa.DataType] | None
) -> Iterator[Block]:
    """The rows of a piece; with `types`, only the arrays that these name."""
    with _arrays(source, piece.file, data) as arrays:
        wanted = [it for it in arrays if types is None or it.name in types] or arrays
        stop = arrays[0].shape[0] if piece.stop is None else piece.stop
        step = max(1, BLOCK_BYTES * arrays[0].shape[0] // max(1, sum(it.bytes for it in wanted)))
        for start in range(piece.start, stop, step):
            count = min(step, stop - start)
            yield Block(pa.RecordBatch.from_pydict({it.name: it.rows(start, count) for it in wanted}))


@contextmanager
def _arrays(source: pa.NativeFile, file: File, data: Data) -> Iterator[list[Array]]:
    """The arrays of an open file, of one length. Raises DataError for what is not a column."""
    source.seek(0)
    with ExitStack() as stack:
        if source.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            source.seek(0)
            arrays, sizes = [_array(COLUMN, source, file)], [file.bytes]
        else:
            archive = stack.enter_context(ZipFile(source))
            names = [_name(it, file) for it in archive.infolist()]
            check_names(names, file, data)
            members = [stack.enter_context(archive.open(it)) for it in archive.infolist()]
            arrays = [_array(name, member, file) for name, member in zip(names, members, strict=True)]
            sizes = [it.file_size for it in archive.infolist()]
        check_ratio(sum(it.bytes for it in arrays), file, data)
        for it, size in zip(arrays, sizes, strict=True):
            if (more := size - it.offset - it.bytes) > 0:
                reason = f"array {it.name!r} ends {more:,} bytes before its file"
                raise DataError(reason, file.name, "save each array to a file of its own")
            if it.shape[0] != arrays[0].shape[0]:
                lengths = f"{arrays[0].shape[0]:,} and {it.shape[0]:,} rows"
                raise DataError(f"arrays {arrays[0].name!r} and {it.name!r} have {lengths}", file.name, "mend the file")
        yield [_seekable(it) for it in arrays]


def _name(member: ZipInfo, file: File) -> str:
    packed = member.compress_type in (ZIP_STORED, ZIP_DEFLATED) and not member.flag_bits & ENCRYPTED
    if not member.filename.endswith(SUFFIX) or not packed:
        raise DataError(f"member {member.filename!r} is not an array as numpy stores it", file.name, "use np.savez")
    return member.filename.removesuffix(SUFFIX)


def _array(name: str, content: IO[bytes], file: File) -> Array:
    """Reads the header alone."""
    try:
        version = npy.read_magic(content)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_column, dtype = header(content)
    except (ValueError, TypeError, SyntaxError, TokenError) as error:
        raise DataError(f"array {name!r} has a broken header", file.name, "save it again") from error
    if dtype.hasobject or dtype.kind not in KINDS:
        reason = f"array {name!r} holds {'Python objects' if dtype.hasobject else dtype.name}, which are never read"
        raise DataError(reason, file.name, "save it as numbers, booleans or text")
    if not shape or min(shape) < 0 or 0 in shape[1:]:
        raise DataError(f"array {name!r} of shape {shape} has no rows", file.name, "the first axis counts the rows")
    return Array(name=name, content=content, offset=content.tell(), dtype=dtype, shape=shape, by_column=by_column)


def _seekable(it: Array) -> Array:
    """Fortran order is read by leaps, which an archive is slow at: there, such an array is read at once."""
    if it.by_column and isinstance(it.content, ZipExtFile):
        return replace(it, content=BytesIO(it.content.read()), offset=0)
    return it
