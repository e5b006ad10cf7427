"""Where rows come from: formats, folders, and files that are broken."""

from __future__ import annotations

import bz2
import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from pipeline import sources
from pipeline.config import Data
from pipeline.errors import DataError

Rows = list[dict[str, Any]]


def read(path: Path, **settings: Any) -> Rows:
    """All rows of a file."""
    return [row for block in sources.blocks(path, Data(uri=str(path), **settings)) for row in block.batch.to_pylist()]


def ragged(path: Path, **settings: Any) -> list[tuple[int, str]]:
    """The lines handed back."""
    return [line for block in sources.blocks(path, Data(uri=str(path), **settings)) for line in block.ragged]


def text(folder: Path, content: str | bytes, name: str = "in.csv") -> Path:
    """A file of this content, byte for byte."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


AB = [{"a": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("a,b\n1,2\n", AB),
        ("a,b\n1,2", AB),
        ("a,b\n1,2\n\n", AB),
        ("a,b\r\n1,2\r\n", AB),
        ("a,b\r1,2\r", AB),
        ("\ufeffa,b\n1,2\n", AB),
        ('\ufeff"a","b"\n"1","2"\n', AB),
        ('"a","b"\n"1","2"\n', AB),
        ('a,b\n"x, y","say ""hi"""\n', [{"a": "x, y", "b": 'say "hi"'}]),
        ('a,b\n"two\nlines","two\r\nmore"\n', [{"a": "two\nlines", "b": "two\r\nmore"}]),
        ("a,b\n1,\n,2\n", [{"a": "1", "b": None}, {"a": None, "b": "2"}]),
        ("a,b\nNA,null\n", [{"a": "NA", "b": "null"}]),
        ("a,b\n nan ,0x1F\n", [{"a": " nan ", "b": "0x1F"}]),
        ("a,b\n007,1e5\n", [{"a": "007", "b": "1e5"}]),
        ("日本,a b\n😀,é\n", [{"日本": "😀", "a b": "é"}]),
        ("a,\n1,2\n", [{"a": "1", "": "2"}]),
    ],
)
def test_csv_cells_are_text_as_written(tmp_path: Path, content: str, rows: Rows) -> None:
    """Quotes, newlines, CRLF, CR, a BOM, a blank last line; nothing is typed, only an empty cell is null."""
    assert read(text(tmp_path, content)) == rows


def test_a_name_may_hold_a_newline(tmp_path: Path) -> None:
    """The header is a row of cells like any other, not a line."""
    assert read(text(tmp_path, '"a\nb",c\n1,2\n')) == [{"a\nb": "1", "c": "2"}]


