"""The bad-input table, end to end: bytes, sizes and places. Every row of a file, or none of any, and nothing run."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outcomes import (
    NUMBER,
    Case,
    Content,
    arrow,
    aside,
    column,
    kept,
    parameters,
    parquet,
    passthrough,
    refused,
)
from pyarrow.parquet import encryption

CHECK = "check data.format and the file"
RAGGED = "wrong number of cells"
TEXT = {**column(NUMBER), "c": passthrough("string")}
ROWS = pa.table({"id": range(1000), "x": [it / 3 for it in range(1000)]})
WHOLE, CSV = parquet(ROWS), "id,x\n" + "".join(f"{it},{it / 3}\n" for it in range(1000))
PACKED = gzip.compress(CSV.encode())
STREAM = arrow(ROWS, stream=True)
EMPTY = ROWS.slice(0, 0)
NUMBERS: list[tuple[Any, ...]] = list(zip(*ROWS.to_pydict().values(), strict=True))


def unreadable(content: Content, name: str, reason: str) -> Case:
    """The refusal of a file that no reader reads."""
    return refused({name: content}, f"{name}: cannot be read: {reason}\n  cure: {CHECK}")


def flipped(content: bytes, at: int) -> bytes:
    """One bit is another."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


class Keys(encryption.KmsClient):  # type: ignore[misc]
    """Keeps no key: wraps it in hexadecimal digits."""

    def __init__(self, settings: Any) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, name: str) -> str:
        """As pyarrow asks."""
        return key.hex()

    def unwrap_key(self, wrapped: str, name: str) -> bytes:
        """As pyarrow asks."""
        return bytes.fromhex(wrapped)


def encrypted(path: Path, *, plaintext_footer: bool = False) -> None:
    """A Parquet file of which one column, and perhaps the footer, is encrypted."""
    settings = encryption.EncryptionConfiguration("key", column_keys={"key": ["x"]}, plaintext_footer=plaintext_footer)
    factory = encryption.CryptoFactory(Keys)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), settings)
    with pq.ParquetWriter(path, ROWS.schema, encryption_properties=properties) as writer:
        writer.write_table(ROWS)


def lying(rows: int, *at: int) -> bytes:
    """A Parquet file of 1,000 rows whose footer counts others, in some places; 0: the file's, 5: the row group's."""
    content = bytearray(parquet(ROWS, compression="none", use_dictionary=False))
    footer = len(content) - 8 - struct.unpack("<i", content[-8:-4])[0]
    true, false = (bytes([2 * it & 0x7F | 0x80, 2 * it >> 7]) for it in (1000, rows))  # Thrift's zigzag
    places = [it for it in range(footer, len(content) - 8) if content[it : it + 2] == true]
    for it in at:
        content[places[it] : places[it] + 2] = false
    return bytes(content)


def lying_extremes() -> bytes:
    """A Parquet file whose footer tells other largest values."""
    content = parquet(ROWS, compression="none", use_dictionary=False)
    footer = len(content) - 8 - struct.unpack("<i", content[-8:-4])[0]
    told = content[footer:].replace(struct.pack("<q", 999), struct.pack("<q", 5))
    return content[:footer] + told.replace(struct.pack("<d", 333.0), struct.pack("<d", -5.0))


