"""What a worker does with a unit: it reads, encodes and writes it, at once where there are cores, by row groups.

In a thread of the driver or on another machine. Only facts leave it; rows in = rows encoded + rows set aside.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import latents
from pipeline.codec import Codec, Codes
from pipeline.encoding.account import Made
from pipeline.encoding.ahead import ahead
from pipeline.encoding.output import Output
from pipeline.encoding.units import Unit
from pipeline.evidence import Evidence
from pipeline.features.transforms import Observed, Values
from pipeline.parts import ROW_GROUP_ROWS, ascending, opened, write
from pipeline.spread import Stopped
from pipeline.watch import Watch

QUARANTINE: Final = pa.schema([("id", pa.string()), ("reason", pa.string())])
NOT_FINITE: Final = "its code is not finite"
BATCH_ROWS: Final = 16_384
"""Rows that are transformed, encoded and restored at a time; so few that they stay in a processor's cache."""
REDACTED: Final = "***"


class Encoder:
    """Holds the model, and turns units of rows into files of latents."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.stopped = False

    def stop(self) -> None:
        """Let units that are being encoded end with Stopped, soon."""
        self.stopped = True

    def go_on(self) -> None:
        """Raise Stopped if nobody wants it."""
        if self.stopped:
            raise Stopped

    @cached_property
    def codec(self) -> Codec:
        """The model, loaded with the first unit: an error in it is then the unit's, and has a name."""
        return Codec.load(self.output.model, device="cuda" if self.output.settings.use_gpu else "cpu")

    @cached_property
    def evidence(self) -> Evidence:
        """What is written beside the codes."""
        return Evidence(self.codec, self.output.settings, go_on=self.go_on)

    @cached_property
    def watch(self) -> Watch | None:
        """What counts rows, with none counted yet."""
        return Watch.load(self.output.model, rows=self.output.watched) if self.output.watched else None

    @cached_property
    def overlaps(self) -> bool:
        """Whether writing has a core beside computing; where all workers' computing takes them all, it only crowds."""
        return self.output.settings.use_gpu or (os.cpu_count() or 1) > self.output.settings.num_workers

    def __call__(self, unit: Unit) -> dict[str, Any]:
        """Encode one unit; the facts of what was made."""
        return self.encode(unit).to_plain()

    def encode(self, unit: Unit) -> Made:
        """Read, encode and write the rows of one unit, sorted by id; those without a finite code are set aside.

        Raises DataError, naming the file, if its rows are not those that were ingested, or not what the model knows.
        """
        directory, aside = self.output.directory, _Aside(secret=self.output.id_secret)
        watch = self.watch and self.watch.anew()
        unit.source.check()
        if unit.first == 0:  # once per file; of a file in several units, the others look at its pages' checksums
            unit.source.verify()
        with opened(unit.source.path, verified=unit.first == 0) as file:
            schema = self._schema(file.schema_arrow, unit)
            encoded = self._encoded(ahead(self._tables(file, unit)), schema, aside, watch)
            with closing(ahead(encoded) if self.overlaps else encoded) as batches:
                id_column = self.output.id_column
                parts = [write(directory, unit.name, batches, schema=schema, id_column=id_column, rows=unit.rows)]
        unit.source.check()
        if aside.rows:
            parts.append(write(directory, f"_quarantine/{unit.name}", [aside.batch()], schema=QUARANTINE))
        return Made(
            unit=unit.number,
            parts=tuple(parts),
            rows=parts[0].rows,
            quarantined=len(aside.rows),
            computed=self.codec.computed,
            watched=watch.facts() if watch else None,
        )

    def _tables(self, file: pq.ParquetFile, unit: Unit) -> Generator[pa.Table, None, None]:
        """The unit's rows, sorted by id, a row group at a time; if they are not sorted, all are read before."""
        groups, id_column = range(unit.first, unit.end), self.output.id_column
        if ascending(file.read_row_groups([*groups], columns=[id_column]).column(id_column)):
            yield from (file.read_row_group(group) for group in groups)
            return
        table = file.read_row_groups([*groups]).sort_by(id_column)
        yield from (table.slice(start, ROW_GROUP_ROWS) for start in range(0, len(table), ROW_GROUP_ROWS))

    def _schema(self, source: pa.Schema, unit: Unit) -> pa.Schema:
        output = self.output
        schema = latents.schema(
            id=source.field(output.id_column),
            latent=self.codec.latent,
            recon=self.codec.features.struct() if output.settings.reconstruct else None,
            evidence=self.evidence.fields(),
            passthrough=[source.field(name) for name in output.passthrough],
        )
        return schema.with_metadata(output.metadata(unit))

    def _encoded(
        self, tables: Generator[pa.Table, None, None], schema: pa.Schema, aside: _Aside, watch: Watch | None
    ) -> Generator[pa.RecordBatch, None, None]:
        for table in tables:
            for start in range(0, len(table), BATCH_ROWS):
                self.go_on()
                rows = self._codes(table.slice(start, BATCH_ROWS), aside)
                columns = self._columns(*rows)
                if watch is not None:
                    _, values, observed, codes = rows
                    watch.add(columns[self.output.id_column], values, observed, codes.mu, columns.get("elbo"))
                yield from pa.table([columns[name] for name in schema.names], schema=schema).to_batches()

    def _codes(self, table: pa.Table, aside: _Aside) -> tuple[pa.Table, Values, Observed, Codes]:
        """The rows that have finite codes, as they are and as numbers, and their codes."""
        values, observed = self.codec.features.transform(table)
        codes = self.codec.infer(values, observed)
        if np.isfinite(codes.mu).all() and np.isfinite(codes.logvar).all():
            return table, values, observed, codes
        finite = np.isfinite(codes.mu).all(axis=1) & np.isfinite(codes.logvar).all(axis=1)
        aside.add(table.column(self.output.id_column).filter(pa.array(~finite)))
        codes = Codes(codes.mu[finite], codes.logvar[finite])
        return table.filter(pa.array(finite)), values[finite], observed[finite], codes

    def _columns(self, table: pa.Table, values: Values, observed: Observed, codes: Codes) -> dict[str, Any]:
        """Of a batch of rows that have codes, by name."""
        output = self.output
        ids = table.column(output.id_column)
        guess = self.codec.guess(codes.mu) if output.settings.reconstruct else None
        columns = {
            output.id_column: ids,
            "mu": _vectors(codes.mu),
            "logvar": _vectors(codes.logvar),
            "model_version": pa.repeat(output.model_name, len(table)),
            **{name: table.column(name) for name in output.passthrough},
        }
        if guess is not None:
            columns["recon"] = self.codec.features.restore(guess)
        return columns | self.evidence.columns(table, ids, values, observed, codes, guess=guess)


class _Aside:
    """The ids, as text, of rows that could not be encoded."""

    def __init__(self, *, secret: bool) -> None:
        self.secret = secret
        self.rows: list[str] = []

    def add(self, ids: pa.ChunkedArray) -> None:
        """Set these aside."""
        texts = (it.hex() if isinstance(it, bytes) else str(it) for it in ids.to_pylist())
        self.rows += [REDACTED if self.secret else text for text in texts]

    def batch(self) -> pa.RecordBatch:
        """As the quarantine holds them."""
        return pa.record_batch([self.rows, [NOT_FINITE] * len(self.rows)], schema=QUARANTINE)


def _vectors(codes: npt.NDArray[np.float32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel()), type=latents.vector(codes.shape[1]))
