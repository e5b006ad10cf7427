"""What a run's configuration says of one column: its type, its role, its distribution."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Final, Literal

from vae.config import COUNTS, FORBID_EXTRA, LEVELS, REALS, WARPED, Bounds, Count, LikelihoodName, Positive, check

TYPE: Final = re.compile(
    r"(u?int(8|16|32|64)|float(16|32|64)|bool)(\[[1-9]\d*\])?|string|binary|date|time|timestamp|duration"
)
UNMODELLED: Final = ("binary",)
"""Types of columns that are kept but that no likelihood is over."""
CALENDAR: Final = ("date", "time", "timestamp")
"""Types of times whose zero is a convention."""


@dataclass(frozen=True, kw_only=True)
class ColumnConfig:
    """What one column must be, and what it is for."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    type: str
    """int8..int64, uint8..uint64, float16..float64, bool, string, binary, date, time, timestamp (in UTC), duration, or
    a vector such as float32[64]."""
    role: Literal["feature", "id", "passthrough", "ignore"] = "feature"
    """feature: modelled; id: names the row; passthrough: copied beside the latents; ignore: dropped."""
    likelihood: LikelihoodName | None = None
    """Distribution p(x | z); a feature needs one."""
    nullable: bool = False
    """Whether cells may be missing. Missing cells cost nothing in the loss."""
    optional: bool = False
    """Whether a file may lack the column; its cells are then missing."""
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

    unit: str = ""
    """Unit of the numbers, such as `m` or `USD`; told to readers."""
    range: tuple[float, ...] = ()
    """Lowest and highest number allowed, `inf` for no bound; a row beyond breaks the contract."""
    categories: tuple[str | int | float | bool, ...] = ()
    """Known categories; others are counted and reported, and encoded as unknown."""
    secret: bool = False
    """Whether its values are kept out of messages, logs and the quarantine."""
    transform: Literal["standardise", "robust", "log1p", "rank_gauss"] = "standardise"
    """How a real's numbers are scaled for the model: by mean and standard deviation, by median and interquartile range,
    by those of log(1 + x), or by their rank, made normal. Always inverted in what is written."""

    def __post_init__(self) -> None:
        check(self)
        if self.role == "ignore":
            return
        if (match := TYPE.fullmatch(self.type)) is None:
            raise ValueError(
                f"type = {self.type!r} is not known: int8..int64, uint8..uint64, float16..float64, bool, "
                "string, binary, date, time, timestamp, duration, or a vector such as float32[64]"
            )
        if self.role == "id" and not re.fullmatch(r"u?int\d+|string|binary", self.type):
            raise ValueError(f"role = 'id' with type = {self.type!r}: ids are integers, strings or bytes")
        if self.role == "feature" and self.type in UNMODELLED:
            raise ValueError(f"type = {self.type!r} with role = 'feature': no likelihood takes it, use 'passthrough'")
        if self.optional and not self.nullable:
            raise ValueError("optional = true with nullable = false: the cells of an absent column are missing")
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
        self._check_values()
        self._check_transform()

    @property
    def numeric(self) -> bool:
        """Whether the model is given the column's numbers, not codes of its categories."""
        return self.likelihood in (*REALS, *COUNTS, *LEVELS) or self.binarise != "none"

    def told(self) -> dict[str, Any]:
        """The settings that are not left to their default."""
        settings = ((it.name, getattr(self, it.name), it.default) for it in fields(self))
        return {name: value for name, value, default in settings if value != default}

    def _check_values(self) -> None:
        """Raise ValueError for a rule that no value of the type could keep."""
        for setting in ("range", "levels"):
            if (rule := getattr(self, setting)) and not re.match("u?int|float", self.type):
                raise ValueError(f"{setting} = {rule!r} with type = {self.type!r}: only numbers have one")
        if self.range and not (len(self.range) == 2 and -math.inf < self.range[1] >= self.range[0] < math.inf):
            raise ValueError(f"range = {list(self.range)}: the lowest and the highest number, such as [0, 120]")
        if self.categories and (self.likelihood not in (None, "categorical", "bernoulli") or self.numeric):
            raise ValueError(f"categories with likelihood = {self.likelihood!r}: only 'categorical' and 'bernoulli'")
        if self.likelihood == "bernoulli" and len(self.categories) > 2:
            raise ValueError(f"categories = {list(self.categories)} with likelihood = 'bernoulli': it is over two")
        for setting in ("categories", "order"):
            values = getattr(self, setting)
            if strange := [it for it in values if not _may_hold(self.type, it)]:
                raise ValueError(f"{setting} = {list(values)}: {strange[0]!r} is no {self.type}")
            if len(set(values)) < len(values):
                raise ValueError(f"{setting} = {list(values)}: a value is named twice")

    def _check_transform(self) -> None:
        """Raise ValueError for a transform without a meaning, or a time under a likelihood that is not over reals."""
        kind, transform = f"likelihood = {self.likelihood!r}", f"transform = {self.transform!r}"
        bent = self.transform in ("log1p", "rank_gauss")
        meant = WARPED if bent else REALS
        if self.transform != "standardise" and self.likelihood not in meant:
            raise ValueError(f"{transform} with {kind}: only for {', '.join(map(repr, meant))}")
        if bent and self.sigma:
            raise ValueError(f"{transform} with sigma = {self.sigma:g}: its scale is not the same everywhere")
        if self.type in (*CALENDAR, "duration") and self.likelihood not in (None, *REALS):
            raise ValueError(f"{kind} with type = {self.type!r}: use 'gaussian', 'student_t' or 'mixture'")
        if self.type in CALENDAR and (bent or self.likelihood == "log_normal"):
            wrong = transform if bent else kind
            raise ValueError(f"{wrong} with type = {self.type!r}: its zero is but a convention")

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
        if self.binarise != "none" and name != "bernoulli":
            raise ValueError(f"binarise = {self.binarise!r} with {kind}: use 'bernoulli'")
        if levelled != (self.levels > 1):
            raise ValueError(f"levels = {self.levels} with {kind}: how many values, 0 included; 256 for 8-bit pixels")
        if bool(self.group) != (name == "joint_mixture"):
            raise ValueError(f"group = {self.group!r} with {kind}: columns of a joint_mixture name their group")
        if self.group and self.shape:
            raise ValueError(f"shape = {list(self.shape)} with {kind}: an image cannot be part of one")


def _may_hold(kind: str, value: str | int | float | bool) -> bool:
    """Whether a TOML value can be a cell of a column of this type."""
    family = re.match(r"(bool|string|float|int|uint)(\d*)", kind)
    if family is None or isinstance(value, bool) or family[1] == "bool":
        return family is not None and family[1] == "bool" and isinstance(value, bool)
    if isinstance(value, int) and family[1] in ("int", "uint"):
        low = -(1 << int(family[2]) - 1) if family[1] == "int" else 0
        return low <= value < low + (1 << int(family[2]))
    return isinstance(value, {"string": str, "float": int | float}.get(family[1], ()))
