"""One PostgreSQL for the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers import PostgreSQL, postgresql, postgresql_programs


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """A server of its own."""
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    with postgresql(programs) as server:
        yield server
