"""Bits of a text, against a loop over its bytes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources import bits

TEXTS = st.text("ab", max_size=300).map(str.encode)


def places(found: bits.Bits) -> list[int]:
    """The places, one by one."""
    return np.flatnonzero(np.unpackbits(found.view(np.uint8), bitorder="little")).tolist()


@given(text=TEXTS)
def test_places_are_those_of_the_bytes(text: bytes) -> None:
    """Of one byte or of all up to it; their number, the first and the last."""
    here = [at for at, byte in enumerate(text) if byte == ord("b")]
    found = bits.where(np.frombuffer(text, np.uint8), ord("b"))
    assert places(found) == places(bits.at(np.array(here, np.intp), len(text))) == here
    assert places(bits.where(np.frombuffer(text, np.uint8), ord("b"), up_to=True)) == list(range(len(text)))
    assert (bits.count(found), bits.first(found), bits.last(found)) == (
        len(here),
        here[0] if here else -1,
        here[-1] if here else -1,
    )


@given(text=TEXTS, first=st.booleans())
def test_neighbours_and_what_lies_between(text: bytes, first: bool) -> None:
    """One place on; and from each odd mark to before the next."""
    marks = bits.where(np.frombuffer(text, np.uint8), ord("b"))
    moved = bits.within(bits.after(marks, first=first), len(text))
    assert places(moved) == [at for at in range(len(text)) if (text[at - 1 : at] == b"b" if at else first)]
    inside = bits.within(bits.between(marks), len(text))
    assert places(inside) == [at for at in range(len(text)) if text[: at + 1].count(b"b") % 2]