def npy(shape: tuple[int, ...], *, elements: int) -> bytes:
    """An array that says to be of a shape."""
    sink = io.BytesIO()
    np.lib.format.write_array_header_1_0(sink, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return sink.getvalue() + bytes(8 * elements)


def npz(**members: bytes) -> bytes:
    """An archive of arrays."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return sink.getvalue()


def row(number: int) -> str:
    """A file of one row."""
    return f"id,x\n{number},1\n"


CONVERT = "set data.encoding, or mend the file"
WIDE = {f"c{it}": [1.0] for it in range(10_000)}
TOO_WIDE = "has 10,000 columns\n  cure: data.max_columns is 4,096: raise it, or leave some out"
TOO_LONG = (
    "column 'c' has a cell of 2,000,000 bytes\n  cure: data.max_cell_bytes is 1,048,576: raise it, or shorten the cell"
)
BOMB = "\n  cure: a bomb, or raise data.max_ratio, which is 1,000"
GZIP_BOMB = 7 * gzip.compress(b"\n" * 10_000_000)
NPZ_BOMB = npz(x=npy((10_000_000,), elements=1))
LONG = "a" * 2_000_000
NO_ROWS = "no rows\n  cure: check data.uri and [columns]"
NO_FILE = "{}: no file in this folder, or none that is not hidden\n  cure: check data.uri"
NO_COLUMNS = f"has no columns\n  cure: {CHECK}"
LIES = "\n  cure: the file lies about them: write it again"
BYTES: dict[str, dict[str, Case]] = {
    "truncated, zero-byte, not Parquet, encrypted, corrupt": {
        "truncated Parquet": unreadable(
            WHOLE[: len(WHOLE) // 2],
            "t.parquet",
            "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file",
        ),
        "truncated stream": unreadable(
            STREAM[:9000],
            "t.arrows",
            "Expected to be able to read 4800 bytes for message body, got 3640",
        ),
        "stream without its end": refused(
            {"t.arrows": STREAM[:-8]},
            "t.arrows: the stream has no end mark: it may be cut short\n  cure: write it again",
        ),
        "two streams in one": refused(
            {"t.arrows": 2 * STREAM},
            f"t.arrows: the stream ends {len(STREAM):,} bytes before the file\n  cure: write each to a file of its own",
        ),
        "truncated gzip": unreadable(PACKED[:-40], "t.csv.gz", "Truncated compressed stream"),
        "truncated npy": refused(
            {"t.npy": npy((3,), elements=2)},
            f"t.npy: cannot be read: array 'values' ends early\n  cure: {CHECK}",
            {"values": NUMBER},
        ),
        "truncated JSON line": aside(
            {"t.jsonl": '{"id":1,"x":2}\n{"id":2,"x'},
            [(None, 1, "", "not an object, or with a key twice", '{"id":2,"x')],
            [(1, 2.0)],
        ),
        **{
            f"zero-byte {name}": refused(
                {name: b""}, f"{name}: cannot be read: it holds no bytes\n  cure: write it again"
            )
            for name in ("t.parquet", "t.arrow", "t.npy", "t.npz")
        },
        "not Parquet": unreadable(
            CSV,
            "t.parquet",
            "Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file",
        ),
        "Parquet as CSV": refused(
            {"t.csv": WHOLE},
            "t.csv: is Parquet, not CSV: it begins with b'PAR1'\n  cure: rename it, or set data.format",
        ),
        "gzip as CSV": refused(
            {"t.csv": PACKED[:4] + PACKED[4:]},
            r"t.csv: is gzip, not CSV: it begins with b'\x1f\x8b\x08\x00'" + "\n  cure: rename it, or set data.format",
        ),
        "unknown suffix": refused(
            {"t.xyz": CSV},
            "t.xyz: format not known from the name\n  cure: set data.format; known suffixes: .csv, .data, .txt, .tsv, "
            ".tab, .jsonl, .ndjson, .parquet, .arrow, .arrows, .feather, .ipc, .npy, .npz",
        ),
        "encrypted": refused(
            {"t.parquet": encrypted},
            "t.parquet: is encrypted Parquet, not Parquet: it begins with b'PARE'\n"
            "  cure: decrypt it: no keys are taken",
        ),
        "encrypted column": unreadable(
            lambda path: encrypted(path, plaintext_footer=True),
            "t.parquet",
            "Cannot decrypt ColumnMetadata. FileDecryption is not setup correctly",
        ),
        "corrupt page": unreadable(
            flipped(WHOLE, 300),
            "t.parquet",
            "could not verify page integrity, CRC checksum verification failed for page_ordinal 0",
        ),
        "corrupt gzip": unreadable(
            flipped(PACKED, len(PACKED) - 8), "t.csv.gz", "zlib inflate failed: incorrect data check"
        ),
        "noise": unreadable(
            random.Random(0).randbytes(4000), "t.arrow", "Invalid IPC stream: negative continuation token"
        ),
        "pickle in npy": refused(
            {"t.npy": lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True)},
            "t.npy: array 'values' holds Python objects, which are never read\n"
            "  cure: save it as numbers, booleans or text",
        ),
    },
    "CSV": {
        "quotes": kept(
            'id,x,c\n1,1,"a, ""b"""\n2,2,a"b\n3,3,"a"b\n',
            [(1, 1.0, 'a, "b"'), (2, 2.0, 'a"b'), (3, 3.0, "ab")],
            TEXT,
        ),
        "newlines in cells": kept('id,x,c\n1,1,"a\nb\r\nc"\n2,2,z\n', [(1, 1.0, "a\nb\r\nc"), (2, 2.0, "z")], TEXT),
        "CRLF and CR": kept("id,x\r\n1,1\n2,2\r3,3\r\n\r\n\n4,4", [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]),
        "byte-order mark": kept(b"\xef\xbb\xbf" + b'"id",x\n1,1\n', [(1, 1.0)]),
        "UTF-16": refused(
            "id,x\n1,1\n".encode("utf-16"),
            r"t.csv: is UTF-16, not CSV: it begins with b'\xff\xfei\x00'" + '\n  cure: set data.encoding = "utf-16"',
        ),
        "UTF-16, declared": kept("id,x,c\n1,1,é\n".encode("utf-16"), [(1, 1.0, "é")], TEXT, encoding="utf-16"),
        "latin-1": refused(
            "id,x,c\n1,1,café\n".encode("latin-1"), f"t.csv: byte 14 0xe9 is not UTF-8\n  cure: {CONVERT}", TEXT
        ),
        "latin-1, declared": kept("id,x,c\n1,1,é\n".encode("latin-1"), [(1, 1.0, "é")], TEXT, encoding="latin-1"),
        "latin-1 in JSON lines": refused(
            {"t.jsonl": b'{"id":1,"x":1,"c":"\xe9"}\n'}, f"t.jsonl: byte 19 0xe9 is not UTF-8\n  cure: {CONVERT}", TEXT
        ),
        "NUL": aside(b"id,x,c\n1,1,a\0b\n2,2\0,z\n", [("2", 1, "x", "not float64", "2\0")], [(1, 1.0, "a\0b")], TEXT),
        "ragged rows": aside(
            "id,x\n1\n2,2,a\n3,3\n# a comment\n",
            [(None, 0, "", RAGGED, "1"), (None, 1, "", RAGGED, "2,2,a"), (None, 3, "", RAGGED, "# a comment")],
            [(3, 3.0)],
        ),
        "comment before the header": refused(
            "# a, comment\nid,x\n1,1\n",
            "t.csv: column 'id' is missing; found: # a,  comment\n  cure: rename it under [columns]",
        ),
        "no header": refused("1,1\n2,2\n", "t.csv: two columns are named '1'\n  cure: rename one of them"),
        "no header, declared": kept("1,1\n2,2\n", [(1, 1.0), (2, 2.0)], header=False, names=["id", "x"]),
        "another delimiter": refused(
            "id;x\n1;1\n",
            "t.csv: column 'id' is missing; found: id;x\n  cure: did you mean 'id;x'? rename it under [columns]",
        ),
        "decimal comma": aside(
            "id;x\n1;1,5\n2;2.5\n", [("1", 0, "x", "not float64", "1,5")], [(2, 2.5)], delimiter=";"
        ),
        "decimal comma, declared": aside(
            "id;x\n1;1,5\n2;2.5\n", [("2", 1, "x", "not float64", "2.5")], [(1, 1.5)], delimiter=";", decimal=","
        ),
        "thousands, units, padding": aside(
            'id,x\n1,"1,234.5"\n2,1_000\n3,$5\n4,5%\n5, 5\n6,1e3\n',
            [
                (str(at + 1), at, "x", "not float64", cell)
                for at, cell in enumerate(["1,234.5", "1_000", "$5", "5%", " 5"])
            ],
            [(6, 1000.0)],
        ),
        "unclosed quote": refused(
            'id,x,c\n1,1,"abc\n2,2,d\n', "t.csv: the quote at byte 11 is never closed\n  cure: close it", TEXT
        ),
    },
    "bombs, huge strings, 10,000 columns": {
        "gzip": refused(
            {"t.csv.gz": GZIP_BOMB}, f"t.csv.gz: {len(GZIP_BOMB):,} bytes become 68,288,512 at least{BOMB}"
        ),
        "npz": refused({"t.npz": NPZ_BOMB}, f"t.npz: {len(NPZ_BOMB):,} bytes become 80,000,000 at least{BOMB}"),
        "npy of a shape": refused(
            {"t.npy": npy((10**15,), elements=0)}, "t.npy: 128 bytes become 8,000,000,000,000,000 at least" + BOMB
        ),
        "cell of CSV": refused(f"id,x,c\n1,1,{LONG}\n", f"t.csv: {TOO_LONG}", TEXT),
        "cell of Parquet": refused(pa.table({"id": [1], "x": [1.0], "c": [LONG]}), f"t.parquet: {TOO_LONG}", TEXT),
        "cell of a dictionary": refused(
            pa.table({"id": [1], "x": [1.0], "c": pa.array([LONG]).dictionary_encode()}), f"t.parquet: {TOO_LONG}", TEXT
        ),
        "cell of JSON lines": refused({"t.jsonl": f'{{"id":1,"x":1,"c":"{LONG}"}}\n'}, f"t.jsonl: {TOO_LONG}", TEXT),
        "cell, allowed": kept(f"id,x,c\n1,1,{LONG}\n", [(1, 1.0, LONG)], TEXT, max_cell_bytes=3_000_000),
        "line without an end": refused(
            "id,x,c\n1,1," + 10 * LONG,
            "t.csv: no record ends within 8,388,608 bytes after byte 7\n"
            "  cure: close the quote, or raise data.max_cell_bytes",
            TEXT,
        ),
        "deep JSON": aside(
            {"t.jsonl": '{"id":1,"x":' + "[" * 50_000 + "]" * 50_000 + '}\n{"id":2,"x":1}\n'},
            [(None, 0, "", "not an object, or with a key twice", '{"id":1,"x":' + "[" * 48)],
            [(2, 1.0)],
        ),
        "columns of CSV": refused(",".join(WIDE) + "\n", f"t.csv: {TOO_WIDE}"),
        "columns of Arrow": refused({"t.arrow": arrow(pa.table(WIDE))}, f"t.arrow: {TOO_WIDE}"),
        "columns of JSON lines": refused(
            {"t.jsonl": "{" + ",".join(f'"{it}":1' for it in WIDE) + "}\n"}, f"t.jsonl: {TOO_WIDE}"
        ),
    },
    "empty directory, 0 rows": {
        "empty directory": refused({"sub": Path.mkdir}, NO_FILE),
        "only hidden files": refused({"_a.csv": row(1), ".b.csv": row(2)}, NO_FILE),
        "no rows": refused({"t.csv": ""}, f"t.csv: {NO_ROWS}"),
        "header only": refused("id,x\n", f"t.csv: {NO_ROWS}"),
        "Parquet of no rows": refused(EMPTY, f"t.parquet: {NO_ROWS}"),
        "among others": kept(
            {
                "a.csv": "id,x\n",
                "b.csv": "",
                "c.csv": CSV,
                "d.csv": "\n\n",
                "e.parquet": EMPTY,
                "f.csv": "other,names\n",
            },
            NUMBERS,
            notices=(
                "5 files without rows: a.csv, b.csv, d.csv ...",
                "columns that nobody declared, ignored: 'names', 'other'",
            ),
        ),
    },
    "0-column file": {
        "Parquet": refused(pa.table({}), f"t.parquet: {NO_COLUMNS}"),
        "Parquet of three rows": refused(
            pa.Table.from_batches([pa.RecordBatch.from_struct_array(pa.array([{}] * 3, pa.struct([])))]),
            f"t.parquet: {NO_COLUMNS}",
        ),
        "Arrow": refused({"t.arrow": arrow(pa.table({}))}, f"t.arrow: {NO_COLUMNS}"),
        "npy": refused(
            {"t.npy": npy((3, 0), elements=0)},
            "t.npy: array 'values' of shape (3, 0) has no rows\n  cure: the first axis counts the rows",
        ),
    },
    "Parquet metadata lying": {
        **{
            f"{rows:,} rows in {where}": refused({"t.parquet": lying(rows, at)}, f"t.parquet: {told}{LIES}")
            for rows, at, where, told in [
                (999, 5, "a group", "has 1,000 rows, and its row groups have 999"),
                (1001, 5, "a group", "has 1,000 rows, and its row groups have 1,001"),
                (999, 0, "the file", "has 999 rows, and its row groups have 1,000"),
            ]
        },
        "more rows, agreed": refused(
            {"t.parquet": lying(1001, 0, 5)},
            "t.parquet: 1,000 rows read, 1,001 expected\n  cure: the file lies about them: mend it",
        ),
        "extremes": kept({"t.parquet": lying_extremes()}, NUMBERS),
        "fewer rows in npy": refused(
            {"t.npy": npy((3,), elements=100)},
            "t.npy: array 'values' ends 776 bytes before its file\n  cure: save each array to a file of its own",
        ),
    },
}


@pytest.mark.parametrize("case", parameters(BYTES))
def test_bad_bytes(tmp_path: Path, case: Case) -> None:
    """End as the table says: a file is read to its last row, or named with the reason."""
    case.judge(tmp_path)
