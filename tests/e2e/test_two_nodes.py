"""The same code on a cluster: a `ray start` head and a second node, both on this machine."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import latentpipe, small_csv
from nodes import free_port, head, second

TOML = """
name = "small"
[data]
uri = "small.csv"
part_rows = 100
[columns]
id = { type = "int64", role = "id" }
height = { type = "float64", likelihood = "gaussian", nullable = true }
city = { type = "string", likelihood = "categorical", nullable = true }
[model]
latent = 2
hidden = [8]
[train]
epochs = 2
"""
NODES = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sorted(int(node["Resources"]["CPU"]) for node in ray.nodes() if node["Alive"]))
"""


def nodes(address: str) -> str:
    """CPUs of each node, as a driver sees them."""
    ended = subprocess.run([sys.executable, "-c", NODES, address], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cluster of two nodes with one CPU each, and a token that every node and driver must have."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with head(tmp_path / "head.log") as found, second(tmp_path / "second.log", found):
        assert nodes(found) == "[1, 1]"
        yield found


@pytest.mark.timeout(300)
def test_training_and_encoding_spread_over_two_nodes(address: str, tmp_path: Path) -> None:
    """With one CPU a node, two workers of one CPU each need both; the table goes the whole way all the same."""
    small_csv(tmp_path / "small.csv")
    (tmp_path / "run.toml").write_text(TOML)
    for verb in ("ingest", "train", "register", "encode"):
        ended = latentpipe(verb, "run.toml", "--set", f"cluster.address={address}", "--json", cwd=tmp_path)
        assert ended.code == 0, ended.stderr
    assert ended.answer["rows"] == 300
    assert nodes(address) == "[1, 1]"


def test_no_cluster_at_the_address_is_exit_4(tmp_path: Path) -> None:
    """A wrong address is an error with that address, within a bounded time."""
    small_csv(tmp_path / "small.csv")
    (tmp_path / "run.toml").write_text(TOML)
    assert latentpipe("ingest", "run.toml", cwd=tmp_path).code == 0
    wrong = f"127.0.0.1:{free_port()}"
    ended = latentpipe("train", "run.toml", "--set", f"cluster.address={wrong}", cwd=tmp_path)
    assert ended.code == 4
    assert f"latentpipe: {wrong}: Ray does not answer" in ended.stderr
