"""An append-only list, as many processes saw it: is there one order of its elements that explains all they were told?

A history is a list of events `{at, process, type, f, ...}`: `invoke`, then `ok`, `fail` or `info` (nobody knows), of an
`append` of a value, acknowledged with its version, or of a `read`, answered with the length and the digest of the list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from faults.writer import digest

Event = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """From its invocation to its end; without an end it may have happened at any time after."""

    invoke: Event
    end: Event | None

    @property
    def kind(self) -> str:
        """ok, fail or info."""
        return "info" if self.end is None else str(self.end["type"])

    def precedes(self, other: Operation) -> bool:
        """Whether it had ended when the other began."""
        return self.end is not None and bool(self.end["at"] < other.invoke["at"])


def operations(events: Sequence[Event]) -> list[Operation]:
    """Each invocation with its end: a process does one thing at a time."""
    found, open_now = [], {}
    for event in sorted(events, key=lambda it: it["at"]):
        process = event["process"]
        if event["type"] == "invoke":
            if process in open_now:
                found.append(Operation(open_now[process], None))
            open_now[process] = event
        else:
            found.append(Operation(open_now.pop(process), event))
    return found + [Operation(it, None) for it in open_now.values()]


def problems(events: Sequence[Event], final: Sequence[str]) -> list[str]:
    """What cannot be, given the list as it is at the end; empty: all is explained."""
    done = operations(events)
    appends = [it for it in done if it.invoke["f"] == "append"]
    reads = [it for it in done if it.invoke["f"] == "read" and it.kind == "ok"]
    return [*_elements(appends, final), *_reads(reads, final), *_order(appends, reads)]


def _elements(appends: Sequence[Operation], final: Sequence[str]) -> list[str]:
    found = [f"{value} is there {count} times" for value, count in Counter(final).items() if count > 1]
    acknowledged = {it.invoke["value"]: it.end["version"] for it in appends if it.kind == "ok" and it.end}
    for value, version in acknowledged.items():
        if version > len(final) or final[version - 1] != value:
            found.append(f"{value} was acknowledged as version {version}, which it is not")
    unknown = {it.invoke["value"] for it in appends if it.kind == "info"}
    found += [f"nobody was told of {it}" for it in final if it not in acknowledged and it not in unknown]
    return found


def _reads(reads: Sequence[Operation], final: Sequence[str]) -> list[str]:
    """Each saw a beginning of the list."""
    found = []
    for it in reads:
        length = it.end["length"] if it.end else 0
        if length > len(final) or digest(final[:length]) != it.end["digest"]:  # type: ignore[index]
            found.append(f"process {it.invoke['process']} read {length} elements that are no beginning of the list")
    return found


def _order(appends: Sequence[Operation], reads: Sequence[Operation]) -> list[str]:
    """What ended before something else began came before it: a place is a version, or a length that was read."""
    ok = [(it, it.end["version"], "append") for it in appends if it.kind == "ok" and it.end]
    ok += [(it, it.end["length"], "read") for it in reads if it.end]
    ends = sorted(ok, key=lambda it: it[0].end["at"])  # type: ignore[index]
    found, seen, number = [], 0, 0
    for operation, place, what in sorted(ok, key=lambda it: it[0].invoke["at"]):
        while number < len(ends) and ends[number][0].precedes(operation):
            seen = max(seen, ends[number][1])
            number += 1
        if place < seen + (what == "append"):
            found.append(f"{what} by process {operation.invoke['process']} has place {place} after place {seen}")
    return found
