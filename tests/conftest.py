"""What the session shares: the real tables, one finished demo run, one embedded Ray, one Prefect server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ROOT, SHARED, Demo, latentpipe

COSTLY = {"ray": {"ray_up", "prefect_up", "demo"}, "servers": {"s3_port", "postgres"}}
"""Fixtures of which the session has one each."""


@pytest.hookimpl(tryfirst=True)  # before the plugin that spreads them reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share something costly stay in one process; `make test` spreads the others over two."""
    for item in items:
        needs = set(getattr(item, "fixturenames", ()))
        if item.path.parent.name == "e2e":  # its commands start a Ray of their own
            needs.add("ray_up")
        for group, fixtures in COSTLY.items():
            if needs & fixtures:
                item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real tables that lie beside the project; tests that need them say so when they are absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real tables at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """`latentpipe run deploy/runs/demo.toml`, in a workspace of its own."""
    workspace = tmp_path_factory.mktemp("demo") / "workspace"
    arguments = ("run", str(ROOT / "deploy/runs/demo.toml"), "--set", f"workspace={workspace}")
    ended = latentpipe(*arguments, "--json", cwd=workspace.parent)
    assert ended.code == 0, ended.stderr
    return Demo(workspace, ended.answer, ended.stderr, arguments)


@pytest.fixture(scope="session")
def ray_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One embedded Ray for all tests that work in this process."""
    from pipeline.cluster import ray_session
    from pipeline.config import Cluster

    with ray_session(Cluster(), cpus=2, log=tmp_path_factory.mktemp("ray") / "ray.log"):
        yield


@pytest.fixture(scope="session")
def prefect_up() -> Iterator[None]:
    """One temporary Prefect server and database for all tests that run flows in this process."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
