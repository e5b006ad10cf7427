"""One Ray, one Prefect harness and one finished demo run for the whole session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
LATENTPIPE = str(Path(sys.executable).with_name("latentpipe"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real tables that lie beside the project; tests that need them say so when they are absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real tables at {SHARED}")
    return SHARED
