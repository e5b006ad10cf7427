"""What must become of bad input, as data: the files, what is declared of them, and the rows, quarantine or refusal."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from pipeline import ingest, runfile, snapshots
from pipeline.config import RunConfig
from pipeline.errors import LatentpipeError
from pipeline.intake.taking import CURE, Rejected, describe
from pipeline.records import Ingested

ID = {"type": "int64", "role": "id"}
NUMBER = {"type": "float64", "likelihood": "gaussian"}
Content = str | bytes | pa.Table | Callable[[Path], Any]
"""Text, bytes, a table to be Parquet, or what writes the file."""
Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Files below a folder, and what must become of their rows: published, set aside, or all refused."""

    files: Mapping[str, Content]
    columns: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    rows: list[Row] | None = None
    """All that is published, in the columns' order; None: not looked at."""
    aside: list[Row] = field(default_factory=list)
    """The quarantine: id, file, row, column, rule, value."""
    refused: str = ""
    """The message, `{}` being the folder."""
    notices: tuple[str, ...] | None = None

    def config(self, folder: Path, **data: Any) -> RunConfig:
        """A run over the files."""
        settings = {"uri": str(folder / "in"), **self.data, **data}
        return runfile.parse({"name": "t", "workspace": str(folder / "w"), "data": settings, "columns": self.columns})

    def judge(self, folder: Path) -> None:
        """Assert the outcome, by either policy: a row may be set aside, a refusal stands."""
        for name, content in self.files.items():
            put(folder / "in" / name, content)
        strict = self.config(folder)
        lenient = self.config(folder, on_bad_row="quarantine", quarantine_limit=1.0)
        if self.refused:
            for config in (strict, lenient):
                refuse(config, self.refused.replace("{}", str(folder / "in")))
            return
        if self.aside:
            first = Rejected(**dict(zip(("file", "row", "column", "rule", "value"), self.aside[0][1:], strict=True)))
            refuse(strict, f"{first.file}: {describe(first)}\n  cure: {CURE}")
        record = ingest.ingest(lenient if self.aside else strict)
        kept = published(record)
        assert set_aside(record) == self.aside
        assert record.rows_in == record.rows + record.quarantined == len(kept) + len(self.aside)
        assert self.rows in (None, kept)
        assert self.notices in (None, record.notices)


def _case(files: Content | Mapping[str, Content], columns: Mapping[str, Any] | None, **facts: Any) -> Case:
    if not isinstance(files, Mapping):
        files = {"t.parquet" if isinstance(files, pa.Table) else "t.csv": files}
    return Case(files=files, columns=columns or {"id": ID, "x": NUMBER}, **facts)


def kept(
    files: Content | Mapping[str, Content],
    rows: list[Row] | None,
    columns: Mapping[str, Any] | None = None,
    *,
    notices: tuple[str, ...] | None = None,
    **data: Any,
) -> Case:
    """All rows are published."""
    return _case(files, columns, rows=rows, notices=notices, data=data)


def aside(
    files: Content | Mapping[str, Content],
    quarantine: list[Row],
    rows: list[Row],
    columns: Mapping[str, Any] | None = None,
    **data: Any,
) -> Case:
    """Some rows break the contract. The file's name, if there is but one, need not be said."""
    case = _case(files, columns, rows=rows, data=data)
    name = next(iter(case.files))
    case.aside.extend(row if len(row) == 6 else (row[0], name, *row[1:]) for row in quarantine)
    return case


def refused(
    files: Content | Mapping[str, Content], message: str, columns: Mapping[str, Any] | None = None, **data: Any
) -> Case:
    """Nothing is published."""
    return _case(files, columns, refused=message, data=data)


def parameters(table: Mapping[str, Mapping[str, Case]]) -> list[Any]:
    """The cases of each class, which their names begin with."""
    return [pytest.param(case, id=f"{name}: {what}") for name, cases in table.items() for what, case in cases.items()]


def wider(name: str, kind: str, wanted: str, declare: str = "", *, at: str = "x") -> str:
    """The refusal of a type that would lose something."""
    cure = f"declare type = '{declare}' under columns.{at}, or " if declare else ""
    return f"{name}: column '{at}' is {kind}, which does not widen to {wanted}\n  cure: {cure}convert it in its file"


def passthrough(kind: str, **settings: Any) -> dict[str, Any]:
    """A column of this type that nobody models."""
    return {"type": kind, "role": "passthrough", **settings}


def column(x: Mapping[str, Any] | str) -> dict[str, Any]:
    """An id and a column `x`; of a type that nobody models, if that is all that is said."""
    return {"id": ID, "x": passthrough(x) if isinstance(x, str) else x}


def table(*cells: Any, kind: pa.DataType | None = None) -> pa.Table:
    """Ids 1, 2, ... and these cells, or this array, as column `x`."""
    whole = cells[0] if cells and isinstance(cells[0], pa.Array) else pa.array(cells, kind)
    return pa.table({"id": pa.array(range(1, len(whole) + 1), pa.int64()), "x": whole})


def parquet(content: pa.Table, **options: Any) -> bytes:
    """As a file of it, with page checksums."""
    sink = io.BytesIO()
    pq.write_table(content, sink, write_page_checksum=True, **options)
    return sink.getvalue()


def arrow(content: pa.Table, *, stream: bool = False) -> bytes:
    """As an IPC file, or a stream."""
    sink = io.BytesIO()
    with (ipc.new_stream if stream else ipc.new_file)(sink, content.schema) as writer:
        writer.write_table(content, max_chunksize=300)
    return sink.getvalue()


def put(path: Path, content: Content) -> None:
    """Write a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, pa.Table):
        path.write_bytes(parquet(content))
    elif isinstance(content, str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    else:
        content(path)


def refuse(config: RunConfig, message: str, *, code: int = 3) -> None:
    """Assert that the run ends in this message and exit code, and publishes nothing."""
    with pytest.raises(LatentpipeError) as caught:
        ingest.ingest(config)
    assert str(caught.value) == message
    assert caught.value.exit_code == code
    assert snapshots.versions(ingest.root(config)) == []
    assert not list(config.root.rglob("*.parquet"))


def published(record: Ingested) -> list[Row]:
    """The snapshot's rows, by any Parquet reader over a plain glob."""
    return _rows(Path(record.snapshot), "part-*.parquet")


def set_aside(record: Ingested) -> list[Row]:
    """The quarantine's rows."""
    return _rows(Path(record.snapshot), "_quarantine/*.parquet")


def _rows(folder: Path, glob: str) -> list[Row]:
    return [tuple(row.values()) for part in sorted(folder.glob(glob)) for row in pq.read_table(part).to_pylist()]
