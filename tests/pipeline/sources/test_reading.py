"""What holds for every format: digests, partition keys, limits, and errors that name the file."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather
from servers import Bucket
from sourced import blocks, listed, rows, written

from pipeline import sources
from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.sources import stores
from pipeline.sources.formats import FORMATS

DATA = Data(uri="")
AS_HERE = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def every_format(folder: Path) -> list[Path]:
    """The rows 0 and 1 of a column `values`."""
    table = pa.table({"values": [0, 1]})
    pq.write_table(table, folder / "t.parquet")
    feather.write_feather(table, str(folder / "t.feather"))
    with pa.ipc.new_stream(str(folder / "t.arrows"), table.schema) as writer:
        writer.write_table(table)
    np.save(folder / "t.npy", np.arange(2))
    np.savez(folder / "t.npz", values=np.arange(2))
    texts = {"t.csv": "values\n0\n1\n", "t.tsv": "values\n0\n1\n", "t.jsonl": '{"values": 0}\n{"values": 1}\n'}
    packed = written(folder, gzip.compress(texts["t.csv"].encode()), "t.csv.gz")
    return [packed, *(written(folder, text, name) for name, text in texts.items()), *folder.glob("t.[pfan]*")]


def test_every_format_is_digested_and_read(tmp_path: Path) -> None:
    """The digest is of the file's bytes; with types, the cells are of them."""
    paths = every_format(tmp_path)
    assert len(paths) == 9
    for path in paths:
        assert sources.cut(listed(path), DATA).sha256 == hashlib.sha256(path.read_bytes()).hexdigest(), path
        assert rows(path, types={"values": pa.int64()}) == [{"values": 0}, {"values": 1}], path
        assert sources.names(listed(path), DATA) == ["values"], path


def test_every_format_is_read_from_a_store(tmp_path: Path, bucket: Bucket) -> None:
    """As it is from a disk: any part of a file, without the rest."""
    for path in every_format(tmp_path):
        bucket.put_raw(path.name, path.read_bytes())  # `put` would pack what is named .gz
        file = stores.described(stores.place(bucket.uri(path.name)), name=path.name)
        (piece,) = sources.cut(file, DATA).pieces
        (block,) = sources.blocks(piece, DATA, types={"values": pa.int64()})
        assert block.batch.to_pylist() == [{"values": 0}, {"values": 1}], path


def test_partition_keys_are_columns_of_text(tmp_path: Path) -> None:
    """Of every format; if they are wanted; and not if the file has one of that name."""
    for path in every_format(tmp_path):
        file = replace(listed(path), keys=(("year", "2024"), ("é", "")))
        (piece,) = sources.cut(file, DATA).pieces
        (block,) = sources.blocks(piece, DATA)
        assert block.batch.schema.names == sources.names(file, DATA) == ["values", "year", "é"], path
        (block,) = sources.blocks(piece, DATA, types={"values": pa.int64(), "year": pa.int64()})
        assert block.batch.to_pylist() == [{"values": 0, "year": "2024"}, {"values": 1, "year": "2024"}], path
        for key, words in (
            ("values", "two columns are named 'values'"),
            ("Values", "columns 'values' and 'Values' differ"),
        ):
            clash = replace(file, keys=((key, "1"),))
            with pytest.raises(DataError, match=words):
                sources.names(clash, DATA)
            with pytest.raises(DataError, match=words):
                list(sources.blocks(replace(piece, file=clash), DATA))


