"""Where records end: as pyarrow sees it, in any text whatever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import csv
from sourced import Rows, listed, written

from pipeline import sources
from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.sources import windows
from pipeline.sources.quoting import Scan

PARTS = [
    "a",
    "b",
    "1",
    '"',
    '"',
    ",",
    "\n",
    "\n",
    "\r\n",
    "\r",
    '""',
    " ",
    "é",
    '","',
    '",',
    '"\n',
    '\n"',
    "\ufeff",
    "\0",
]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=120).map("".join)
NAMES = ("x", "y")


def at_once(content: bytes) -> tuple[Rows, list[tuple[int, str]]]:
    """All rows and all ragged ones, by pyarrow alone."""
    ragged = []

    def set_aside(row: csv.InvalidRow) -> str:
        ragged.append((row.number - 1, row.text))
        return "skip"

    if not content.strip(b"\r\n"):
        return [], []
    table = csv.read_csv(
        pa.BufferReader(b"\n" + content),  # the line keeps pyarrow from leaving out a second BOM
        csv.ReadOptions(column_names=NAMES, use_threads=False, block_size=1 << 20),
        csv.ParseOptions(newlines_in_values=True, invalid_row_handler=set_aside),
        csv.ConvertOptions(column_types=dict.fromkeys(NAMES, pa.string()), null_values=[""], strings_can_be_null=True),
    )
    return table.to_pylist(), ragged


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS, unit=st.sampled_from([1, 7, 64]), most=st.sampled_from([16, 100]))
@example(text='a,"b"c"\n,"""\n"', unit=1, most=100)
@example(text='1,"x\r\n\r\n"\r\n\r\n2,y', unit=1, most=100)
def test_pieces_and_windows_add_up_to_the_whole(tmp_path: Path, text: str, unit: int, most: int) -> None:
    """However small they are: the rows of the whole, numbered, and as many in each piece as it says; or an error."""
    content = text.encode()
    path, data = written(tmp_path, content), Data(uri="", header=False, names=NAMES, unit_mb=unit, max_cell_bytes=most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "MB", 1)
        patch.setattr(windows, "WINDOW_BYTES", 1)
        try:
            cut = sources.cut(listed(path), data)
            found = [(piece, list(sources.blocks(piece, data))) for piece in cut.pieces]
        except DataError as error:
            if "is never closed" in error.what or "no record ends within" in error.what:
                return
            raise
    content = content.removeprefix("\ufeff".encode())
    rows, ragged = at_once(content)
    assert [row for _, blocks in found for block in blocks for row in block.batch.to_pylist()] == rows
    assert [
        ((piece.first or 0) + at, line) for piece, blocks in found for block in blocks for at, line in block.ragged
    ] == ragged
    assert [piece.rows for piece, _ in found] == [sum(map(len, blocks)) for _, blocks in found]
    assert cut.rows == len(rows) + len(ragged)


@given(text=TEXTS)
def test_an_open_quote_is_found(text: str) -> None:
    """Exactly where a line end behind the text would not be one; and then it stands where it says."""
    content = text.encode()
    found = Scan(np.frombuffer(content, np.uint8), delimiter=",", whole=True)
    before, behind = ([len(it) for it in at_once(content + end)] for end in (b"", b"\n,,"))
    if found.unclosed >= 0:
        assert content[found.unclosed : found.unclosed + 1] == b'"'
        assert Scan(np.frombuffer(content[: found.unclosed], np.uint8), delimiter=",", whole=True).unclosed < 0
        assert sum(before) == sum(behind)
    else:
        assert sum(before) + 1 == sum(behind)


@pytest.mark.parametrize(
    ("text", "padded"),
    [
        ("a,b\n", False),
        ('"a b","c, d"\n"e\n f",g h\n', False),
        (" a,b\n", True),
        ("a ,b\n", True),
        ("a,\tb\n", True),
        ("a,b ", True),
        ("a,b \r\n", True),
        ('a," b"\n', True),
        ('a,"b "\n', True),
        ('a,"" 5\n', True),
    ],
)
def test_blanks_around_cells_are_seen(text: str, padded: bool) -> None:
    """At the edge of a cell, quoted or not; not in its middle."""
    assert Scan(np.frombuffer(text.encode(), np.uint8), delimiter=",", whole=True).padded == padded
