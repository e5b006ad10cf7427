"""The account of an encode: which units stand already, what became of the others, and whether that may be published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

from pipeline.encoding.units import Unit
from pipeline.errors import DataError
from pipeline.parts import Part
from pipeline.snapshots import Snapshot, newest
from pipeline.storage import SECTIONS, carried, section
from pipeline.stores.remote import Location

LOOK_BACK: Final = 4
"""In so many of the newest snapshots a unit is looked for."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What became of a unit's rows: JSON-able."""

    unit: int
    """Its number."""
    parts: tuple[Part, ...]
    rows: int
    quarantined: int
    computed: dict[str, Any]
    """By what arithmetic; see `pipeline.codec.Codec.computed`."""
    watched: dict[str, Any] | None = None
    """What was counted of the rows encoded now, for `drift`."""

    def to_plain(self) -> dict[str, Any]:
        """As plain facts."""
        return {**vars(self), "parts": [asdict(part) for part in self.parts]}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """From plain facts."""
        return cls(**{**facts, "parts": tuple(Part(**part) for part in facts["parts"])})

    @classmethod
    def carried(cls, unit: Unit, before: Snapshot, facts: Mapping[str, Any], directory: Location) -> Self:
        """A unit that an older snapshot holds, its files linked into this attempt; `facts` are that manifest's."""
        listed = {part["path"]: part for name in SECTIONS for part in before.manifest.get(name, ())}
        names = {"files": unit.name, "quarantine": f"_quarantine/{unit.name}"}
        named = [(path, name) for section, name in names.items() for path in facts[section]]
        parts = [replace(carried(before, listed[path], directory), path=name) for path, name in named]
        computed = facts.get("computed") or before.manifest.get("computed", {})
        counts = {name: facts[name] for name in ("rows", "quarantined")}
        return cls(unit=unit.number, parts=tuple(parts), computed=computed, **counts)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What differs between the units wanted and those of the newest snapshots."""

    standing: dict[int, tuple[Snapshot, Mapping[str, Any]]]
    """By the number of a unit wanted: the snapshot that holds it, and its facts there."""
    new: dict[int, str]
    """By the number of a unit wanted: why it has to be made."""
    retired: int
    """Units of the newest snapshot that are no longer wanted."""

    def __str__(self) -> str:
        reasons = sorted(set(self.new.values()))
        told = ", ".join(f"{reason} ({sum(it == reason for it in self.new.values()):,})" for reason in reasons)
        why = f": {told}" if told else ""
        return f"{len(self.new):,} units new{why}; {len(self.standing):,} carried over; {self.retired:,} retired"


def change(units: Sequence[Unit], output: Mapping[str, Any], root: Location) -> Change:
    """Which units stand, and why the others do not."""
    known = [it for it in newest(root, LOOK_BACK) if it.key and it.whole]
    stands = {facts["identity"]: (it, facts) for it in known for facts in it.manifest.get("units", ())}
    last = known[-1].manifest if known else {}
    inputs = {_input(facts) for facts in last.get("units", ())}
    wanted = {unit.identity for unit in units}
    why = _why(last.get("output"), output)
    return Change(
        standing={unit.number: stands[unit.identity] for unit in units if unit.identity in stands},
        new={
            unit.number: why if _input(unit.facts()) in inputs else "input changed" if inputs else "nothing stands"
            for unit in units
            if unit.identity not in stands
        },
        retired=sum(facts["identity"] not in wanted for facts in last.get("units", ())),
    )


def check(units: Sequence[Unit], made: Sequence[Made], *, limit: float, where: str) -> None:
    """Raise DataError unless every unit was done once, every row of it is here or set aside, and not too many are."""
    if (numbers := [it.unit for it in made]) != [unit.number for unit in units]:
        raise DataError(f"units {numbers} were done, 0 to {len(units) - 1} expected; nothing was published", where)
    for unit, it in zip(units, made, strict=True):
        if unit.rows != it.rows + it.quarantined:
            raise DataError(
                f"{unit.rows:,} rows in, {it.rows:,} encoded + {it.quarantined:,} set aside; nothing was published",
                str(unit),
            )
    rows, aside = sum(unit.rows for unit in units), sum(it.quarantined for it in made)
    if aside > limit * rows or aside == rows:
        first = next(str(unit) for unit, it in zip(units, made, strict=True) if it.quarantined)
        raise DataError(
            f"the codes of {aside:,} of {rows:,} rows are not finite ({aside / rows:.1%}), first in {first}",
            where,
            "bound the columns by a range, train again, or raise data.quarantine_limit",
        )


def facts(unit: Unit, made: Made) -> dict[str, Any]:
    """A unit as a manifest lists it."""
    paths = {name: [part.path for part in made.parts if section(part) == name] for name in ("files", "quarantine")}
    return {
        **unit.facts(),
        **paths,
        "rows": made.rows,
        "quarantined": made.quarantined,
        "computed": made.computed,
    }


def _input(facts: Mapping[str, Any]) -> tuple[Any, ...]:
    told = facts["input"]
    return told["sha256"], tuple(told["row_groups"] or ())


def _why(before: Mapping[str, Any] | None, output: Mapping[str, Any]) -> str:
    """What makes units of the same input others."""
    if before is None:
        return "contract changed"
    if before["model"] != output["model"]:
        return "model changed"
    return "output changed" if before != output else "contract changed"
