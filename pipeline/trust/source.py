"""A row in the source it came from: read again if the file is still the one that was taken in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline import sources
from pipeline.columns import ColumnConfig
from pipeline.config import Data
from pipeline.errors import LatentpipeError
from pipeline.intake.inventory import RECOGNISED
from pipeline.parts import plain_id
from pipeline.runfile import validated
from pipeline.schema import apply
from pipeline.schema.table import REDACTED
from pipeline.snapshots import Snapshot
from pipeline.sources import Piece, stores

Facts = dict[str, Any]


def found(dataset: Snapshot, path: str, id_column: str, id: Any) -> Facts:
    """The file, position and cells of the source's row that became this one of the dataset's file `path`.

    If the source changed or is gone, the files that the row's unit was taken from, and why there is no more to tell.
    """
    wanted = Wanted(id_column, id, dataset.manifest["rules"])
    identities = _identities(dataset, path)
    names = [*dict.fromkeys(name for name, *_ in identities)]
    inputs = {it["name"]: it for it in dataset.manifest["inputs"]}
    why = "the row is not found there"
    for name, *told in identities:
        try:
            if (row := wanted.row(_piece(inputs[name], told), base=told[4] if len(told) > 4 else None)) is not None:
                return {**_facts(inputs[name]), **row}
        except _Gone as reason:
            why = str(reason)
        except LatentpipeError as error:
            why = f"{name}: {error.what}"
    return {"files": [_facts(inputs[name]) for name in names], "why": why}


class _Gone(Exception):
    """The source is not what was taken in."""


@dataclass(frozen=True)
class Wanted:
    """A row to be found in the source, by its id."""

    id_column: str
    id: Any
    rules: Facts
    """What the dataset was read by."""

    def row(self, piece: Piece, *, base: int | None) -> Facts | None:
        """The row, if it is in this piece; `base`: the piece's first number, where ids are numbers of rows."""
        data = validated({**self.rules["data"], "uri": piece.file.uri}, Data, where="rules")
        row = 0
        for block in sources.blocks(piece, data):
            positions = block.positions(row)
            places = positions + (piece.first or 0)
            ids = enumerate(positions + base) if base is not None else self._typed(block.batch, places, piece, data)
            for at, value in ids:
                if value == self.id:
                    position = int(places[at]) if piece.first is not None else None
                    return {"row": position, "cells": _shown(block.batch.slice(at, 1), self.rules["columns"])}
            row += len(block)
        return None

    def _typed(self, batch: pa.RecordBatch, places: Any, piece: Piece, data: Data) -> Iterator[tuple[int, Any]]:
        """The ids of a raw batch as ingest typed them, each with where it stands; those it refused left out."""
        name = self.id_column
        applied = apply(
            batch.select([name]),
            {name: validated(self.rules["columns"][name], ColumnConfig, where=name)},
            file=piece.file.name,
            positions=places,
            untyped=sources.untyped(piece.file, data, [name]),
            decimal=data.decimal,
        )
        refused = {it.row for it in applied.rejected}
        kept = [at for at, place in enumerate(places) if int(place) not in refused]
        return zip(kept, applied.batch.column(0).to_pylist(), strict=True)


def _identities(dataset: Snapshot, path: str) -> list[list[Any]]:
    """Of the pieces that a file of the dataset was taken from: name, keys, sha256, start, stop; the first number."""
    units = (it for it in dataset.manifest.get("units", ()) if path in it["taken"]["parts"])
    return [json.loads(identity) for unit in units for identity in unit["identities"]]


def _piece(facts: Facts, told: Sequence[Any]) -> Piece:
    """The piece as it can be read now. Raises _Gone unless its file is still the one taken in."""
    if "uri" not in facts:
        raise _Gone("the dataset does not say where its source lies")
    keys = tuple((name, value) for name, value in told[0])
    try:
        now = stores.described(stores.place(facts["uri"]), name=facts["name"], keys=keys)
    except LatentpipeError as error:
        raise _Gone(f"{facts['name']}: {error.what}") from None
    if any(getattr(now, name) != facts[name] for name in RECOGNISED):
        raise _Gone(f"{facts['name']} changed since it was taken in")
    piece = next(it for it in facts["pieces"] if [it["start"], it["stop"]] == list(told[2:4]))
    return Piece(file=now, **piece)


def _facts(facts: Facts) -> Facts:
    return {name: facts.get(name) for name in ("name", "uri", "bytes", "sha256")}


def _shown(row: pa.RecordBatch, columns: Facts) -> Facts:
    """The declared columns' cells as the source has them; none of a secret column."""
    return cells(row, [it for it in row.schema.names if it in columns], columns)


def cells(row: pa.RecordBatch | pa.Table, names: Sequence[str], columns: Facts) -> Facts:
    """Cells as JSON can say them, `***` of a secret column."""
    secret = {name for name in names if columns.get(name, {}).get("secret")}
    return {name: REDACTED if name in secret else plain(row.column(name)[0].as_py()) for name in names}


def plain(value: Any) -> Any:
    """As JSON can say it."""
    if isinstance(value, dict):
        return {name: plain(it) for name, it in value.items()}
    if isinstance(value, list):
        return [plain(it) for it in value]
    value = plain_id(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
