"""What a run's configuration says of one column: its type, its role, its distribution."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from vae.config import COUNTS, FORBID_EXTRA, LEVELS, REALS, Bounds, Count, LikelihoodName, Positive, check

TYPE: Final = re.compile(r"(u?int(8|16|32|64)|float(16|32|64)|bool)(\[[1-9]\d*\])?|string")


@dataclass(frozen=True, kw_only=True)
class ColumnConfig:
    """What one column must be, and what it is for."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    type: str
    """int8..int64, uint8..uint64, float16..float64, bool, string, or a vector such as float32[64]."""
    role: Literal["feature", "id", "passthrough", "ignore"] = "feature"
    """feature: modelled; id: names the row; passthrough: copied beside the latents; ignore: dropped."""
    likelihood: LikelihoodName | None = None
    """Distribution p(x | z); a feature needs one."""
    nullable: bool = False
    """Whether cells may be missing. Missing cells cost nothing in the loss."""
    shape: tuple[Positive, ...] = ()
    """Height, width and, unless 1, channels of an image column: for convolutions and the report."""
    sigma: Annotated[float, Bounds(ge=0)] = 0.0
    """Fixed standard deviation of a gaussian, in the column's units (squared error); 0: learned."""
    components: Annotated[int, Bounds(ge=1, le=100)] = 5
    """Components of a mixture."""
    group: str = ""
    """Name of the group that shares a joint_mixture."""
    order: tuple[str | int | float, ...] = ()
    """Ranks of an ordinal, lowest first; empty: sorted."""
    levels: Count = 0
    """Values 0..levels-1 of a binomial, discretised_logistic or binarised column."""
    binarise: Literal["none", "static", "dynamic"] = "none"
    """bernoulli over levels: 1 above the middle, or drawn anew in every step with the level as probability."""

    def __post_init__(self) -> None:
        check(self)
        if self.role == "ignore":
            return
        if (match := TYPE.fullmatch(self.type)) is None:
            raise ValueError(
                f"type = {self.type!r} is not known: int8..int64, uint8..uint64, float16..float64, bool, "
                "string, or a vector such as float32[64]"
            )
        if self.role == "id" and not re.fullmatch(r"u?int\d+|string", self.type):
            raise ValueError(f"role = 'id' with type = {self.type!r}: ids are integers or strings")
        if self.role == "id" and self.nullable:
            raise ValueError("role = 'id' with nullable = true: an id is never missing")
        if self.role == "passthrough" and self.nullable and match[4]:
            raise ValueError("role = 'passthrough' with nullable = true: Parquet readers cannot tell a missing vector")
        if self.shape and (len(self.shape) not in (2, 3) or f"[{math.prod(self.shape)}]" != match[4]):
            raise ValueError(f"shape = {list(self.shape)} with type = {self.type!r}: the sizes differ")
        if (self.role == "feature") != (self.likelihood is not None):
            raise ValueError(
                f"role = {self.role!r} with likelihood = {self.likelihood!r}: features, and only they, have one"
            )
        if self.role == "feature":
            self._check_likelihood(number=self.type not in ("string", "bool"), whole="int" in self.type)

    @property
    def numeric(self) -> bool:
        """Whether the model is given the column's numbers, not codes of its categories."""
        return self.likelihood in (*REALS, *COUNTS, *LEVELS) or self.binarise != "none"

    def _check_likelihood(self, *, number: bool, whole: bool) -> None:
        """Raise ValueError for a setting that the likelihood cannot honour."""
        name, kind = self.likelihood, f"likelihood = {self.likelihood!r}"
        levelled = name in LEVELS or self.binarise != "none"
        if self.numeric and not number:
            raise ValueError(f"{kind} with type = {self.type!r}: use 'categorical' or 'bernoulli'")
        if name in COUNTS and not whole:
            raise ValueError(f"{kind} with type = {self.type!r}: counts have an integer type")
        if name == "categorical" and self.type.endswith("]"):
            raise ValueError("likelihood = 'categorical' on a vector: use 'gaussian' or 'bernoulli'")
        if name == "ordinal" and not number and not self.order:
            raise ValueError(f"{kind} with type = {self.type!r}: give the ranks as order, lowest first")
        for setting, wanted in (("sigma", "gaussian"), ("order", "ordinal")):
            if getattr(self, setting) and name != wanted:
                raise ValueError(f"{setting} = {getattr(self, setting)!r} with {kind}: only {wanted!r} has one")
        if len(set(self.order)) < len(self.order):
            raise ValueError(f"order = {list(self.order)}: a rank is named twice")
        if self.binarise != "none" and name != "bernoulli":
            raise ValueError(f"binarise = {self.binarise!r} with {kind}: use 'bernoulli'")
        if levelled != (self.levels > 1):
            raise ValueError(f"levels = {self.levels} with {kind}: how many values, 0 included; 256 for 8-bit pixels")
        if bool(self.group) != (name == "joint_mixture"):
            raise ValueError(f"group = {self.group!r} with {kind}: columns of a joint_mixture name their group")
        if self.group and self.shape:
            raise ValueError(f"shape = {list(self.shape)} with {kind}: an image cannot be part of one")
