"""Whom an error is put down to."""

from __future__ import annotations

import pytest

from pipeline.errors import DataError, InfrastructureError
from pipeline.sources import File
from pipeline.sources.limits import refusals

LOST = OSError("When reading key 'k': AWS Error NETWORK_CONNECTION during GetObject: curlCode: 28\nmore")


def file(uri: str) -> File:
    """One of this name."""
    return File(uri=uri, name="k.csv", bytes=1, stamp="", mark="")


def test_a_lost_connection_is_not_the_files_fault() -> None:
    """Trying again may help; no other file can have lost one."""
    words = r"k.csv: the store does not answer: When reading key 'k': AWS Error"
    with pytest.raises(InfrastructureError, match=words), refusals(file("s3://b/k.csv")):
        raise LOST
    with pytest.raises(DataError, match=r"k.csv: cannot be read: When reading key"), refusals(file("/k.csv")):
        raise LOST


@pytest.mark.parametrize("error", [ValueError("odd: \nmore"), EOFError("odd"), MemoryError("odd"), OSError("odd.")])
def test_reasons_are_one_line(error: Exception) -> None:
    """Whatever was thrown."""
    with pytest.raises(DataError) as caught, refusals(file("s3://b/k.csv")):
        raise error
    assert str(caught.value) == "k.csv: cannot be read: odd\n  cure: check data.format and the file"


def test_mistakes_of_ours_are_not_hidden() -> None:
    """What no reader throws passes."""
    with pytest.raises(ZeroDivisionError), refusals(file("/k.csv")):
        _ = 1 / 0
