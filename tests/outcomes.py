"""What must become of bad input, as data: the files, what is declared of them, and the rows, quarantine or refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import ingest, runfile, snapshots
from pipeline.config import RunConfig
from pipeline.errors import DataError
from pipeline.intake import CURE, Rejected, describe
from pipeline.records import Ingested

ID = {"type": "int64", "role": "id"}
NUMBER = {"type": "float64", "likelihood": "gaussian"}
Content = str | bytes | pa.Table | Callable[[Path], None]
"""Text, bytes, a table to be Parquet, or what writes the file."""


def passthrough(kind: str, **settings: Any) -> dict[str, Any]:
    """A column of this type that nobody models."""
    return {"type": kind, "role": "passthrough", **settings}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Files below a folder, and what must become of their rows: exactly one of `rows`, `aside` and `refused`."""

    files: Mapping[str, Content]
    columns: Mapping[str, Any] = field(default_factory=lambda: {"id": ID, "x": NUMBER})
    data: Mapping[str, Any] = field(default_factory=dict)
    rows: list[tuple[Any, ...]] | None = None
    """All that is published, in the columns' order."""
    aside: list[tuple[Any, ...]] | None = None
    """The quarantine: id, file, row, column, rule, value. What else there is, is published, and is `rows` if given."""
    refused: str | None = None
    """The message, `{}` being the folder."""
    notices: tuple[str, ...] = ()

    def config(self, folder: Path, **data: Any) -> RunConfig:
        """A run over the files."""
        source = folder / "in"
        for name, content in self.files.items():
            put(source / name, content)
        data = {"uri": str(source), **self.data, **data}
        return runfile.parse({"name": "t", "workspace": str(folder / "w"), "data": data, "columns": dict(self.columns)})

    def judge(self, folder: Path) -> None:
        """Assert the outcome."""
        if self.refused is not None:
            refuse(self.config(folder), self.refused.replace("{}", str(folder / "in")))
            return
        if self.aside is not None:
            first = Rejected(**dict(zip(("file", "row", "column", "rule", "value"), self.aside[0][1:], strict=True)))
            refuse(self.config(folder), f"{first.file}: {describe(first)}\n  cure: {CURE}")
        data = {} if self.aside is None else {"on_bad_row": "quarantine", "quarantine_limit": 1.0}
        record = ingest.ingest(self.config(folder, **data))
        assert set_aside(record) == (self.aside or [])
        if self.rows is not None:
            assert published(record) == self.rows
        assert record.notices == self.notices
        assert record.rows_in == record.rows + record.quarantined == len(published(record)) + len(self.aside or [])


def put(path: Path, content: Content) -> None:
    """Write a file, once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    if isinstance(content, pa.Table):
        pq.write_table(content, path, write_page_checksum=True)
    elif isinstance(content, str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    else:
        content(path)


def refuse(config: RunConfig, message: str) -> None:
    """Assert that the run ends in this DataError, exit code 3, and publishes nothing."""
    with pytest.raises(DataError) as caught:
        ingest.ingest(config)
    assert str(caught.value) == message
    assert caught.value.exit_code == 3
    assert snapshots.versions(ingest.root(config)) == []
    assert not list(config.root.rglob("*.parquet"))


def published(record: Ingested) -> list[tuple[Any, ...]]:
    """The snapshot's rows, by any Parquet reader over a plain glob."""
    parts = sorted(Path(record.snapshot).glob("part-*.parquet"))
    return [tuple(row.values()) for part in parts for row in pq.read_table(part).to_pylist()]


def set_aside(record: Ingested) -> list[tuple[Any, ...]]:
    """The quarantine's rows."""
    parts = sorted(Path(record.snapshot).glob("_quarantine/*.parquet"))
    return [tuple(row.values()) for part in parts for row in pq.read_table(part).to_pylist()]
