"""Lines through knots are taken there and back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.features import lines


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=30, unique=True), st.lists(st.floats(-1e12, 1e12), max_size=20)
)
def test_lines_invert(knots: list[float], numbers: list[float]) -> None:
    """There and back along rising lines, within and beyond the knots, to float64's rounding."""
    starts = tuple(sorted(knots))
    assume(min(b - a for a, b in pairwise(starts)) > 1e-3)
    ends = tuple(float(it) for it in np.linspace(-4, 4, len(starts)))
    x = np.array(numbers)
    back = lines.along(lines.along(x, starts, ends), ends, starts)
    slopes = np.diff(starts) / np.diff(ends)
    assert (np.abs(back - x) <= 1e-12 * (np.abs(x) + 1e9) * max(1, slopes.max() / slopes.min())).all()
