"""A glob over names below a folder: `*`, `?`, `[...]` within a part, and `**` for any folders between."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

MAGIC: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Pattern:
    """An automaton over the parts of a name. A state is how many of the pattern's parts lie behind.

    Hidden names, which begin with `.` or `_`, are met only by a part that begins so too; with `hive`, `_key=value` is
    a folder like any other.
    """

    parts: tuple[str, ...]
    hive: bool = False

    @property
    def start(self) -> frozenset[int]:
        """The states at the folder itself."""
        return frozenset(self._from(0))

    @property
    def deep(self) -> bool:
        """Whether it matches in folders below."""
        return self.parts[0] == "**" or len(self.parts) > 1

    def after(self, states: frozenset[int], name: str) -> frozenset[int]:
        """The states one part further; none: nothing below can match."""
        return frozenset(there for state in states for step in self._steps(state, name) for there in self._from(step))

    def ends(self, states: frozenset[int]) -> bool:
        """Whether a file matches that was met in these states."""
        return len(self.parts) in states

    def goes_on(self, states: frozenset[int]) -> bool:
        """Whether something below may match."""
        return any(state < len(self.parts) for state in states)

    def matches(self, name: str) -> bool:
        """Whether a file of this name, with `/`, matches."""
        states = self.start
        for part in name.split("/"):
            states = self.after(states, part)
        return self.ends(states)

    def _steps(self, state: int, name: str) -> Iterator[int]:
        if state == len(self.parts):
            return
        part = self.parts[state]
        if part == "**":
            if not self._hidden(name):
                yield state
        elif fnmatchcase(name, part) and (part[0] == name[0] or not self._hidden(name)):
            yield state + 1

    def _from(self, state: int) -> Iterator[int]:
        """The state, and those behind any `**` that stands for nothing."""
        yield state
        if self.parts[state : state + 1] == ("**",):
            yield from self._from(state + 1)

    def _hidden(self, name: str) -> bool:
        return name[0] == "." or (name[0] == "_" and not (self.hive and "=" in name))
