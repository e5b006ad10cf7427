"""What a run's config may say of a column: every rule refuses by name."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from pipeline.columns import ColumnConfig
from vae.config import CATEGORIES, COUNTS, LEVELS, REALS

GAUSSIAN = {"type": "float64", "likelihood": "gaussian"}
RULES: list[tuple[dict[str, Any], str]] = [
    ({"type": "decimal"}, "type = 'decimal' is not known: int8..int64, uint8..uint64, float16..float64, bool, string"),
    ({"type": "float32[0]", "likelihood": "gaussian"}, "type = 'float32[0]' is not known"),
    ({"type": "float64", "role": "id"}, "role = 'id' with type = 'float64': ids are integers, strings or bytes"),
    ({"type": "int64", "role": "id", "nullable": True}, "role = 'id' with nullable = true: an id is never missing"),
    (
        {"type": "int8[4]", "role": "passthrough", "nullable": True},
        "role = 'passthrough' with nullable = true: Parquet readers cannot tell a missing vector",
    ),
    (
        {"type": "uint8[64]", "likelihood": "gaussian", "shape": (8, 9)},
        "shape = [8, 9] with type = 'uint8[64]': the sizes differ",
    ),
    ({"type": "uint8[64]", "likelihood": "gaussian", "shape": (64,)}, "shape = [64] with type = 'uint8[64]'"),
    ({"type": "uint8[64]", "likelihood": "gaussian", "shape": (4, 4, 2, 2)}, "shape = [4, 4, 2, 2]"),
    ({"type": "uint8", "likelihood": "gaussian", "shape": (1, 1)}, "shape = [1, 1] with type = 'uint8'"),
    ({"type": "int8"}, "role = 'feature' with likelihood = None: features, and only they, have one"),
    (
        {"type": "int8", "role": "passthrough", "likelihood": "gaussian"},
        "role = 'passthrough' with likelihood = 'gaussian': features, and only they, have one",
    ),
    (
        {"type": "string", "likelihood": "gaussian"},
        "likelihood = 'gaussian' with type = 'string': use 'categorical' or 'bernoulli'",
    ),
    ({"type": "bool", "likelihood": "log_normal"}, "likelihood = 'log_normal' with type = 'bool': use 'categorical'"),
    ({"type": "bool", "likelihood": "bernoulli", "levels": 2, "binarise": "static"}, "with type = 'bool': use"),
    (
        {"type": "float32", "likelihood": "poisson"},
        "likelihood = 'poisson' with type = 'float32': counts have an integer type",
    ),
    ({"type": "float64[4]", "likelihood": "negative_binomial"}, "counts have an integer type"),
    (
        {"type": "int8[4]", "likelihood": "categorical"},
        "likelihood = 'categorical' on a vector: use 'gaussian' or 'bernoulli'",
    ),
    (
        {"type": "string", "likelihood": "ordinal"},
        "likelihood = 'ordinal' with type = 'string': give the ranks as order, lowest first",
    ),
    ({"type": "bool", "likelihood": "ordinal"}, "likelihood = 'ordinal' with type = 'bool': give the ranks as order"),
    (
        {"type": "string", "likelihood": "ordinal", "order": ("low", "high", "low")},
        "order = ['low', 'high', 'low']: a value is named twice",
    ),
    (
        {"type": "float64", "likelihood": "student_t", "sigma": 0.5},
        "sigma = 0.5 with likelihood = 'student_t': only 'gaussian' has one",
    ),
    (
        {"type": "string", "likelihood": "categorical", "order": ("a", "b")},
        "order = ('a', 'b') with likelihood = 'categorical': only 'ordinal' has one",
    ),
    (
        {"type": "uint8", "likelihood": "binomial", "levels": 256, "binarise": "static"},
        "binarise = 'static' with likelihood = 'binomial': use 'bernoulli'",
    ),
    (
        {"type": "uint8", "likelihood": "binomial"},
        "levels = 0 with likelihood = 'binomial': how many values, 0 included; 256 for 8-bit pixels",
    ),
    ({"type": "uint8", "likelihood": "discretised_logistic", "levels": 1}, "levels = 1 with likelihood ="),
    ({"type": "uint8", "likelihood": "bernoulli", "binarise": "dynamic"}, "levels = 0 with likelihood = 'bernoulli'"),
    ({**GAUSSIAN, "levels": 5}, "levels = 5 with likelihood = 'gaussian'"),
    (
        {**GAUSSIAN, "group": "g"},
        "group = 'g' with likelihood = 'gaussian': columns of a joint_mixture name their group",
    ),
    ({"type": "float64", "likelihood": "joint_mixture"}, "group = '' with likelihood = 'joint_mixture'"),
    ({**GAUSSIAN, "sigma": -1.0}, "sigma = -1.0: must be >= 0"),
    ({**GAUSSIAN, "components": 0}, "components = 0: must be >= 1 and <= 100"),
    ({**GAUSSIAN, "levels": -1}, "levels = -1: must be >= 0"),
    ({**GAUSSIAN, "binarise": "sometimes"}, "binarise = 'sometimes': must be one of 'none', 'static', 'dynamic'"),
    ({**GAUSSIAN, "role": "target"}, "role = 'target': must be one of 'feature', 'id', 'passthrough', 'ignore'"),
    ({"type": "uint8[4]", "likelihood": "gaussian", "shape": (-2, -2)}, "shape = -2: must be >= 1"),
    ({"type": "binary", "likelihood": "categorical"}, "type = 'binary' with role = 'feature': no likelihood takes it"),
    (
        {**GAUSSIAN, "optional": True},
        "optional = true with nullable = false: the cells of an absent column are missing",
    ),
    (
        {"type": "string", "role": "passthrough", "range": (0, 1)},
        "range = (0, 1) with type = 'string': only numbers have one",
    ),
    ({"type": "date", "role": "passthrough", "levels": 2}, "levels = 2 with type = 'date': only numbers have one"),
    ({**GAUSSIAN, "range": (1.0,)}, "range = [1.0]: the lowest and the highest number, such as [0, 120]"),
    ({**GAUSSIAN, "range": (2.0, 1.0)}, "range = [2.0, 1.0]: the lowest and the highest number"),
    ({**GAUSSIAN, "range": (math.nan, 1.0)}, "range = [nan, 1.0]: the lowest and the highest number"),
    ({**GAUSSIAN, "range": (math.inf, math.inf)}, "range = [inf, inf]: the lowest and the highest number"),
    (
        {**GAUSSIAN, "categories": (1.0,)},
        "categories with likelihood = 'gaussian': only 'categorical' and 'bernoulli'",
    ),
    (
        {"type": "string", "likelihood": "categorical", "categories": ("a", 1)},
        "categories = ['a', 1]: 1 is no string",
    ),
    ({"type": "int8", "likelihood": "categorical", "categories": (0, 128)}, "categories = [0, 128]: 128 is no int8"),
    ({"type": "uint8", "likelihood": "categorical", "categories": (-1, 1)}, "categories = [-1, 1]: -1 is no uint8"),
    ({"type": "int8", "likelihood": "categorical", "categories": (True,)}, "categories = [True]: True is no int8"),
    ({"type": "int8", "likelihood": "ordinal", "order": (1, 2.5)}, "order = [1, 2.5]: 2.5 is no int8"),
    (
        {"type": "string", "likelihood": "categorical", "categories": ("a", "a")},
        "categories = ['a', 'a']: a value is named twice",
    ),
]


@pytest.mark.parametrize(("settings", "words"), RULES, ids=[words[:40] for _, words in RULES])
def test_a_column_that_cannot_be_is_refused(settings: dict[str, Any], words: str) -> None:
    """The setting, its value and the rule; a setting that would have no effect is not ignored."""
    with pytest.raises(ValueError, match=re.escape(words)):
        ColumnConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        *({"type": "float32", "likelihood": it, "group": "g" * (it == "joint_mixture")} for it in REALS),
        *({"type": "uint16[9]", "likelihood": it, "shape": (3, 3)} for it in COUNTS),
        *({"type": "float64[12]", "likelihood": it, "levels": 17, "shape": (2, 2, 3)} for it in LEVELS),
        *({"type": "uint8[4]", "likelihood": "bernoulli", "levels": 2, "binarise": it} for it in ("static", "dynamic")),
        *({"type": "int64", "likelihood": it} for it in CATEGORIES),
        {"type": "string", "likelihood": "ordinal", "order": ("low", "high")},
        {"type": "struct<a: int8>", "role": "ignore"},
        *({"type": it, "role": "passthrough"} for it in ("binary", "date", "time", "timestamp", "duration")),
        {"type": "binary", "role": "id"},
        {"type": "float64", "likelihood": "gaussian", "range": (0, math.inf), "unit": "m"},
        {"type": "float32", "likelihood": "categorical", "categories": (1, 2.5)},
        {"type": "int8", "likelihood": "categorical", "categories": (-128, 127), "nullable": True, "optional": True},
        {"type": "bool", "role": "passthrough", "categories": (True, False), "secret": True},
        {"type": "float32[4]", "role": "passthrough"},
    ],
)
def test_a_column_that_can_be_is_taken(settings: dict[str, Any]) -> None:
    """Every likelihood with a type that suits it; what is ignored may have any."""
    assert ColumnConfig(**settings).type == settings["type"]
