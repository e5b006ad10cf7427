"""From the source to a prepared table: [data] and [ingest]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from vae.config import FORBID_EXTRA, Bounds, Count, Positive, check

Share = Annotated[float, Bounds(gt=0, le=0.5)]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the rows come from and how to read them."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    uri: str
    """A file, a folder or a glob, local or of a store (`s3://`, `gs://`, `file://`); a SQLAlchemy URL, with `query`;
    or `sklearn:digits`. A store's key is written as it is, not percent-encoded; its settings follow a `?`, such as
    `s3://bucket/key?region=eu-central-1`; its credentials come from the environment alone."""
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "ipc", "npy"] = "auto"
    """How to read it; `auto` goes by the file name's suffix."""
    query: str = ""
    """SQL that selects the rows; `uri` is then the database's URL, its password left to the driver's environment.
    With an ORDER BY the same rows are the same input."""
    partitioning: Literal["none", "hive"] = "none"
    """hive: folders named `key=value` are columns."""
    follow_symlinks: bool = False
    """Whether links are followed, as long as they stay inside the source's folder; if not, a link is an error."""
    encoding: str = "utf-8"
    """Of text; `utf-8`, `utf-16`, `latin-1` or any other that Python knows. A BOM is stripped."""
    decimal: str = "."
    """Decimal mark of numbers in text."""
    time_zone: str = ""
    """Of timestamps that carry none, such as `Europe/Zurich`; empty: those are refused."""
    delimiter: str = ","
    """Between the cells of a CSV."""
    header: bool = True
    """Whether a CSV's first line names its columns."""
    names: tuple[str, ...] = ()
    """Column names of a CSV without a header."""
    trim: bool = False
    """Strip blanks around each cell of a CSV."""
    null_tokens: tuple[str, ...] = ("",)
    """Cells of a CSV that mean: missing. Nothing else does."""
    nan_is_missing: bool = False
    """Whether NaN in a numeric column means missing; if not, it breaks the contract."""
    on_bad_row: Literal["strict", "quarantine"] = "strict"
    """A row that breaks the contract stops the run, or is set aside with the reason."""
    extra_columns: Literal["ignore", "refuse"] = "ignore"
    """What to do about columns that nobody declared."""
    unseen_limit: Annotated[float, Bounds(ge=0, le=1)] = 0.1
    """Largest share of a column's cells in categories that its contract does not list."""
    quarantine_limit: Annotated[float, Bounds(ge=0, le=1)] = 0.01
    """Largest share of rows that may be set aside before the run stops all the same."""
    validation: Share = 0.1
    """Share of rows held out to choose the best epoch; a row's split depends on its id alone."""
    test: Share = 0.1
    """Share of rows held out for the figures in the report."""
    part_rows: Positive = 262_144
    """Rows per Parquet file of the snapshot, at most."""
    unit_mb: Positive = 64
    """Source bytes that one worker takes in at a time; larger files are cut, small ones go together."""
    max_columns: Positive = 4096
    """More are refused."""
    max_cell_bytes: Positive = 1 << 20
    """A longer text is refused."""
    max_ratio: Positive = 1000
    """Most bytes that one compressed byte may become; more is taken for a bomb."""

    def __post_init__(self) -> None:
        check(self)
        for name, mark in (("delimiter", self.delimiter), ("decimal", self.decimal)):
            if len(mark) != 1:
                raise ValueError(f"{name} = {mark!r}: must be one character")


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """How the work of taking rows in is spread. None of it changes what comes out."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    num_workers: Positive = 2
    """Threads of this process or, for larger tables, Ray Data actors."""
    local_mb: Count = 4096
    """Up to so many source bytes this process does the work itself; beyond, a Ray cluster does."""
    memory_mb: Annotated[int, Bounds(ge=64)] = 1024
    """Most memory one worker may use for rows."""

    def __post_init__(self) -> None:
        check(self)
