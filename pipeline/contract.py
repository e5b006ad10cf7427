"""The contract of a dataset: what each of its columns must be, as a readable `contract.toml`, and how it may change."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Final

from pipeline import runfile, toml
from pipeline.columns import ColumnConfig
from pipeline.errors import ConfigError, DataError
from pipeline.schema.kinds import widens
from pipeline.snapshots import Snapshot
from vae.config import FORBID_EXTRA

FORMAT: Final = 1
HEADER: Final = """\
# What each column of the dataset must be: every row that is taken in is held to it.
# Inferred once, from all rows; from then on it is yours to edit. The comments say what was seen, and bind nobody.
#   latentpipe contract diff OLD NEW     tells what a change would break
contract = {format}  # version of this file's format
name = {name}
"""
Columns = Mapping[str, Mapping[str, Any]]
"""Plain settings by column."""
NAMED: Final = 10
"""Categories that a change names."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """A `contract.toml`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    contract: int
    """Version of the format."""
    name: str
    """Of the dataset."""
    columns: dict[str, ColumnConfig]


def text(name: str, columns: Mapping[str, ColumnConfig], remarks: Mapping[str, str]) -> str:
    """The file's text. `remarks` say what was seen of a column."""
    sections = [_section(column, it, remarks.get(column, "")) for column, it in columns.items()]
    return "\n".join([HEADER.format(format=FORMAT, name=toml.value(name)), *sections])


def read(path: str | Path) -> dict[str, ColumnConfig]:
    """The columns of a `contract.toml`. Raises ConfigError naming the key and what was meant."""
    settings = runfile.read(path)
    if (found := settings.get("contract")) != FORMAT:
        raise ConfigError(f"contract = {found!r}: this latentpipe reads format {FORMAT}", str(path))
    return runfile.validated(settings, Contract, where=str(path)).columns


def _section(name: str, column: ColumnConfig, remark: str) -> str:
    head = f"[columns.{toml.key(name)}]" + (f"  {toml.comment(remark)}" if remark else "")
    return "\n".join([head, *(toml.line(key, value) for key, value in column.told().items()), ""])


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference between two contracts."""

    column: str
    what: str
    compatible: bool
    """Whether whoever kept the old contract keeps the new one, and whoever relied on it still can."""

    @property
    def verdict(self) -> str:
        """In a word."""
        return "compatible" if self.compatible else "breaking"


def diff(old: Columns, new: Columns) -> list[Change]:
    """What changed, in the new contract's order. Ignored columns count as absent; settings that one lacks are equal."""
    before, after = ({name: it for name, it in columns.items() if it["role"] != "ignore"} for columns in (old, new))
    changes = []
    for name, column in after.items():
        if name in before:
            changes += list(_changes(name, before[name], column))
        else:
            changes.append(
                Change(column=name, what=f"added, {column['type']}", compatible=bool(column.get("optional")))
            )
    return changes + [Change(column=name, what="removed", compatible=False) for name in before if name not in after]


def _changes(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for setting in (it.name for it in fields(ColumnConfig) if it.name in old and it.name in new):
        one, other = _plain(old[setting]), _plain(new[setting])
        if setting == "categories" and one and other:
            yield from _category_changes(name, one, other)
        elif one != other:
            what = f"{setting} {_told(one)} -> {_told(other)}"
            yield Change(column=name, what=what, compatible=_looser(setting, one, other))


def _category_changes(name: str, old: list[Any], new: list[Any]) -> Iterator[Change]:
    for word, some, others in (("added", new, old), ("removed", old, new)):
        if found := [toml.value(it) for it in some if it not in others]:
            more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
            what = f"categories {word}: {', '.join(found[:NAMED])}{more}"
            yield Change(column=name, what=what, compatible=word == "added")


def _looser(setting: str, old: Any, new: Any) -> bool:
    """Whether a changed setting takes all that the old one did, and no reader can be wrong about it."""
    if setting == "type":
        return widens(old, new)
    if setting in ("nullable", "optional", "secret"):
        return bool(new)
    if setting == "range":
        return not new or bool(old and new[0] <= old[0] and old[1] <= new[1])
    return setting == "categories" and not new


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _told(value: Any) -> str:
    return toml.key(value) if isinstance(value, str) else toml.value(value)


def contract_diff(old_path: str, new_path: str) -> tuple[dict[str, Any], list[str]]:
    """What changed, as facts with an `exit_code` and as lines: 0 if nothing breaks, 3 otherwise.

    Each path is a `contract.toml`, a run's TOML, a snapshot or its manifest.
    """
    changes = diff(columns_at(old_path), columns_at(new_path))
    breaking = sum(not it.compatible for it in changes)
    lines = [f"{it.verdict:<10}  {toml.key(it.column)}: {it.what}" for it in changes]
    facts = [{"column": it.column, "what": it.what, "verdict": it.verdict} for it in changes]
    answer = {"compatible": not breaking, "changes": facts, "exit_code": 3 if breaking else 0}
    return answer, [*lines, f"{len(changes) - breaking:,} compatible, {breaking:,} breaking"]


def columns_at(path: str) -> Columns:
    """The columns of a contract, a run, a snapshot or a manifest. Raises ConfigError or DataError if it is none."""
    if Path(path).is_dir():
        return _agreed(Snapshot(Path(path)).manifest, path)
    if path.endswith(".json"):
        try:
            return _agreed(json.loads(Path(path).read_bytes()), path)
        except (OSError, ValueError) as error:
            raise DataError(f"not readable as a manifest: {error}", path) from None
    if "contract" in runfile.read(path):
        return {name: asdict(it) for name, it in read(path).items()}
    return {name: asdict(it) for name, it in runfile.load(path).columns.items()}


def _agreed(manifest: Any, path: str) -> Columns:
    try:
        columns: Columns = manifest["rules"]["columns"]
    except (KeyError, TypeError):
        raise DataError("not the manifest of a dataset: it has no rules of columns", path) from None
    return columns


def evolve(agreed: Columns, declared: Mapping[str, ColumnConfig], *, where: str) -> None:
    """Raise ConfigError, naming the column and both types, unless each declared type is the agreed one or wider.

    `agreed` is the contract at `where`, or the rules of its newest snapshot.
    """
    for name, column in declared.items():
        known = agreed.get(name, {"role": "ignore"})
        if "ignore" in (known["role"], column.role) or widens(known["type"], column.type):
            continue
        raise ConfigError(
            f"columns.{name}: type = {column.type!r}, where {known['type']!r} was agreed, which does not widen to it",
            where,
            f"declare type = {known['type']!r}, or begin a dataset of another name",
        )
