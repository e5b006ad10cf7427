"""What a verification found: every check by name, every violation by file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

RESTORE: Final = "restore the file from a copy, or remove its snapshot and run again"
REMAKE: Final = "remove the snapshot and run again"
Outcome = Literal["ok", "FAIL", "--"]


@dataclass(frozen=True)
class Violation:
    """Something that is not as it was stated."""

    what: str
    where: str
    """The file, relative to the snapshot; or what else it is about."""
    cure: str = REMAKE

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n      cure: {self.cure}"


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, and how it came out; `--` if it could not be looked at."""

    outcome: Outcome
    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.outcome:<4}  {self.name:<9} {self.detail}"


@dataclass
class Findings:
    """The account of one snapshot's verification."""

    snapshot: str
    checks: list[Check] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing that was looked at is wrong."""
        return not self.violations

    def looked(self, name: str, detail: str, violations: Iterable[Violation]) -> bool:
        """Note a check and what it found; whether that was nothing."""
        found = [*violations]
        self.violations += found
        told = f"{len(found):,} violation{'s' if len(found) > 1 else ''}" if found else detail
        self.checks.append(Check("FAIL" if found else "ok", name, told))
        return not found

    def skipped(self, name: str, why: str) -> None:
        """Note what could not be looked at."""
        self.checks.append(Check("--", name, f"not checked: {why}"))

    def lines(self) -> list[str]:
        """For a person."""
        return [self.snapshot, *map(str, self.checks), *(f"FAIL  {it}" for it in self.violations)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"ok": self.ok, **asdict(self)}