@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.csv", "t.jsonl"])
def test_long_texts_are_refused(tmp_path: Path, name: str) -> None:
    """Of every format that has them, in categories too."""
    long = ["short", "x" * 101]
    table = pa.table({"a": pa.array(long).dictionary_encode(), "b": pa.array(long, pa.large_binary())})
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(table, path)
    elif name.endswith("feather"):
        feather.write_feather(table, str(path))
    else:
        written(tmp_path, f"a\n{long[1]}\n" if name.endswith("csv") else f'{{"a": "{long[1]}"}}\n', name)
    with pytest.raises(
        DataError, match=f"{name}: column 'a' has a cell of 101 bytes\n  cure: data.max_cell_bytes is 100"
    ):
        blocks(path, max_cell_bytes=100)
    assert blocks(path, max_cell_bytes=101)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.xlsx", b"PK", "format not known from the name\n  cure: set data.format; known suffixes: .csv, "),
        ("t", b"a,b\n1,2\n", "format not known from the name"),
        ("t.gz", b"a,b\n1,2\n", "format not known from the name"),
        (
            "t.csv",
            b"PAR1\x15\x04",
            "is Parquet, not CSV: it begins with b'PAR1'\n  cure: rename it, or set data.format",
        ),
        ("t.tsv", b"\x1f\x8b\x08", "is gzip, not TSV: it begins with b'\\x1f\\x8b\\x08'"),
        ("t.jsonl", b"\x28\xb5\x2f\xfd", "is zstd, not JSON lines"),
        ("t.csv", b"PK\x03\x04 a workbook", "is a zip archive or a spreadsheet, not CSV"),
        ("t.csv.gz", b"BZh91AY&SY", "is bz2, not gzip"),
        ("t.npy", b"PK\x03\x04 a workbook", "is a zip archive or a spreadsheet, not numpy"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    """By its first bytes, before they are taken for what they are not."""
    with pytest.raises(DataError) as caught:
        rows(written(tmp_path, content, name))
    assert str(caught.value).startswith(f"{name}: {words}"), caught.value


@pytest.mark.parametrize("header", ["PAR1", "BZhang", "Object", "PK"])
def test_a_header_may_begin_like_another_format(tmp_path: Path, header: str) -> None:
    """Text is told apart by what follows."""
    assert rows(written(tmp_path, f"{header},b\n1,2\n")) == [{header: "1", "b": "2"}]


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """It may be gone, or have changed since it was listed."""
    file = listed(written(tmp_path, "a\n1\n"))
    (piece,) = sources.cut(file, DATA).pieces
    written(tmp_path, "a\n1\n2\n")
    for read in (lambda: list(sources.blocks(piece, DATA)), lambda: sources.cut(file, DATA)):
        with pytest.raises(DataError, match="changed while it was being read"):
            read()


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), suffix=st.sampled_from([*FORMATS, ".csv.gz", ".jsonl.zst", ".tsv.bz2"]))
def test_any_bytes_are_rows_or_an_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    """And the error names the file."""
    path = written(tmp_path, content, f"in{suffix}")
    try:
        sources.names(listed(path), DATA)
        blocks(path)
    except DataError as error:
        assert error.where == path.name  # noqa: PT017


MUTATE = """
import random, sys
from pathlib import Path
from servers import Bucket
from sourced import blocks, listed
from pipeline import sources
from pipeline.config import Data
from pipeline.errors import DataError
chance, outcomes = random.Random(0), []
for source in map(Path, sys.argv[1:]):
    content = source.read_bytes()
    for _ in range(40):
        changed = bytearray(content[:chance.randrange(len(content))] if chance.random() < 0.2 else content)
        for _ in range(chance.choice([0, 1, 1, 4])):
            if changed:
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        path = source.with_name("changed-" + source.name)
        path.write_bytes(changed)
        try:
            sources.names(listed(path), Data(uri=""))
            blocks(path)
            outcomes.append("rows")
        except DataError as error:
            assert error.where == path.name, error
            outcomes.append("refused")
print(outcomes.count("rows") > 0, outcomes.count("refused") > 0, len(outcomes))
"""


def test_damaged_files_are_rows_or_an_error(tmp_path: Path) -> None:
    """Bits flipped and ends cut off: of no format do they end the process."""
    paths = every_format(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-c", MUTATE, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=AS_HERE,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["True", "True", str(40 * len(paths))]


READ_ONE = """
import sys
from pathlib import Path
from servers import Bucket
from sourced import blocks
from pipeline.errors import DataError
for path in map(Path, sys.argv[1:]):
    try:
        print(path.name, "rows", sum(map(len, blocks(path))), flush=True)
    except DataError as error:
        print(path.name, "refused" if path.name in str(error) else "nameless", flush=True)
"""


def test_crafted_parquet_is_rows_or_an_error(shared_data: Path) -> None:
    """Files that broke other readers end as rows or as DataError, and never end the process."""
    paths = sorted((shared_data / "odd/parquet-bad").glob("*.parquet"))
    assert paths
    ended = subprocess.run(
        [sys.executable, "-c", READ_ONE, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=AS_HERE,
    )
    outcomes = [line.split()[:2] for line in ended.stdout.splitlines()]
    assert ended.returncode == 0, f"after {outcomes[-1:]}: {ended.stderr}"
    assert [name for name, _ in outcomes] == [it.name for it in paths]
    assert {outcome for _, outcome in outcomes} <= {"rows", "refused"}, outcomes
