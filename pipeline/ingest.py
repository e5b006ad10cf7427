"""ingest: any table -> a typed, immutable Parquet snapshot whose manifest fingerprints it.

One pass, in bounded memory. Every row is kept, or set aside with the rule it broke; the two add up to the rows read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import keys, snapshots, sources
from pipeline.columns import ColumnConfig
from pipeline.config import RunConfig
from pipeline.errors import DataError
from pipeline.progress import Stage
from pipeline.records import Ingested
from pipeline.schema import Rejected, apply, table_schema
from pipeline.snapshots import Snapshot
from pipeline.storage import Part, attempt, publish, standing, verify_rows, write

ROW_ID_COLUMN: Final = ColumnConfig(type="int64", role="id")
SHOWN: Final = 10
QUARANTINE: Final = "_quarantine/part-00000.parquet"
_QUARANTINE_SCHEMA: Final = pa.schema(
    [("file", pa.string()), ("row", pa.int64()), ("column", pa.string()), ("rule", pa.string()), ("value", pa.string())]
)


def root(config: RunConfig) -> Path:
    """Where the dataset's snapshots live."""
    return config.root / "datasets" / config.name


def ingest(config: RunConfig) -> Ingested:
    """Read, type and publish the table; a no-op if the same input was ingested the same way before.

    Raises DataError, with nothing published, if the table breaks its contract.
    """
    with Stage("ingest") as stage:
        files = sources.files(config.data, workspace=config.root)
        inputs = [sources.digest(path) for path in files]
        run_key = keys.dataset(config, [str(it["sha256"]) for it in inputs])
        if (known := standing(root(config), run_key)) is not None:
            stage.update(f"unchanged, {known.directory.name} stands")
            return record(known, new=False)
        with attempt(root(config), run_key) as directory:
            intake = Intake(config, stage)
            parts = [*_write(config, intake.batches(files), directory)]
            intake.check(files)
            verify_rows(intake.rows, parts, root(config))
            parts += intake.write_quarantine(directory)
            return record(publish(root(config), directory, parts, _manifest(config, run_key, inputs, intake)), new=True)


def record(snapshot: Snapshot, *, new: bool = False) -> Ingested:
    """The facts of a published dataset."""
    facts = snapshot.manifest
    rows = {name: facts[name] for name in ("rows_in", "rows", "quarantined")}
    return Ingested(snapshot=str(snapshot.directory), key=facts["run_key"], digest=snapshot.digest, new=new, **rows)


def latest(config: RunConfig) -> Ingested:
    """The newest dataset of the run's name. Raises DataError if there is none."""
    snapshot = snapshots.latest(root(config))
    if snapshot is None:
        raise DataError("no dataset here", str(root(config)), "run `latentpipe ingest` first")
    return record(snapshot)


