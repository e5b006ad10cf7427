"""Which format a file is of: as declared, or by its name; and what its first bytes say to that."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import Final

import pyarrow as pa

from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.sources.file import File
from pipeline.sources.text import COMPRESSED, compression, is_plain

FORMATS: Final = {
    ".csv": "csv",
    ".data": "csv",
    ".txt": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "ipc",
    ".arrows": "ipc",
    ".feather": "ipc",
    ".ipc": "ipc",
    ".npy": "npy",
    ".npz": "npy",
}
TEXT: Final = ("csv", "tsv", "jsonl")
NAMES: Final = {
    "csv": "CSV",
    "tsv": "TSV",
    "jsonl": "JSON lines",
    "parquet": "Parquet",
    "ipc": "Arrow IPC",
    "npy": "numpy",
}
MAGICS: Final = {
    rb"PAR1[^\t\r\n -~]": "Parquet",
    rb"PARE": "encrypted Parquet",
    rb"ARROW1\0": "Arrow IPC",
    rb"\x93NUMPY|PK\x03\x04.{26}.{1,250}\.npy": "numpy",
    rb"PK\x03\x04": "a zip archive or a spreadsheet",
    rb"\x1f\x8b": "gzip",
    rb"\x28\xb5\x2f\xfd": "zstd",
    rb"BZh[1-9]1AY&SY": "bz2",
    rb"SQLite format 3\0": "SQLite",
    rb"\x89HDF": "HDF5",
    rb"Obj\x01": "Avro",
    rb"%PDF-": "PDF",
    rb"\xff\xfe|\xfe\xff": "UTF-16",
}
"""How files begin that are not what they are taken for. Text may begin with `PAR1`, but not go on like Parquet."""
CURES: Final = {"UTF-16": 'set data.encoding = "utf-16"', "encrypted Parquet": "decrypt it: no keys are taken"}
HEAD_BYTES: Final = 300


def format_of(file: File, data: Data) -> str:
    """The declared format, or the one of the name's suffix. Raises DataError if that says none."""
    if data.format != "auto":
        return data.format
    suffixes = [it.lower() for it in PurePosixPath(file.name).suffixes if it.lower() not in COMPRESSED]
    if not suffixes or suffixes[-1] not in FORMATS:
        known = ", ".join(FORMATS)
        raise DataError("format not known from the name", file.name, f"set data.format; known suffixes: {known}")
    return FORMATS[suffixes[-1]]


def check_magic(source: pa.NativeFile, file: File, data: Data) -> None:
    """Raise DataError for an open file that is evidently of another format than it is read as."""
    head, read_as = source.read_at(HEAD_BYTES, 0), format_of(file, data)
    if not head and read_as not in TEXT:
        raise DataError("cannot be read: it holds no bytes", file.name, "write it again")
    found = next((name for magic, name in MAGICS.items() if re.match(magic, head, re.DOTALL)), None)
    expected = NAMES[read_as]
    if read_as in TEXT:
        expected = compression(file) or expected
        if found == "UTF-16":
            found = found if is_plain(file, data) else None
    if found not in (None, expected):
        cure = CURES.get(found or "", "rename it, or set data.format")
        raise DataError(f"is {found}, not {expected}: it begins with {head[:4]!r}", file.name, cure)


def untyped(file: File, data: Data, names: Sequence[str]) -> Collection[str]:
    """The columns, of these, that a file gives no type of its own: all if it is text, and its partition keys."""
    return names if format_of(file, data) in TEXT else [key for key, _ in file.keys]
