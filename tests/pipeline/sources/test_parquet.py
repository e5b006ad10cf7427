"""Parquet: cut between row groups, checked against its own claims and checksums."""

from __future__ import annotations

import datetime
import pickle
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sourced import blocks, listed, rows, written

from pipeline import sources
from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.sources import limits, parquet


def stored(folder: Path, table: pa.Table, **settings: Any) -> Path:
    """The table as a Parquet file."""
    path = folder / "t.parquet"
    pq.write_table(table, path, **settings)
    return path


def test_types_are_kept(tmp_path: Path) -> None:
    """The file describes itself; its own NaN, nulls and categories come through."""
    table = pa.table(
        {
            "a": [1, None],
            "b": ["x", "NA"],
            "v": pa.array([[1.0], [2.0]], pa.list_(pa.float32(), 1)),
            "c": pa.array(["p", "q"]).dictionary_encode(),
            "f": [float("inf"), -0.0],
        }
    )
    path = stored(tmp_path, table)
    found = pa.Table.from_batches([it.batch for it in blocks(path)])
    assert found.equals(table)
    assert sources.names(listed(path), Data(uri="")) == ["a", "b", "v", "c", "f"]


def test_row_groups_are_dealt_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours together up to a unit; the rows of each piece are known, and are the whole's in order."""
    table = pa.table({"a": np.random.default_rng(0).random(600_000)})
    path = stored(tmp_path, table, row_group_size=50_000, use_dictionary=False)
    data = Data(uri="", unit_mb=1)
    cut = sources.cut(listed(path), data)
    assert [(it.start, it.stop, it.first, it.rows) for it in cut.pieces] == [
        (at, at + 3, at * 50_000, 150_000) for at in (0, 3, 6, 9)
    ]
    assert cut.rows == 600_000
    assert sum(it.bytes for it in cut.pieces) == pytest.approx(path.stat().st_size, abs=4)
    found = [block.batch for piece in cut.pieces for block in sources.blocks(piece, data)]
    assert pa.Table.from_batches(found).equals(table)


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    """By its whole name: no column beneath it, nor one that begins like it."""
    table = pa.table({"a": [{"b": 1}], "a.b": [2], "c": [3], "a.b.c": [4]})
    path = stored(tmp_path, table)
    types = {"a.b": pa.int64(), "z": pa.int64()}
    assert rows(path, types=types) == [{"a.b": 2}]
    assert rows(path, types={"a": pa.int64()}) == [{"a": {"b": 1}}]
    assert rows(path, types={"z": pa.int64()}) == table.to_pylist()


def test_wide_rows_come_in_smaller_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that none takes much memory."""
    monkeypatch.setattr(parquet, "BATCH_BYTES", 1 << 20)
    table = pa.table({"v": pa.FixedSizeListArray.from_arrays(np.arange(200_000.0), 1000)})
    path = stored(tmp_path, table, use_dictionary=False, compression="none")
    sizes = [block.batch.nbytes for block in blocks(path)]
    assert len(sizes) == 2
    assert max(sizes) < 1.1 * (1 << 20)


def test_a_file_without_rows_has_no_pieces(tmp_path: Path) -> None:
    """It has columns, though."""
    path = stored(tmp_path, pa.table({"a": pa.array([], pa.int64())}))
    cut = sources.cut(listed(path), Data(uri=""))
    assert (cut.rows, cut.pieces, sources.names(listed(path), Data(uri=""))) == (0, (), ["a"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PAR1 or not", "cannot be read: Parquet magic bytes not found in footer"),
        (b"", "cannot be read: it holds no bytes\n  cure: write it again"),
        (b"PARE\x00\x00\x00\x00PARE", "is encrypted Parquet, not Parquet: it begins with b'PARE'"),
        (b"a,b\n1,2\n", "cannot be read: Parquet magic bytes not found in footer"),
        (b"\x1f\x8b\x08\0", "is gzip, not Parquet: it begins with b'\\x1f\\x8b\\x08\\x00'\n  cure: rename it"),
    ],
)
def test_what_is_no_parquet_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    """With the reason, on one line."""
    with pytest.raises(DataError) as caught:
        rows(written(tmp_path, content, "t.parquet"))
    assert str(caught.value).startswith(f"t.parquet: {reason}"), caught.value


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    """Cut anywhere, it is a DataError."""
    content = stored(tmp_path, pa.table({"a": list(range(5000))})).read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        with pytest.raises(DataError, match=r"cut.parquet: cannot be read: "):
            rows(written(tmp_path, content[: int(len(content) * share)], "cut.parquet"))


def test_a_flipped_byte_in_a_page_with_checksum_is_noticed(tmp_path: Path) -> None:
    """Checksums are verified wherever the writer left them."""
    table = pa.table({"a": [float(i) for i in range(5000)]})
    path = stored(tmp_path, table, write_page_checksum=True, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    with pytest.raises(DataError, match=r"t.parquet: cannot be read: .*CRC"):
        rows(written(tmp_path, bytes(content), "t.parquet"))


def test_a_piece_that_claims_other_rows_than_it_has_is_refused(tmp_path: Path) -> None:
    """What the footer says is compared with what is read."""
    file = listed(stored(tmp_path, pa.table({"a": [1, 2, 3]})))
    with pytest.raises(DataError, match=r"t.parquet: 3 rows read, 4 expected\n  cure: the file lies about them"):
        list(sources.blocks(sources.Piece(file=file, stop=1, rows=4), Data(uri="")))


def test_more_rows_than_so_few_bytes_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are refused before any is read, unless there are few."""
    path = stored(tmp_path, pa.table({"a": pa.array(np.zeros(1 << 20, np.int8))}))
    assert sources.cut(listed(path), Data(uri="")).rows == 1 << 20
    monkeypatch.setattr(limits, "SMALL", 1000)
    with pytest.raises(DataError, match=r"bytes become 1,048,576 at least\n  cure: a bomb, or raise data.max_ratio"):
        sources.cut(listed(path), Data(uri="", max_ratio=10))


