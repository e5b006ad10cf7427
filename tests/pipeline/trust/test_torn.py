"""A sample of the faults of row 9; `make faults` tries them all."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import torn
from faults.cases import Case, Found

SAMPLE = [*torn.cases()[:64:4], *torn.cases()[64::8]]


def test_there_are_as_many_as_promised() -> None:
    """64 lengths and 256 bits, no two alike, over every kind of file."""
    names = [it.name for it in torn.cases()]
    assert len(names) == len(set(names)) == 320
    assert all(any(part in name for name in names) for part in ("_manifest", "_quarantine/", "_profile/", "part-"))


@pytest.mark.parametrize("case", SAMPLE, ids=lambda it: it.name)
def test_verify_finds_it(case: Case, tmp_path: Path) -> None:
    """By the name of the file."""
    assert case.run(tmp_path) == Found()


def test_a_file_left_alone_is_no_finding(tmp_path: Path) -> None:
    """The same way with nothing spoilt: `torn`, for there is nothing to find."""
    assert torn._found("int-recon", "_manifest.json", lambda content, _: content, 0.5, tmp_path) == Found(torn=1)
