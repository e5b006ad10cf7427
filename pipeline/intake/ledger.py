"""The account of an ingest: what became of every unit's rows, whether that may be published, what a manifest says."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from pipeline import keys
from pipeline.config import RunConfig
from pipeline.errors import DataError
from pipeline.identities import SHOWN
from pipeline.intake.inventory import Entry
from pipeline.intake.profile import Profile
from pipeline.intake.taking import REDACTED, Taken
from pipeline.parts import Part, opened
from pipeline.schema import table_schema
from pipeline.snapshots import Snapshot
from pipeline.storage import SECTIONS, carried, section
from pipeline.survey.whole import EXACT


@dataclass(frozen=True, kw_only=True)
class Done:
    """A unit that was taken in, now or for an earlier snapshot."""

    number: int = 0
    """In the names of its files."""
    identities: tuple[str, ...] = ()
    """Of its pieces."""
    taken: Taken

    @classmethod
    def carried(cls, before: Snapshot, facts: Mapping[str, Any], directory: Path) -> Self:
        """A unit of the snapshot before, its files linked into this attempt; `facts` are its manifest's."""
        listed = {part["path"]: part for name in SECTIONS for part in before.manifest[name]}
        parts = tuple(carried(before, listed[path], directory) for path in facts["taken"]["parts"])
        taken = Taken(**{**facts["taken"], "parts": parts})
        return cls(number=facts["number"], identities=tuple(facts["identities"]), taken=taken)

    def facts(self) -> dict[str, Any]:
        """As a manifest lists it, its files by their names."""
        facts = asdict(self)
        facts["taken"]["parts"] = [part.path for part in self.taken.parts]
        return facts


@dataclass(frozen=True)
class Ledger:
    """All units of an ingest, in the source's order."""

    config: RunConfig
    entries: Sequence[Entry]
    done: Sequence[Done]
    profile: Profile
    """The statistics of all rows that were kept."""

    @property
    def data(self) -> list[Part]:
        """The files of rows that were kept."""
        return [part for it in self.done for part in it.taken.parts if section(part) == "files"]

    @property
    def rows_in(self) -> int:
        """Rows of the source."""
        return sum(it.taken.rows_in for it in self.done)

    @property
    def rows(self) -> int:
        """Rows that kept the contract."""
        return sum(it.taken.rows for it in self.done)

    def check(self, repeated: Sequence[tuple[int, Sequence[Any]]]) -> None:
        """The rules that only the whole table can break. `repeated`: how many ids come twice, and the first of them."""
        where = self._where()
        self._check_quarantine(where)
        if self.rows == 0:
            aside = f": all {self.rows_in:,} were set aside" if self.rows_in else ""
            raise DataError(f"no rows{aside}", where, "check data.uri and [columns]")
        for name in self.config.role("feature"):
            if not self.profile.observed(name):
                raise DataError(f"column {name!r} holds no value at all", where, "set its role to 'ignore'")
        self._check_ids(repeated, where)
        self._check_unseen(where)

    def manifest(self) -> dict[str, Any]:
        """What the snapshot says of itself."""
        return {
            "kind": "dataset",
            "contract": keys.CONTRACTS["dataset"],
            "inputs": [entry.facts() for entry in self.entries],
            "units": [it.facts() for it in self.done],
            "rules": keys.rules(self.config),
            "schema": {it.name: str(it.type) for it in table_schema(self.config)},
            "columns": self.profile.facts(),
            "content": hashlib.sha256("".join(part.sha256 for part in self.data).encode()).hexdigest(),
            "rows_in": self.rows_in,
            "rows": self.rows,
            "quarantined": self.rows_in - self.rows,
            "notices": [*self.notices()],
        }

    def notices(self) -> Iterator[str]:
        """What a person should know and need not act on."""
        if empty := [entry.file.name for entry in self.entries if entry.cut.rows == 0]:
            yield f"{len(empty):,} files without rows: {_some(empty)}"
        if extra := sorted({name for entry in self.entries for name in entry.names} - {*self.config.columns}):
            yield f"columns that nobody declared, ignored: {_some([repr(it) for it in extra])}"
        for name in self.config.role("feature"):
            column = self.profile.columns[name]
            if len(column.counts or ()) == 1 or (column.low is not None and column.low == column.high):
                yield f"column {name!r} is constant"
            if isinstance(column.low, int) and max(-column.low, column.high) > EXACT:
                yield f"column {name!r}: numbers beyond {EXACT:,} are rounded for the model, which has 24 bits"
        for name, counts in self._unseen().items():
            yield f"column {name!r}: {sum(counts.values()):,} cells in categories new to its contract: {_some(counts)}"

    def _unseen(self) -> dict[str, Counter[str]]:
        found: dict[str, Counter[str]] = {}
        for it in self.done:
            for name, counts in it.taken.unseen.items():
                found.setdefault(name, Counter()).update(counts)
        return found

    def _check_ids(self, repeated: Sequence[tuple[int, Sequence[Any]]], where: str) -> None:
        if count := sum(number for number, _ in repeated):
            some = sorted(name for _, names in repeated for name in names)[:SHOWN]
            secret = any(it.secret for it in self.config.role("id").values())
            told = REDACTED if secret else ", ".join(map(str, some))
            raise DataError(
                f"column {self.config.id_column!r} repeats {count:,} ids: {told}", where, "ids must be unique"
            )

    def _check_quarantine(self, where: str) -> None:
        aside = self.rows_in - self.rows
        if aside > self.config.data.quarantine_limit * self.rows_in:
            first = next(it.taken.first_bad for it in self.done if it.taken.first_bad)
            raise DataError(
                f"{aside:,} of {self.rows_in:,} rows break the contract ({aside / self.rows_in:.1%}), first: {first}",
                where,
                "mend the data or [columns], or raise data.quarantine_limit",
            )

    def _check_unseen(self, where: str) -> None:
        for name, counts in self._unseen().items():
            cells = sum(counts.values())
            if cells > self.config.data.unseen_limit * self.rows:
                raise DataError(
                    f"column {name!r}: {cells:,} of {self.rows:,} cells are in categories new to its contract, "
                    f"such as {_some(counts)}",
                    where,
                    "add them to its categories, or raise data.unseen_limit",
                )

    def _where(self) -> str:
        return _some([entry.file.name for entry in self.entries])


def profile(parts: Sequence[Part], directory: Path) -> Profile:
    """The statistics of all rows, from those of each unit."""
    return Profile.merged(_read(directory / part.staged) for part in parts if section(part) == "profile")


def _read(path: Path) -> pa.Table:
    with opened(path) as file:
        return file.read().combine_chunks()


def _some(names: Any) -> str:
    shown = [*names][:3]
    return ", ".join(map(str, shown)) + (" ..." if len(names) > len(shown) else "")