@pytest.mark.parametrize("blank", ["\n", "\r\n\r\n"])
def test_blank_lines_before_the_header_are_nothing(tmp_path: Path, blank: str) -> None:
    """The names are the first line with cells, and no row of data."""
    assert read(text(tmp_path, f"{blank}a,b\n1,2\n")) == AB


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("in.csv.gz", gzip.compress),
        ("in.csv.bz2", bz2.compress),
        ("IN.CSV", bytes),
        ("in.data", bytes),
        ("in.txt", bytes),
    ],
)
def test_the_suffix_says_how(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    """Compression and other common names."""
    assert read(text(tmp_path, pack(b"a,b\n1,2\n"), name)) == AB


def test_delimiters(tmp_path: Path) -> None:
    """Tabs by name or by format, anything else by declaration."""
    assert read(text(tmp_path, "a\tb\n1\t2\n", "in.tsv")) == AB
    assert read(text(tmp_path, gzip.compress(b"a\tb\n1\t2\n"), "in.tsv.gz")) == AB
    assert read(text(tmp_path, "a\tb\n1\t2\n", "in.xyz"), format="tsv") == AB
    assert read(text(tmp_path, "a;b\n1;2\n"), delimiter=";") == AB
    assert read(text(tmp_path, "a;b\n1,5;2\n"), delimiter=";") == [{"a": "1,5", "b": "2"}]


def test_names_are_declared_where_there_is_no_header(tmp_path: Path) -> None:
    """The first line is a row; without names the answer says who writes them."""
    path = text(tmp_path, "1,2\n3,4\n")
    assert read(path, header=False, names=("a", "b")) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    with pytest.raises(DataError, match=r"data.header = false needs data.names\n  cure: `latentpipe init"):
        read(path, header=False)


def test_blanks_are_trimmed_on_demand(tmp_path: Path) -> None:
    """Around names and cells, and before a cell is compared with the null tokens."""
    path = text(tmp_path, "a , b\n 1 ,  ?\n")
    assert read(path) == [{"a ": " 1 ", " b": "  ?"}]
    assert read(path, trim=True, null_tokens=("?",)) == [{"a": "1", "b": None}]


def test_only_declared_tokens_are_null(tmp_path: Path) -> None:
    """`NA` is text until it is declared, and then the empty cell is not null unless it is declared, too."""
    path = text(tmp_path, "a,b\nNA,\nna,NAN\n")
    assert read(path) == [{"a": "NA", "b": None}, {"a": "na", "b": "NAN"}]
    assert read(path, null_tokens=("NA",)) == [{"a": None, "b": ""}, {"a": "na", "b": "NAN"}]
    assert read(path, null_tokens=()) == [{"a": "NA", "b": ""}, {"a": "na", "b": "NAN"}]


def test_ragged_rows_are_handed_back(tmp_path: Path) -> None:
    """Too few or too many cells: their position among the file's rows and their text; the others are read."""
    path = text(tmp_path, "a,b\n1,2\n3\n4,5\n6,7,8\n")
    assert read(path) == [{"a": "1", "b": "2"}, {"a": "4", "b": "5"}]
    assert ragged(path) == [(1, "3"), (3, "6,7,8")]
    path = text(tmp_path, "1\n2,3,4\n", "all.csv")
    assert ragged(path, header=False, names=("a", "b")) == [(0, "1"), (1, "2,3,4")]
    assert ragged(text(tmp_path, "a,b\n3\n", "one.csv")) == [(0, "3")]


def test_a_table_larger_than_a_block(tmp_path: Path) -> None:
    """Rows are the same across the edges of blocks, quoted newlines included."""
    cells = [f'{i},"line one of {i}\nline two of {i} {"x" * 60}"' for i in range(120_000)]
    path = text(tmp_path, "n,t\n" + "\n".join(cells))
    assert path.stat().st_size > sources.BLOCK_BYTES
    found = list(sources.blocks(path, Data(uri=str(path))))
    assert len(found) > 1
    numbers = [it for block in found for it in block.batch.column("n").to_pylist()]
    assert numbers == [str(i) for i in range(120_000)]
    assert found[-1].batch.column("t")[-1].as_py().startswith("line one of 119999\nline two")


def test_other_formats_keep_their_types(tmp_path: Path) -> None:
    """Parquet and Arrow IPC describe themselves."""
    table = pa.table({"a": [1, None], "b": ["x", "NA"], "v": pa.array([[1.0], [2.0]], pa.list_(pa.float32(), 1))})
    pq.write_table(table, tmp_path / "t.parquet")
    feather.write_feather(table, str(tmp_path / "t.feather"), compression="uncompressed")
    with pa.ipc.new_file(str(tmp_path / "t.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("t.parquet", "t.feather", "t.arrow"):
        path = tmp_path / name
        found = pa.Table.from_batches([it.batch for it in sources.blocks(path, Data(uri=name))])
        assert found.equals(table.cast(found.schema)), name
        assert found.column("a").type == pa.int64(), name


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"", "the file is empty (0 bytes)"),
        ("t.xlsx", b"PK", "format not known from the name\n  cure: set data.format; known suffixes: .csv, "),
        ("t", b"a,b\n1,2\n", "format not known from the name"),
        ("t.gz", b"a,b\n1,2\n", "format not known from the name"),
        ("t.csv", b"a,a\n1,2\n", "two columns are named 'a'\n  cure: rename one of them"),
        ("t.csv", b"a,b\n\xe9,2\n", "cannot be read: "),
        ("t.csv", b"\xe9,b\n1,2\n", "cannot be read: "),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "cannot be read: "),
        ("t.csv.gz", b"a,b\n1,2\n", "cannot be read: "),
        ("t.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 999)[:-20], "cannot be read: "),
        ("t.parquet", b"PAR1 or not", "cannot be read: Parquet magic bytes not found"),
        ("t.arrow", b"ARROW1 or not", "cannot be read: "),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    """One error, DataError, with the path and the reason."""
    path = text(tmp_path, content, name)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: {words}"), caught.value


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    """Cut anywhere, it is a DataError."""
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"a": list(range(5000))}), whole)
    content = whole.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        path = text(tmp_path, content[: int(len(content) * share)], "cut.parquet")
        with pytest.raises(DataError, match="cannot be read"):
            read(path)


