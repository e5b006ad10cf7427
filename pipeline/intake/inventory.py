"""What there is to take in, and what of it was taken in before: files, cut into pieces, and pieces put into units."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

from pipeline import sources
from pipeline.config import RunConfig
from pipeline.intake.taking import Share
from pipeline.schema.layout import check_names
from pipeline.snapshots import Snapshot
from pipeline.sources import Cut, File, Piece
from pipeline.spread import threads

RECOGNISED = ("name", "bytes", "stamp", "mark")
"""What a file is known by without reading it."""
FOUND = ("uri", "keys")
"""Where it lay, for who wants to look again."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of the source, digested and cut."""

    file: File
    cut: Cut
    names: tuple[str, ...]
    """Of its columns."""

    def facts(self) -> dict[str, Any]:
        """As a manifest lists it: enough to recognise the file, and not to read it again."""
        cut = asdict(self.cut)
        pieces = [{name: value for name, value in piece.items() if name != "file"} for piece in cut.pop("pieces")]
        known = {name: getattr(self.file, name) for name in (*RECOGNISED, *FOUND)}
        return {**known, **cut, "names": list(self.names), "pieces": pieces}


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Neighbouring pieces that one worker takes in, into files of their own in the snapshot."""

    shares: tuple[Share, ...]
    identities: tuple[str, ...]
    """Of each share: the same rows under the same name, and the same number where that is their id."""

    @property
    def bytes(self) -> int:
        """Of the source."""
        return sum(share.piece.bytes for share in self.shares)


def take_stock(config: RunConfig, *, known: Snapshot | None) -> list[Entry]:
    """Every file of the source, in the order of names; those listed unchanged in `known` are not read.

    Raises DataError for one that cannot be read or, if it has rows, lacks a column.
    """
    files = sources.files(config.data, workspace=config.root)
    before = _recognised(known)
    entries = {it.name: _remembered(it, facts) for it in files if (facts := before.get(_identity(it))) is not None}
    unread = [it for it in files if it.name not in entries]
    for _, entry in threads(partial(_entry, config), unread, workers=config.ingest.num_workers):
        entries[entry.file.name] = entry
    stock = [entries[it.name] for it in files]
    for entry in (it for it in stock if it.cut.rows != 0):
        check_columns(entry.file, entry.names, config)
    return stock


def check_columns(file: File, names: Sequence[str], config: RunConfig) -> None:
    """Raise DataError for columns missing, named alike or, where nobody may add any, not declared.

    A JSON line may leave any key out, and an empty file has none.
    """
    if sources.format_of(file, config.data) == "jsonl":
        names = [*dict.fromkeys([*names, *config.columns])]
    if names:
        check_names(names, config.columns, file=file.name, extra=config.data.extra_columns)


def shares(entries: Sequence[Entry], *, numbered: bool) -> list[tuple[Share, str]]:
    """Every piece of every file with its identity; `numbered` if the table has no id but the number of its rows."""
    bases = accumulate((entry.cut.rows or 0 for entry in entries), initial=0)
    return [
        share
        for entry, base in zip(entries, bases, strict=False)
        for share in _shares(entry, base if numbered else None)
    ]


def units(pieces: Sequence[tuple[Share, str]], *, unit_bytes: int) -> Iterator[Unit]:
    """Neighbours together until they are `unit_bytes`."""
    held: list[tuple[Share, str]] = []
    for share, identity in pieces:
        held.append((share, identity))
        if sum(it.piece.bytes for it, _ in held) >= unit_bytes:
            yield _unit(held)
            held = []
    if held:
        yield _unit(held)


def _unit(held: Sequence[tuple[Share, str]]) -> Unit:
    return Unit(shares=tuple(share for share, _ in held), identities=tuple(identity for _, identity in held))


def _shares(entry: Entry, base: int | None) -> Iterator[tuple[Share, str]]:
    for piece in entry.cut.pieces:
        first = 0 if base is None else base + (piece.first or 0)
        told = [entry.file.name, entry.file.keys, entry.cut.sha256, piece.start, piece.stop]
        yield Share(piece=piece, base=first), json.dumps([*told, first] if base is not None else told)


def _entry(config: RunConfig, file: File) -> Entry:
    """Read a file to its end: its digest, its cuts, and its number of rows where that is needed."""
    data = config.data
    names, cut = tuple(sources.names(file, data)), sources.cut(file, data)
    if cut.rows is None and not config.role("id"):
        rows = [sum(map(len, sources.blocks(piece, data))) for piece in cut.pieces]
        first = accumulate(rows, initial=0)
        pieces = [replace(it, rows=n, first=at) for it, n, at in zip(cut.pieces, rows, first, strict=False)]
        cut = replace(cut, rows=sum(rows), pieces=tuple(pieces))
    return Entry(file=file, cut=cut, names=names)


def _recognised(known: Snapshot | None) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    inputs = known.manifest.get("inputs", ()) if known is not None else ()
    return {tuple(it.get(name) for name in RECOGNISED): it for it in inputs}


def _identity(file: File) -> tuple[Any, ...]:
    return tuple(getattr(file, name) for name in RECOGNISED)


def _remembered(file: File, facts: Mapping[str, Any]) -> Entry:
    pieces = tuple(Piece(file=file, **piece) for piece in facts["pieces"])
    return Entry(
        file=file, cut=Cut(sha256=facts["sha256"], rows=facts["rows"], pieces=pieces), names=tuple(facts["names"])
    )
