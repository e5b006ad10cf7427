"""How a table's text is to be read: guessed once, by looking at it, so that it can be declared."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import sources
from pipeline.config import Data
from pipeline.sources import File
from pipeline.sources.formats import TEXT
from pipeline.sources.stores import opened
from pipeline.sources.text import text

SNIFFED_BYTES: Final = 1 << 20
NULL_TOKENS: Final = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "-")
DELIMITERS: Final = ",;\t|"
BOMS: Final = ("\xff\xfe", "\xfe\xff")
"""Of UTF-16, as latin-1 has them."""


def sniffed(data: Data, *, workspace: Path | None = None) -> Data:
    """The settings, with what the text shows: the first file how it is written, all files what stands for missing."""
    files = sources.files(data, workspace=workspace or Path("workspace").absolute())
    kind = sources.format_of(files[0], data)
    if kind in TEXT and _head(files[0], replace(data, encoding="latin-1"), size=4).startswith(BOMS):
        data = replace(data, encoding="utf-16")
    if kind not in ("csv", "tsv"):
        return data
    head = _head(files[0], data, size=SNIFFED_BYTES)
    if "\n" in head:
        head = head[: head.rindex("\n") + 1]
    delimiter = "\t" if kind == "tsv" else _delimiter(head)
    csv.field_size_limit(max(csv.field_size_limit(), SNIFFED_BYTES))
    rows = [row for row in csv.reader(head.splitlines(keepends=True), delimiter=delimiter) if row]
    if not rows:
        return data
    trim = any(cell != cell.strip() for row in rows for cell in row)
    header = _has_header(rows)
    names = () if header else tuple(f"column_{number}" for number in range(1, len(rows[0]) + 1))
    data = replace(data, delimiter=delimiter, header=header, names=names, trim=trim)
    return replace(data, null_tokens=_null_tokens(data, files))


def _head(file: File, data: Data, *, size: int) -> str:
    """Bytes that are not of the encoding are left to the reader to name."""
    with opened(file) as source:
        return str(text(source, file, data).peek(size).to_pybytes(), errors="replace")


def _delimiter(head: str) -> str:
    try:
        return csv.Sniffer().sniff(head[:65_536], DELIMITERS).delimiter
    except csv.Error:
        return ","


def _has_header(rows: list[list[str]]) -> bool:
    """Names are no numbers. One may be empty, as of pandas' index; two that are alike, the reader refuses."""
    return any(cell.strip() for cell in rows[0]) and not any(map(_is_number, rows[0]))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _null_tokens(data: Data, files: Sequence[File]) -> tuple[str, ...]:
    """The usual words for `missing` that occur as whole cells."""
    plain, tokens, seen = replace(data, null_tokens=()), pa.array(NULL_TOKENS), set[str]()
    pieces = [piece for file in files for piece in sources.cut(file, plain).pieces]
    for block in (block for piece in pieces for block in sources.blocks(piece, plain)):
        for column in (it for it in block.batch.columns if pa.types.is_string(it.type)):
            seen.update(pc.unique(column.filter(pc.is_in(column, tokens))).to_pylist())
    return tuple(token for token in NULL_TOKENS if token in seen or token == "")
