"""A manifest that proves itself: its own digest is in it, and its bytes are the one way to write its facts.

So a bit that flips anywhere in the file, or a file cut short, is found by looking at that file alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

SEAL: Final = "seal"


def sealed(facts: Mapping[str, Any]) -> bytes:
    """The facts as a manifest's bytes, with the sha256 of all the others under `seal`.

    >>> broken(sealed({"rows": 3}))
    ''
    >>> broken(sealed({"rows": 3}).replace(b"3,", b"4,"))
    'its facts are not those that were sealed'
    """
    plain = {name: value for name, value in json.loads(json.dumps(facts)).items() if name != SEAL}
    return _written({**plain, SEAL: hashlib.sha256(_written(plain)).hexdigest()})


def broken(content: bytes) -> str:
    """What is wrong with a manifest's bytes; empty if they are as they were sealed."""
    try:
        facts = json.loads(content)
    except ValueError as error:
        return f"not readable as JSON: {error}"
    if not isinstance(facts, dict) or SEAL not in facts:
        return "it has no seal"
    expected = sealed(facts)
    if json.loads(expected)[SEAL] != facts[SEAL]:
        return "its facts are not those that were sealed"
    return "" if content == expected else "its bytes are not those that were sealed"


def _written(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts, indent=1, sort_keys=True).encode()
