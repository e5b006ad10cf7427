"""Text as UTF-8: declared encodings, and bytes that are none."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import pytest
from sourced import listed, rows, written

from pipeline import sources
from pipeline.config import Data
from pipeline.errors import ConfigError, DataError
from pipeline.sources import limits, windows

TEXT = "ä,b\n1,€\n"
ROWS = [{"ä": "1", "b": "€"}]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "UTF8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "iso8859_15"]
)
@pytest.mark.parametrize("packed", [False, True])
def test_encodings_are_declared(tmp_path: Path, encoding: str, packed: bool) -> None:
    """Any that Python knows, packed or not."""
    content = TEXT.encode(encoding)
    path = written(tmp_path, gzip.compress(content) if packed else content, "in.csv.gz" if packed else "in.csv")
    assert rows(path, encoding=encoding) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-be", "utf-32-le"])
def test_a_byte_order_mark_is_no_cell(tmp_path: Path, encoding: str) -> None:
    """Where the encoding does not say that there is one."""
    assert rows(written(tmp_path, f"\ufeff{TEXT}".encode(encoding)), encoding=encoding) == ROWS


def test_characters_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a decoder holds back is not lost, nor counted twice."""
    monkeypatch.setattr(windows, "WINDOW_BYTES", 1)
    cells = ["€" * (1 + i % 7) for i in range(1000)]
    path = written(tmp_path, "\n".join(["x", *cells]).encode("utf-16"))
    assert [row["x"] for row in rows(path, encoding="utf-16", max_cell_bytes=21)] == cells


@pytest.mark.parametrize(
    ("content", "settings", "words"),
    [
        (b"a,b\n\xe9,2\n", {}, "byte 4 0xe9 is not UTF-8\n  cure: set data.encoding, or mend the file"),
        (b"\xe9,b\n1,2\n", {}, "byte 0 0xe9 is not UTF-8"),
        (b"\xef\xbb\xbfa,b\n1,2\n3,4,\xff\n", {}, "byte 15 0xff is not UTF-8"),
        (b"a,b\n1,\xe2\x82\n", {}, "byte 6 0xe2 is not UTF-8"),
        (b"a,b\n\x81,2\n", {"encoding": "cp1252"}, "byte 4 0x81 is not cp1252"),
        (b"a,b\n\xe9,2\n", {"encoding": "ascii"}, "byte 4 0xe9 is not ascii"),
        (
            TEXT.encode("utf-16"),
            {},
            "is UTF-16, not CSV: it begins with b'\\xff\\xfe\\xe4\\x00'\n  cure: set data.encoding = \"utf-16\"",
        ),
        (TEXT.encode("utf-16")[:-1], {"encoding": "utf-16"}, "byte 16 0x0a is not utf-16"),
    ],
)
def test_bytes_that_are_not_of_the_encoding_are_named(
    tmp_path: Path, content: bytes, settings: dict[str, Any], words: str
) -> None:
    """The first of them, by its position."""
    with pytest.raises(DataError) as caught:
        rows(written(tmp_path, content), **settings)
    assert str(caught.value).startswith(f"in.csv: {words}"), caught.value


@pytest.mark.parametrize("encoding", ["klingon", "hex", "undefined"])
def test_an_encoding_that_is_none(tmp_path: Path, encoding: str) -> None:
    """It is the settings that are wrong."""
    with pytest.raises(
        ConfigError, match=f"data: encoding = '{encoding}' is not known\n  cure: utf-8, utf-16, latin-1"
    ):
        rows(written(tmp_path, TEXT), encoding=encoding)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv.gz", b"a,b\n1,2\n", "zlib inflate failed: incorrect header check"),
        ("t.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 999, mtime=0)[:-20], "Truncated compressed stream"),
        ("t.csv.gz", gzip.compress(TEXT.encode(), mtime=0) + b"more", "zlib inflate failed: incorrect header check"),
        ("t.csv.bz2", bz2.compress(TEXT.encode())[:-3], "Truncated compressed stream"),
        ("t.csv.zst", b"a,b\n1,2\n", "ZSTD decompress failed: Unknown frame descriptor"),
    ],
)
def test_a_packed_file_that_is_broken(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    """Cut short, or not packed at all."""
    with pytest.raises(DataError) as caught:
        rows(written(tmp_path, content, name))
    assert str(caught.value) == f"{name}: cannot be read: {reason}\n  cure: check data.format and the file"


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What becomes a thousand times larger, once that is much; a declared ratio lets it through."""
    monkeypatch.setattr(limits, "SMALL", 1 << 20)
    path = written(tmp_path, bz2.compress(b"a\n" + b"1\n" * (1 << 20)), "bomb.csv.bz2")
    packed = path.stat().st_size
    with pytest.raises(DataError) as caught:
        rows(path)
    assert str(caught.value) == (
        f"bomb.csv.bz2: {packed:,} bytes become 2,097,154 at least\n"
        "  cure: a bomb, or raise data.max_ratio, which is 1,000"
    )
    assert len(rows(path, max_ratio=1_000_000)) == 1 << 20


def test_packed_and_recoded_text_is_one_piece(tmp_path: Path) -> None:
    """Whose rows are known when it was read."""
    for name, encoding in (("in.csv.gz", "utf-8"), ("in.csv", "utf-16")):
        content = TEXT.encode(encoding)
        path = written(tmp_path, gzip.compress(content) if name.endswith("gz") else content, name)
        cut = sources.cut(listed(path), Data(uri="", encoding=encoding))
        assert (cut.rows, [(it.start, it.stop, it.first, it.rows) for it in cut.pieces]) == (None, [(0, None, 0, None)])
