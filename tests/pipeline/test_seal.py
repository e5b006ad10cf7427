"""The seal: a manifest's bytes prove themselves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.seal import broken, sealed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda it: st.lists(it, max_size=3) | st.dictionaries(st.text(), it, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_any_facts_can_be_sealed_and_again(facts: dict[str, object]) -> None:
    """Whatever JSON says; sealing twice is sealing once."""
    content = sealed(facts)
    assert broken(content) == ""
    assert sealed({**facts, "seal": "old"}) == content


def test_every_single_bit_and_every_length_is_found() -> None:
    """All of them, of a small manifest."""
    content = sealed({"rows": 3, "files": [{"path": "ä", "share": 0.5}]})
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        assert broken(bytes(flipped)), (bit, bytes(flipped))
    assert all(broken(content[:length]) for length in range(len(content)))
