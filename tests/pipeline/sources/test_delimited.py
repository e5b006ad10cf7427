"""CSV and TSV: cells as they are written, whatever the file looks like."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sourced import Rows, blocks, listed, ragged, rows, written

from pipeline import sources
from pipeline.config import Data
from pipeline.errors import ConfigError, DataError
from pipeline.sources.parser import SHOWN

AB = [{"a": "1", "b": "2"}]


def zstd(content: bytes) -> bytes:
    """As the zstd command does."""
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(content)
    return bytes(packed.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1,2\n", AB),
        ("a,b\n1,2", AB),
        ("a,b\n1,2\n\n", AB),
        ("a,b\r\n1,2\r\n", AB),
        ("a,b\r1,2\r", AB),
        ("\n\r\n\na,b\n\n\r\n1,2\n", AB),
        ("\ufeffa,b\n1,2\n", AB),
        ('\ufeff"a","b"\n"1","2"\n', AB),
        ('"a","b"\n"1","2"\n', AB),
        ('a,b\n"x, y","say ""hi"""\n', [{"a": "x, y", "b": 'say "hi"'}]),
        ('a,b\n"two\nlines","two\r\nmore"\n', [{"a": "two\nlines", "b": "two\r\nmore"}]),
        ('a,b\n5" pipe,"p"q\n', [{"a": '5" pipe', "b": "pq"}]),
        ("a,b\n1,\n,2\n", [{"a": "1", "b": None}, {"a": None, "b": "2"}]),
        ("a,b\nNA,null\n", [{"a": "NA", "b": "null"}]),
        ("a,b\n nan ,0x1F\n", [{"a": " nan ", "b": "0x1F"}]),
        ("a,b\n007,1e5\n", [{"a": "007", "b": "1e5"}]),
        ("a,b\n\0,x\0y\n", [{"a": "\0", "b": "x\0y"}]),
        ("a,b\n# 1,2\n", [{"a": "# 1", "b": "2"}]),
        ("a,b\n\ufeff1,2\n", [{"a": "\ufeff1", "b": "2"}]),
        ("日本,a b\n😀,é\n", [{"日本": "😀", "a b": "é"}]),
        ("a,\n1,2\n", [{"a": "1", "": "2"}]),
        ('"a\nb",c\n1,2\n', [{"a\nb": "1", "c": "2"}]),
        ("a\nx\n\n \n", [{"a": "x"}, {"a": " "}]),
        ("a,b\n", []),
        ("a,b", []),
        ("\n\n\r\n", []),
        ("", []),
    ],
)
def test_cells_are_text_as_written(tmp_path: Path, content: str, expected: Rows) -> None:
    """Quotes, line ends, a BOM, blank lines, NUL: nothing is typed, only an empty cell is null."""
    assert rows(written(tmp_path, content)) == expected


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("in.csv.gz", gzip.compress),
        ("in.csv.bz2", bz2.compress),
        ("in.csv.zst", zstd),
        ("IN.CSV", bytes),
        ("in.data", bytes),
        ("in.txt", bytes),
    ],
)
def test_the_suffix_says_how(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    """Compression, in one part or several, and other common names."""
    path = written(tmp_path, pack(b"a,b\n1,2\n") + (pack(b"3,4\n") if name[-1] not in "Vat" else b""), name)
    assert rows(path)[:1] == AB
    assert len(rows(path)) == (1 if name[-1] in "Vat" else 2)


def test_delimiters(tmp_path: Path) -> None:
    """Tabs by name or by format, anything else by declaration."""
    assert rows(written(tmp_path, "a\tb\n1\t2\n", "in.tsv")) == AB
    assert rows(written(tmp_path, gzip.compress(b"a\tb\n1\t2\n"), "in.tsv.gz")) == AB
    assert rows(written(tmp_path, "a\tb\n1\t2\n", "in.xyz"), format="tsv") == AB
    assert rows(written(tmp_path, "a;b\n1;2\n"), delimiter=";") == AB
    assert rows(written(tmp_path, "a;b\n1,5;2\n"), delimiter=";") == [{"a": "1,5", "b": "2"}]
    for wrong in ("§", '"', "\n"):
        with pytest.raises(ConfigError, match="cannot be one\n  cure: one character of ASCII, such as ';'"):
            rows(written(tmp_path, "a§b\n"), delimiter=wrong)


def test_names_are_declared_where_there_is_no_header(tmp_path: Path) -> None:
    """The first line is a row; without names the answer says who writes them."""
    path = written(tmp_path, "\ufeff1,2\n3,4\n")
    assert rows(path, header=False, names=("a", "b")) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert sources.names(listed(path), Data(uri="", header=False, names=("a", "b"))) == ["a", "b"]
    with pytest.raises(DataError, match=r"in.csv: data.header = false needs data.names\n  cure: `latentpipe init"):
        rows(path, header=False)


def test_blanks_are_trimmed_on_demand(tmp_path: Path) -> None:
    """Around names and cells, and before a cell is compared with the null tokens."""
    path = written(tmp_path, "a , b\n 1 ,  ?\n")
    assert rows(path) == [{"a ": " 1 ", " b": "  ?"}]
    assert rows(path, trim=True, null_tokens=("?",)) == [{"a": "1", "b": None}]


def test_only_declared_tokens_are_null(tmp_path: Path) -> None:
    """`NA` is text until it is declared, and then the empty cell is not null unless it is declared, too."""
    path = written(tmp_path, 'a,b\nNA,\nna,NAN\n"NA",""\n')
    assert rows(path) == [{"a": "NA", "b": None}, {"a": "na", "b": "NAN"}, {"a": "NA", "b": None}]
    found = rows(path, null_tokens=("NA",))
    assert found == [{"a": None, "b": ""}, {"a": "na", "b": "NAN"}, {"a": None, "b": ""}]
    assert rows(path, null_tokens=())[0] == {"a": "NA", "b": ""}


def test_ragged_rows_are_set_aside(tmp_path: Path) -> None:
    """Too few or too many cells: their position among the file's rows and their text; the others are read."""
    path = written(tmp_path, f"a,b\n1,2\n\n3\r\n4,5\n6,7,{'8' * 300}\n")
    assert rows(path) == [{"a": "1", "b": "2"}, {"a": "4", "b": "5"}]
    assert ragged(path) == [(1, "3"), (3, ("6,7," + "8" * 300)[:SHOWN])]
    (block,) = blocks(path)
    assert len(block) == 4
    assert block.positions(0).tolist() == [0, 2]
    path = written(tmp_path, "1\n2,3,4\n", "all.csv")
    assert ragged(path, header=False, names=("a", "b")) == [(0, "1"), (1, "2,3,4")]
    assert ragged(written(tmp_path, "a,b\n3\n", "one.csv")) == [(0, "3")]


def test_a_table_larger_than_a_window(tmp_path: Path) -> None:
    """Rows are the same across the edges of windows and pieces, quoted line ends included; their numbers go on."""
    cells = [f'{i},"line one of {i}\nline two of {i} {"x" * 60}"' for i in range(120_000)]
    path = written(tmp_path, "n,t\n" + "\n".join([*cells[:100_000], "ragged", *cells[100_000:]]))
    data = Data(uri=str(path), unit_mb=8)
    first, second = sources.cut(listed(path), data).pieces
    found = [block for piece in (first, second) for block in sources.blocks(piece, data)]
    numbers = [it for block in found for it in block.batch.column("n").to_pylist()]
    assert numbers == [str(i) for i in range(120_000)]
    assert found[-1].batch.column("t")[-1].as_py().startswith("line one of 119999\nline two")
    assert [(second.first or 0) + row for block in found for row, _ in block.ragged] == [100_000]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,a\n1,2\n", "two columns are named 'a'\n  cure: rename one of them"),
        ("a,A\n1,2\n", "columns 'a' and 'A' differ only in case\n  cure: rename one of them"),
        ('a,b\n1,"2\n3,4\n', "the quote at byte 6 is never closed\n  cure: close it"),
        ('a,b\n5" pipe,"x\n', "the quote at byte 12 is never closed"),
        (",".join(map(str, range(4097))), "has 4,097 columns\n  cure: data.max_columns is 4,096"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, content: str, words: str) -> None:
    """Names that clash, too many of them, and a quote that swallows the rest."""
    path = written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        sources.names(listed(path), Data(uri=""))
    assert str(caught.value).startswith(f"in.csv: {words}"), caught.value


@pytest.mark.parametrize(("name", "pack"), [("in.csv", bytes), ("in.csv.gz", gzip.compress)])
def test_an_open_quote_is_not_followed_through_a_huge_file(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    """A record is no longer than a window, so memory is bounded."""
    path = written(tmp_path, pack(b'a,b\n1,2\n3,"4\n' + b"5,6\n" * (9 << 18)), name)
    with pytest.raises(DataError, match=r"no record ends within 8,388,608 bytes after byte 8\n  cure: close the quote"):
        rows(path)


def test_a_cell_longer_than_the_limit_is_refused(tmp_path: Path) -> None:
    """By bytes, not characters; one byte less is taken."""
    path = written(tmp_path, f"a\n{'é' * 50}\n")
    assert rows(path, max_cell_bytes=100) == [{"a": "é" * 50}]
    with pytest.raises(DataError, match=r"column 'a' has a cell of 100 bytes\n  cure: data.max_cell_bytes is 99"):
        rows(path, max_cell_bytes=99)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=6) | st.sampled_from(
    ["", '"', ",", "\n", "\r\n", "NULL", " "]
)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.lists(st.tuples(CELLS, CELLS), max_size=20),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_was_written_is_read(tmp_path: Path, table: list[tuple[str, str]], end: str, quoting: int) -> None:
    """By Python's csv: any text whatever, cell for cell; the empty one is null."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator=end, quoting=quoting).writerows([("a", "b"), *table])
    path = written(tmp_path, buffer.getvalue())
    assert [(row["a"] or "", row["b"] or "") for row in rows(path)] == table
    assert sources.cut(listed(path), Data(uri="")).rows == len(table)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.lists(st.tuples(CELLS, st.integers(), CELLS), min_size=1, max_size=20))
def test_duckdb_reads_the_same(tmp_path: Path, table: list[tuple[str, int, str]]) -> None:
    """What DuckDB writes, it and we read back alike."""
    path = tmp_path / "in.csv"
    columns = {"a": [row[0] for row in table], "b": [row[1] for row in table], "c": [row[2] for row in table]}
    source = pa.table({name: pa.array(map(str, cells)) for name, cells in columns.items()})
    with duckdb.connect() as connection:
        connection.register("source", source)
        connection.execute(f"COPY source TO '{path}' (HEADER, FORCE_QUOTE (a, c))")
        options = "all_varchar = true, header = true, quote = '\"', escape = '\"', delim = ',', strict_mode = false"
        theirs = connection.execute(f"SELECT * FROM read_csv('{path}', {options})").fetchall()
    assert [tuple(row.values()) for row in rows(path)] == theirs


def test_naughty_strings(tmp_path: Path, shared_data: Path) -> None:
    """Text that breaks other tools comes through unchanged."""
    naughty = json.loads((shared_data / "odd/naughty-strings.json").read_text())
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([("text",), *((it,) for it in naughty)])
    assert [row["text"] or "" for row in rows(written(tmp_path, buffer.getvalue()))] == naughty


CSV_SPECTRUM: dict[str, Rows] = {
    "comma_in_quotes.csv": [
        {"first": "John", "last": "Doe", "address": "120 any st.", "city": "Anytown, WW", "zip": "08123"}
    ],
    "empty.csv": [{"a": "1", "b": None, "c": None}, {"a": "2", "b": "3", "c": "4"}],
    "empty_crlf.csv": [{"a": "1", "b": None, "c": None}, {"a": "2", "b": "3", "c": "4"}],
    "escaped_quotes.csv": [{"a": "1", "b": 'ha "ha" ha'}, {"a": "3", "b": "4"}],
    "json.csv": [{"key": "1", "val": '{"type": "Point", "coordinates": [102.0, 0.5]}'}],
    "newlines.csv": [
        {"a": "1", "b": "2", "c": "3"},
        {"a": "Once upon \na time", "b": "5", "c": "6"},
        {"a": "7", "b": "8", "c": "9"},
    ],
    "newlines_crlf.csv": [
        {"a": "1", "b": "2", "c": "3"},
        {"a": "Once upon \na time", "b": "5", "c": "6"},
        {"a": "7", "b": "8", "c": "9"},
    ],
    "quotes_and_newlines.csv": [{"a": "1", "b": 'ha \n"ha" \nha'}, {"a": "3", "b": "4"}],
    "simple.csv": [{"a": "1", "b": "2", "c": "3"}],
    "simple_crlf.csv": [{"a": "1", "b": "2", "c": "3"}],
    "utf8.csv": [{"a": "1", "b": "2", "c": "3"}, {"a": "4", "b": "5", "c": "ʤ"}],
}


def test_csv_spectrum(shared_data: Path) -> None:
    """Every file of the acid test is read as its authors mean it."""
    files = sorted((shared_data / "odd/csv-spectrum").glob("*.csv"))
    assert {it.name for it in files} == set(CSV_SPECTRUM)
    for path in files:
        found = [{k: v.replace("\r\n", "\n") if v else v for k, v in row.items()} for row in rows(path)]
        assert found == CSV_SPECTRUM[path.name], path.name