@dataclass
class Intake:
    """The rows on their way in, and what is counted on the way."""

    config: RunConfig
    stage: Stage
    rows_in: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    ids: list[pa.Array] = field(default_factory=list)
    observed: dict[str, int] = field(default_factory=dict)

    def batches(self, files: list[Path]) -> Iterator[pa.RecordBatch]:
        """The rows that keep the contract, typed, with their id."""
        for path in files:
            row = 0
            for block in sources.blocks(path, self.config.data):
                yield self._typed(block, path, row)
                row += len(block)
                self.stage.count(self.rows_in, 0)

    @property
    def rows(self) -> int:
        """Rows that kept the contract so far."""
        return self.rows_in - len(self.rejected)

    def check(self, files: list[Path]) -> None:
        """The rules that only the whole table can break."""
        where = ", ".join(map(str, files[:3])) + (" ..." if len(files) > 3 else "")
        if self.rows == 0:
            raise DataError(f"no rows ({len(self.rejected):,} set aside)", where, "check the file and [columns]")
        for name in self.config.role("feature"):
            if not self.observed.get(name):
                raise DataError(f"column {name!r} holds no value at all", where, "set its role to 'ignore'")
        self._check_ids(where)
        share = len(self.rejected) / self.rows_in
        if share > self.config.data.quarantine_limit:
            raise DataError(
                f"{len(self.rejected):,} of {self.rows_in:,} rows break the contract ({share:.1%}), first: "
                f"{_describe(self.rejected[0])}",
                where,
                "mend the data or [columns], or raise data.quarantine_limit",
            )

    def write_quarantine(self, directory: Path) -> list[Part]:
        """The rows set aside, as data beside the snapshot's own."""
        if not self.rejected:
            return []
        rows = pa.RecordBatch.from_pylist([asdict(it) for it in self.rejected], schema=_QUARANTINE_SCHEMA)
        return [write(directory, QUARANTINE, [rows], schema=_QUARANTINE_SCHEMA)]

    def _typed(self, block: sources.Block, path: Path, row: int) -> pa.RecordBatch:
        batch, config, positions = block.batch, self.config, block.positions(row)
        self._reject([_ragged(path, position, text) for position, text in block.ragged])
        if not config.role("id"):
            if config.id_column in batch.schema.names:
                raise DataError(f"has a column {config.id_column!r}", str(path), "declare it, with role = 'id'")
            batch = batch.append_column(config.id_column, pa.array(positions - row + self.rows_in))
        self.rows_in += len(block)
        kept = {name: config.columns.get(name, ROW_ID_COLUMN) for name in table_schema(config).names}
        typed, rejected = apply(
            batch, kept, file=str(path), positions=positions, nan_is_missing=config.data.nan_is_missing
        )
        self._reject(rejected)
        self.ids.append(typed.column(config.id_column))
        for name in config.role("feature"):
            self.observed[name] = self.observed.get(name, 0) + len(typed) - typed.column(name).null_count
        return typed

    def _reject(self, rejected: list[Rejected]) -> None:
        if rejected and self.config.data.on_bad_row == "strict":
            first = rejected[0]
            raise DataError(
                _describe(first),
                first.file,
                "mend the data or [columns], declare the token in data.null_tokens, or data.on_bad_row = 'quarantine'",
            )
        self.rejected += rejected

    def _check_ids(self, where: str) -> None:
        counts = pc.value_counts(pa.chunked_array(self.ids))
        twice = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(twice):
            some = ", ".join(map(str, twice.field("values").slice(0, SHOWN).to_pylist()))
            raise DataError(
                f"column {self.config.id_column!r} repeats {len(twice):,} ids: {some}", where, "ids must be unique"
            )


def _write(config: RunConfig, batches: Iterator[pa.RecordBatch], directory: Path) -> Iterator[Part]:
    """One file for each part; what is in a file depends on the rows alone."""
    schema = table_schema(config)
    for number, part in enumerate(_parts(batches, schema, config.data.part_rows)):
        name = f"part-{number:05d}.parquet"
        yield write(directory, name, part.combine_chunks().to_batches(), schema=schema, id_column=config.id_column)


def _parts(batches: Iterator[pa.RecordBatch], schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """The same rows, `rows` at a time, the last part shorter."""
    held = schema.empty_table()
    for batch in batches:
        held = pa.concat_tables([held, pa.table(batch).select(schema.names).cast(schema)])
        while held.num_rows >= rows:
            yield held.slice(0, rows)
            held = held.slice(rows)
    if held.num_rows:
        yield held


def _manifest(config: RunConfig, run_key: str, inputs: list[dict[str, Any]], intake: Intake) -> dict[str, Any]:
    return {
        "kind": "dataset",
        "contract": keys.CONTRACTS["dataset"],
        "run_key": run_key,
        "inputs": inputs,
        "rules": keys.rules(config),
        "schema": {it.name: str(it.type) for it in table_schema(config)},
        "rows_in": intake.rows_in,
        "rows": intake.rows,
        "quarantined": len(intake.rejected),
    }


def _ragged(path: Path, position: int, text: str) -> Rejected:
    return Rejected(file=str(path), row=position, column="", rule="wrong number of cells", value=text[:60])


def _describe(it: Rejected) -> str:
    column = f", column {it.column!r}" if it.column else ""
    return f"row {it.row:,}{column}: {it.rule}: {it.value!r}"
