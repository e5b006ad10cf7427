"""What a fault case is: a fault of the matrix, injected for real, and what a reader found afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Found:
    """What was wrong after a fault; all zero and empty: nothing."""

    lost: int = 0
    """Rows that are missing."""
    duplicated: int = 0
    """Rows that are there more than once."""
    torn: int = 0
    """Times that a reader saw something else than a whole snapshot."""
    failed: str = ""
    """What else was not as it must be."""


@dataclass(frozen=True)
class Case:
    """One fault."""

    row: int
    """Of the matrix of faults."""
    name: str
    run: Callable[[Path], Found]
    """Is given an empty folder."""
