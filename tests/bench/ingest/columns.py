"""The contract of the benchmark's table."""

from __future__ import annotations

from typing import Any

KINDS: dict[str, dict[str, Any]] = {
    "real": {"type": "float64", "likelihood": "gaussian"},
    "whole": {"type": "int64", "likelihood": "gaussian"},
    "category": {"type": "string", "likelihood": "categorical"},
    "flag": {"type": "bool", "likelihood": "bernoulli"},
    "gappy": {"type": "float64", "likelihood": "gaussian", "nullable": True},
    "text": {"type": "string", "role": "passthrough"},
}
NUMBERS = {"real": 14, "whole": 6, "category": 5, "flag": 2, "gappy": 2, "text": 2}


def columns() -> dict[str, dict[str, Any]]:
    """By name."""
    named = {f"{kind}_{index}": KINDS[kind] for kind, count in NUMBERS.items() for index in range(count)}
    return {"id": {"type": "int64", "role": "id"}, **named}
