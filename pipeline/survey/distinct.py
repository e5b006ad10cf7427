"""The distinct values of a column, exactly, as long as they are not too many."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema.cells import FAILURES

MOST_BYTES: Final = 16 << 20
SIFTED: Final = 16_384
"""New values wait until they are as many, or as many as those before: so each is compared but a few times."""


@dataclass
class Distinct:
    """Exact, and the same in whatever order values came."""

    most: int
    """More are not counted."""
    sifted: pa.Array | None = None
    waiting: list[pa.Array] = field(default_factory=list)
    lost: bool = False
    """Whether there were too many, or they cannot be compared."""

    def add(self, values: pa.Array) -> None:
        """Some more, none of them null."""
        if not self.lost and len(values):
            self.waiting.append(pc.unique(values))
            if sum(map(len, self.waiting)) >= max(SIFTED, 0 if self.sifted is None else len(self.sifted)):
                self._sift()

    def merge(self, other: Distinct) -> None:
        """Those that another found."""
        if other.lost:
            self.lose()
        for values in (other.sifted, *other.waiting):
            if values is not None:
                self.add(values)

    def lose(self) -> None:
        """Give them up."""
        self.sifted, self.waiting, self.lost = None, [], True

    @property
    def values(self) -> pa.Array | None:
        """As they were found; None: there were none, or too many."""
        self._sift()
        return self.sifted

    @property
    def bytes(self) -> int:
        """In memory."""
        return sum(it.nbytes for it in (self.sifted, *self.waiting) if it is not None)

    def _sift(self) -> None:
        if not self.waiting:
            return
        arrays = [*self.waiting, *([] if self.sifted is None else [self.sifted])]
        values = _union(arrays)
        if values is None or len(values) > self.most or values.nbytes > MOST_BYTES:
            self.lose()
        else:
            self.sifted, self.waiting = values, []


def _union(arrays: list[pa.Array]) -> pa.Array | None:
    """As the one of their types that holds all; None if there is none."""
    for kind in dict.fromkeys(it.type for it in arrays):
        try:
            return pc.unique(pa.concat_arrays([it.cast(kind) for it in arrays]))
        except FAILURES:
            continue
    return None