def test_too_many_columns(tmp_path: Path) -> None:
    """Are refused by the footer alone."""
    path = stored(tmp_path, pa.table({f"c{i}": [1] for i in range(11)}))
    with pytest.raises(DataError, match=r"t.parquet: has 11 columns\n  cure: data.max_columns is 10"):
        rows(path, max_columns=10)


def test_names_that_clash(tmp_path: Path) -> None:
    """Are refused, as no contract could tell them apart; and so is a table of no columns."""
    path = stored(tmp_path, pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "A"]))
    with pytest.raises(DataError, match="columns 'a' and 'A' differ only in case"):
        rows(path)
    with pytest.raises(DataError, match=r"t.parquet: has no columns"):
        rows(stored(tmp_path, pa.table({})))


def test_pickled_extension_types_are_not_loaded(tmp_path: Path) -> None:
    """A type that is not registered is what it is stored as; its pickle stays closed."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (exec, ("raise SystemExit('unpickled')",))

    field = pa.field(
        "a",
        pa.int64(),
        metadata={
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickle.dumps(Bomb()),
        },
    )
    path = stored(tmp_path, pa.table([pa.array([1, 2])], schema=pa.schema([field])))
    (block,) = blocks(path)
    assert block.batch.schema.types == [pa.int64()]


def test_int96_is_a_timestamp_of_any_year(tmp_path: Path) -> None:
    """In microseconds: nanoseconds would wrap in 2262."""
    moment = datetime.datetime(3000, 1, 1)
    path = stored(
        tmp_path, pa.table({"t": pa.array([moment], pa.timestamp("us"))}), use_deprecated_int96_timestamps=True
    )
    assert rows(path) == [{"t": moment}]


@pytest.mark.parametrize("seed", range(5))
def test_duckdb_reads_and_writes_the_same(tmp_path: Path, seed: int) -> None:
    """Random tables: what DuckDB writes we read as it does."""
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 3000))
    missing = random.random(n) < 0.2
    source = pa.table(  # noqa: F841, DuckDB finds it by its name
        {
            "i": pa.array(random.integers(-(2**63), 2**63 - 1, n), mask=missing),
            "f": pa.array(random.normal(size=n).astype(np.float32), mask=missing[::-1]),
            "b": random.random(n) < 0.5,
            "s": pa.array(random.choice(["", "é", "a,b", "日本"], n), mask=missing),
            "d": pa.array(random.integers(0, 20_000, n).astype(np.int32), pa.date32()),
            "l": [list(range(it)) for it in random.integers(0, 4, n)],
        }
    )
    path = tmp_path / "t.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT * FROM source) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 2048)")
        theirs = connection.execute(f"SELECT * FROM '{path}'").fetchall()
    assert [tuple(row.values()) for row in rows(path)] == theirs
