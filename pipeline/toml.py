"""Plain values as TOML, which Python reads but does not write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
WIDTH: Final = 120


def key(name: str) -> str:
    """A key, quoted where it has to be.

    >>> print(key("age"), key("age, years"), key(""))
    age "age, years" ""
    """
    return name if BARE.fullmatch(name) else value(name)


def value(plain: Any) -> str:
    """A string, a boolean, a number, or a list or an inline table of them.

    >>> value(["a", 1, 2.0, float("inf"), True])
    '["a", 1, 2.0, inf, true]'
    >>> value({"low": 1e-4, "high": 0.01})
    '{ low = 0.0001, high = 0.01 }'
    """
    if isinstance(plain, dict):
        return f"{{ {', '.join(f'{key(name)} = {value(it)}' for name, it in plain.items())} }}"
    if isinstance(plain, str):
        return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(plain, bool):
        return str(plain).lower()
    return f"[{', '.join(map(value, plain))}]" if isinstance(plain, list | tuple) else repr(plain)


def line(name: str, plain: Any) -> str:
    """`name = value`, and a long list over several lines.

    >>> print(line("unit", "m"))
    unit = "m"
    """
    whole = f"{key(name)} = {value(plain)}"
    if len(whole) <= WIDTH or not isinstance(plain, list | tuple):
        return whole
    return f"{key(name)} = [\n{_wrapped(map(value, plain))}\n]"


def _wrapped(parts: Iterable[str]) -> str:
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) + 2 > WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {part}," if lines[-1] else f"  {part},"
    return "\n".join(lines)


def comment(text: str) -> str:
    """Text as a comment, on one line."""
    return "# " + "".join(letter if letter.isprintable() else " " for letter in text)
