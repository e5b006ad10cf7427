"""What these tests share: one finished run. Those that harm something work on a copy."""

from __future__ import annotations

import pytest
from workspaces import Workspace, run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, ray_up: None) -> Workspace:
    """From table to coordinates, with evidence of every kind."""
    everything = {"errors": True, "draws": 2, "importance_samples": 4, "imputed": 4}
    return run(tmp_path_factory.mktemp("made"), encode=everything)
