"""Arrow IPC: files and streams, packed or not, and never trusted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, ipc
from sourced import blocks, listed, rows, written

from pipeline import sources
from pipeline.config import Data
from pipeline.errors import DataError

TABLE = pa.table(
    {
        "a": [1, None, 3],
        "b": ["x", "NA", ""],
        "v": pa.array([[1.0], [2.0], [3.0]], pa.list_(pa.float32(), 1)),
        "c": pa.array(["p", "q", "p"]).dictionary_encode(),
    }
)


def stored(folder: Path, name: str, table: pa.Table = TABLE, *, batch_rows: int = 2, codec: str | None = None) -> Path:
    """The table as a file, or as a stream if it is named so."""
    new = ipc.new_stream if name.endswith("arrows") else ipc.new_file
    with new(str(folder / name), table.schema, options=ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return folder / name


@pytest.mark.parametrize("name", ["t.arrow", "t.ipc", "t.feather", "t.arrows", "stream.arrow.arrows"])
@pytest.mark.parametrize("codec", [None, "lz4", "zstd"])
def test_types_are_kept(tmp_path: Path, name: str, codec: str | None) -> None:
    """The file describes itself."""
    path = stored(tmp_path, name, codec=codec)
    assert pa.Table.from_batches([it.batch for it in blocks(path)]).equals(TABLE)
    assert sources.names(listed(path), Data(uri="")) == ["a", "b", "v", "c"]


def test_feather_is_ipc(tmp_path: Path) -> None:
    """As it is written by default."""
    feather.write_feather(TABLE, str(tmp_path / "t.feather"))
    assert rows(tmp_path / "t.feather") == TABLE.to_pylist()


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    """By name; all of it if none of that is there."""
    for name in ("t.arrow", "t.arrows"):
        path = stored(tmp_path, name)
        assert rows(path, types={"c": pa.string(), "z": pa.int8()}) == TABLE.select(["c"]).to_pylist()
        assert rows(path, types={"z": pa.int8()}) == TABLE.to_pylist()


def test_batches_are_dealt_out(tmp_path: Path) -> None:
    """A file's, neighbours together up to a unit; a stream is one piece, and its rows are not known."""
    table = pa.table({"a": np.arange(300_000.0)})
    data = Data(uri="", unit_mb=1)
    cut = sources.cut(listed(stored(tmp_path, "t.arrow", table, batch_rows=50_000)), data)
    assert [(it.start, it.stop, it.first, it.rows) for it in cut.pieces] == [
        (0, 3, 0, 150_000),
        (3, 6, 150_000, 150_000),
    ]
    found = [list(sources.blocks(piece, data)) for piece in cut.pieces]
    assert pa.Table.from_batches([block.batch for some in found for block in some]).equals(table)
    cut = sources.cut(listed(stored(tmp_path, "t.arrows", table)), data)
    assert (cut.rows, [(it.start, it.stop, it.rows) for it in cut.pieces]) == (None, [(0, None, None)])


def test_large_batches_come_in_parts(tmp_path: Path) -> None:
    """So that what follows works on a bounded number of rows."""
    path = stored(tmp_path, "t.arrow", pa.table({"a": range(150_000)}), batch_rows=150_000)
    assert [len(it) for it in blocks(path)] == [65_536, 65_536, 18_928]


def test_a_file_without_rows_has_no_pieces(tmp_path: Path) -> None:
    """With batches or without."""
    for table in (TABLE.slice(0, 0), TABLE.schema.empty_table()):
        assert sources.cut(listed(stored(tmp_path, "t.arrow", table)), Data(uri="")).pieces == ()


def test_offsets_that_lead_astray_are_found(tmp_path: Path) -> None:
    """Every batch is validated, as following them would end the process."""
    stored(tmp_path, "t.arrow", pa.table({"a": ["x" * 16]}))
    content = (tmp_path / "t.arrow").read_bytes()
    at = content.rindex(b"\0\0\0\0\x10\0\0\0", 0, content.index(b"x" * 16))
    mended = content[: at + 4] + b"\xff\xff\xff\x7f" + content[at + 8 :]
    with pytest.raises(DataError, match=r"t.arrow: cannot be read: .*offset"):
        rows(written(tmp_path, mended, "t.arrow"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"ARROW1 or not", "cannot be read: "),
        (b"ARROW1\0\0", "cannot be read: "),
        (b"", "cannot be read: "),
        (b"a,b\n", "cannot be read: "),
        (b"PAR1\x15", "is Parquet, not Arrow IPC: it begins with b'PAR1'\n  cure: rename it, or set data.format"),
    ],
)
def test_what_is_no_ipc_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    """With the reason, on one line."""
    with pytest.raises(DataError) as caught:
        rows(written(tmp_path, content, "t.arrow"))
    assert str(caught.value).startswith(f"t.arrow: {reason}"), caught.value
