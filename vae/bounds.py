"""Settings as frozen dataclasses: the range of a number, stated once, and the check of every field. No torch."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

FORBID_EXTRA: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}
"""How pydantic is to validate these dataclasses where one is a parameter of a flow; nothing is imported for it."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The range of a number, stated once: enforced by `check` here, and by any pydantic form built on the type."""

    ge: int | float | None = None
    gt: int | float | None = None
    le: int | float | None = None
    lt: int | float | None = None

    def stated(self) -> dict[str, int | float]:
        """The rules that are set."""
        return {rule: bound for rule, bound in vars(self).items() if bound is not None}

    def allow(self, value: int | float) -> bool:
        """Whether a number keeps every rule."""
        return all(getattr(operator, rule)(value, bound) for rule, bound in self.stated().items())

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {**handler(source), **self.stated()}

    def __str__(self) -> str:
        signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        return " and ".join(f"{signs[rule]} {bound:g}" for rule, bound in self.stated().items())


Positive = Annotated[int, Bounds(ge=1)]
Count = Annotated[int, Bounds(ge=0)]


def check(settings: Any) -> None:
    """Raise ValueError for the first field of the dataclass `settings` that is out of its Bounds or not a choice."""
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        if get_origin(hint) is not ClassVar:
            _check_field(name, hint, getattr(settings, name))


def _check_field(name: str, hint: Any, value: Any) -> None:
    if get_origin(hint) in (Union, UnionType):
        for option in get_args(hint) if value is not None else ():
            if (get_origin(option) is tuple) == isinstance(value, tuple):
                _check_field(name, option, value)
    elif get_origin(hint) is tuple:
        for element in value:
            _check_field(name, get_args(hint)[0], element)
    elif get_origin(hint) is Annotated:
        for bounds in get_args(hint)[1:]:
            if not math.isfinite(value):
                raise ValueError(f"{name} = {value!r}: must be finite")
            if not bounds.allow(value):
                raise ValueError(f"{name} = {value!r}: must be {bounds}")
    elif get_origin(hint) is Literal and value not in get_args(hint):
        raise ValueError(f"{name} = {value!r}: must be one of {', '.join(map(repr, get_args(hint)))}")
