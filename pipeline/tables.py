"""Tables in Markdown, aligned for the terminal too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for the names, one below them, one per row; None is an empty cell."""
    head = [name.replace("_", " ") for name in rows[0]]
    cells = [[_cell(value) for value in it.values()] for it in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    table = [head, ["-" * width for width in widths], *cells]
    padded = ([f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)] for row in table)
    return ["| " + " | ".join(row) + " |" for row in padded]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}"
    return "" if value is None else str(value)
