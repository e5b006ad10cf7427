"""Settings of an autoencoder: its columns and its networks. Importing this costs no torch and does nothing."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

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


def check(settings: Any) -> None:
    """Raise ValueError for the first field of the dataclass `settings` that is out of its Bounds or not a choice."""
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        if get_origin(hint) is not ClassVar:
            _check_field(name, hint, getattr(settings, name))


def _check_field(name: str, hint: Any, value: Any) -> None:
    if get_origin(hint) is tuple:
        for element in value:
            _check_field(name, get_args(hint)[0], element)
    elif get_origin(hint) is Annotated:
        for bounds in get_args(hint)[1:]:
            if not bounds.allow(value):
                raise ValueError(f"{name} = {value!r}: must be {bounds}")
    elif get_origin(hint) is Literal and value not in get_args(hint):
        raise ValueError(f"{name} = {value!r}: must be one of {', '.join(map(repr, get_args(hint)))}")


LikelihoodName = Literal["gaussian", "bernoulli", "categorical"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column as the model sees it: the features it occupies and the distribution of its values."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    name: str
    """Name, as in the table."""
    likelihood: LikelihoodName
    """Distribution p(x | z) of each of its features."""
    width: Positive = 1
    """Number of features: 1 for a scalar or a category code, H*W*C for an image."""
    codes: Annotated[int, Bounds(ge=0)] = 0
    """Number of category codes, the reserved unknown code 0 included; 0 unless categorical."""
    scale: Annotated[float, Bounds(gt=0)] = 1.0
    """Original units in one standardised unit. Enters log p(x) as the Jacobian -log(scale)."""
    floor: Annotated[float, Bounds(gt=0)] = 1e-2
    """Smallest standard deviation a Gaussian may claim, in standardised units: the resolution of the data."""
    rates: tuple[Annotated[float, Bounds(ge=0, le=1)], ...] = ()
    """Marginal probabilities, from which the output bias starts: one (Bernoulli) or one per code (categorical)."""
    nullable: bool = False
    """Whether cells may be missing; if so, the encoder is also told which ones are."""

    def __post_init__(self) -> None:
        check(self)
        if (self.likelihood == "categorical") != (self.codes > 0):
            raise ValueError(f"column {self.name!r}: codes = {self.codes} with likelihood {self.likelihood!r}")


@dataclass(frozen=True, kw_only=True)
class Network:
    """The bodies of encoder and decoder. The decoder mirrors the encoder."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    latent: Annotated[int, Bounds(ge=1, le=4096)] = 8
    """Number of latent dimensions d."""
    hidden: tuple[Positive, ...] = (128, 128)
    """Widths of the encoder's hidden layers, input side first."""
    activation: Literal["silu", "relu", "gelu", "tanh"] = "silu"
    """Nonlinearity between layers."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything needed to build a model again: its columns, in the order of its features, and its networks."""

    columns: tuple[Column, ...]
    network: Network

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("a model needs at least one column")

    @property
    def features(self) -> int:
        """Width of the values tensor: the sum of the columns' widths."""
        return sum(column.width for column in self.columns)