def test_a_flipped_byte_in_a_page_with_checksum_is_noticed(tmp_path: Path) -> None:
    """Checksums are verified wherever the writer left them."""
    path = tmp_path / "t.parquet"
    table = pa.table({"a": [float(i) for i in range(5000)]})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read: .*CRC"):
        read(path)


def test_folders_and_globs(tmp_path: Path) -> None:
    """All files below a folder or of a glob, sorted; hidden and `_` files are not data."""
    for name in ("b.csv", "a.csv", "sub/c.csv", "[odd].csv", ".hidden.csv", "_SUCCESS", "_manifest.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        text(tmp_path, "x\n1\n", name)

    def names(uri: str) -> list[str]:
        found = sources.files(Data(uri=f"{tmp_path}/{uri}"), workspace=tmp_path)
        return [str(it.relative_to(tmp_path)) for it in found]

    assert names("") == ["[odd].csv", "a.csv", "b.csv", "sub/c.csv"]
    assert names("*.csv") == ["[odd].csv", "a.csv", "b.csv"]
    assert names("**/c*") == ["sub/c.csv"]
    assert names("[odd].csv") == ["[odd].csv"], "a file's own name comes before its reading as a glob"
    assert names("_SUCCESS") == ["_SUCCESS"], "a file that is named is meant"
    (tmp_path / "empty").mkdir()
    for uri in ("none.csv", "x*.parquet", "empty"):
        with pytest.raises(DataError, match=r"no such file, folder or match\n  cure: check data.uri"):
            names(uri)


def test_files_in_hidden_and_underscore_folders_are_not_data(tmp_path: Path) -> None:
    """What another tool is still writing, or has set aside, is not part of the table."""
    for name in ("a.csv", ".ipynb_checkpoints/a.csv", "_temporary/0/part.csv", "_quarantine/part-0.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text(tmp_path, "x\n1\n", name)
    found = sources.files(Data(uri=str(tmp_path)), workspace=tmp_path)
    assert [str(it.relative_to(tmp_path)) for it in found] == ["a.csv"]


def test_the_bundled_example_is_written_once(tmp_path: Path) -> None:
    """1,797 images of 64 pixels; another name is refused."""
    (path,) = sources.files(Data(uri="sklearn:digits"), workspace=tmp_path)
    before = path.stat().st_mtime_ns
    assert sources.files(Data(uri="sklearn:digits"), workspace=tmp_path) == [path]
    assert path.stat().st_mtime_ns == before
    assert pq.read_metadata(path).num_rows == 1797
    with pytest.raises(DataError, match="no example table 'iris'"):
        sources.files(Data(uri="sklearn:iris"), workspace=tmp_path)


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    """Same bytes, same sha256, wherever they lie."""
    one, two, other = (text(tmp_path, content, f"{i}.csv") for i, content in enumerate(("a\n1\n", "a\n1\n", "a\n2\n")))
    assert sources.digest(one)["sha256"] == sources.digest(two)["sha256"] != sources.digest(other)["sha256"]
    assert sources.digest(one)["bytes"] == 4


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
        found = [{k: v.replace("\r\n", "\n") if v else v for k, v in row.items()} for row in read(path)]
        assert found == CSV_SPECTRUM[path.name], path.name


READ_ONE = """
import sys
from pathlib import Path
from pipeline import sources
from pipeline.config import Data
from pipeline.errors import DataError
for path in map(Path, sys.argv[1:]):
    try:
        rows = sum(len(block.batch) for block in sources.blocks(path, Data(uri=str(path))))
        print(path.name, "rows", rows, flush=True)
    except DataError as error:
        print(path.name, "refused" if str(path) in str(error) else "nameless", flush=True)
"""


def test_crafted_parquet_is_rows_or_an_error(shared_data: Path) -> None:
    """Files that broke other readers end as rows or as DataError, and never end the process."""
    paths = sorted((shared_data / "odd/parquet-bad").glob("*.parquet"))
    assert paths
    ended = subprocess.run(
        [sys.executable, "-c", READ_ONE, *map(str, paths)], capture_output=True, text=True, timeout=120, check=False
    )
    outcomes = [line.split()[:2] for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, f"after {outcomes[-1:]}: {ended.stderr}"
    assert [name for name, _ in outcomes] == [it.name for it in paths]
    assert {outcome for _, outcome in outcomes} <= {"rows", "refused"}, outcomes
