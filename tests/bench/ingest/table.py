"""The table of the ingest benchmark: 32 mixed columns, made by a seeded generator, as one CSV and one Parquet file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

CHUNK = 500_000


def chunk(first: int, rows: int) -> pa.Table:
    """id, 14 reals, 6 integers, 5 categories of 4 to 1,024 values, 2 booleans, 2 reals with gaps, 2 free texts."""
    random = np.random.default_rng(first)
    columns: dict[str, pa.Array] = {"id": pa.array(np.arange(first, first + rows))}
    for index in range(14):
        columns[f"real_{index}"] = pa.array(np.round(random.normal(size=rows) * 10 ** (index % 4), 4))
    for index in range(6):
        columns[f"whole_{index}"] = pa.array(random.integers(0, 10 ** (1 + index), rows))
    for index in range(5):
        names = np.array([f"cat_{code}" for code in range(4 ** (index + 1))])
        columns[f"category_{index}"] = pa.array(names[random.integers(0, len(names), rows)])
    for index in range(2):
        columns[f"flag_{index}"] = pa.array(random.random(rows) < 0.3)
    for index in range(2):
        columns[f"gappy_{index}"] = pa.array(np.round(random.normal(size=rows), 3), mask=random.random(rows) < 0.1)
    for index in range(2):
        columns[f"text_{index}"] = pa.array(np.char.add("user ", random.integers(0, 10**9, rows).astype(str)))
    return pa.table(columns)


def make(folder: Path, rows: int) -> tuple[Path, Path]:
    """`rows` rows as CSV and as Parquet (zstd); made once."""
    text, typed = folder / f"{rows}.csv", folder / f"{rows}.parquet"
    if text.exists() and typed.exists():
        return text, typed
    folder.mkdir(parents=True, exist_ok=True)
    schema = chunk(0, 1).schema
    with csv.CSVWriter(text, schema) as lines, pq.ParquetWriter(typed, schema, compression="zstd") as file:
        for first in range(0, rows, CHUNK):
            table = chunk(first, min(CHUNK, rows - first))
            lines.write_table(table)
            file.write_table(table)
    return text, typed
