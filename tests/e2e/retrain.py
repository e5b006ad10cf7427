"""deploy/retrain.yaml: on a real Prefect server, a drift event of ours becomes a run of `train`. No worker runs it.

By hand, for it takes a server of its own: `pytest tests/e2e/retrain.py`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import ROOT

SHIPPED = ROOT / "deploy" / "retrain.yaml"
PREFECT = str(Path(sys.executable).with_name("prefect"))
TELL = """
import json, sys
from pathlib import Path
from flows import events
from pipeline import runfile
from pipeline.records import Encoded
from prefect.events.worker import EventsWorker
events.tell(runfile.load(sys.argv[1]), Encoded(**json.loads(sys.argv[2])))
EventsWorker.instance().drain()
"""


@dataclass(frozen=True)
class Server:
    """A Prefect server with a home of its own."""

    home: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """Ours, but for anything that would lead to another Prefect."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        at = {"PREFECT_HOME": str(self.home), "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api"}
        return {**ours, **at, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_UI_ENABLED": "false"}

    def run(self, *command: str) -> None:
        """To its end."""
        subprocess.run(command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, check=True, timeout=200)

    def ask(self, path: str, **criteria: Any) -> Any:
        """What the server answers."""
        url = f"http://127.0.0.1:{self.port}/api/{path}"
        with httpx.Client(timeout=30, trust_env=False) as client:
            answer = client.post(url, json=criteria) if path.endswith("filter") else client.get(url)
        answer.raise_for_status()
        return answer.json()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One that answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found = Server(tmp_path / "prefect", probe.getsockname()[1])
    command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(found.port)]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=found.environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _until(lambda: _healthy(found))
        yield found
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def _healthy(server: Server) -> bool:
    try:
        return bool(server.ask("health"))
    except httpx.HTTPError:
        return False


def _until(answer: Callable[[], Any], tries: int = 400) -> Any:
    for _ in range(tries):
        if found := answer():
            return found
        time.sleep(0.5)
    pytest.fail("nothing came")


@pytest.mark.timeout(600)
def test_a_drift_event_becomes_a_training(server: Server, tmp_path: Path) -> None:
    """Deployed as shipped; told by `flows.events` as `encode` tells; nothing is due before, one run after."""
    signals = [{"of": "inputs", "name": "pixels", "what": "distance", "value": 1.0, "threshold": 0.1, "moved": True}]
    drift = {"verdict": "data", "rows": 1797, "false_alarms": 0.01, "signals": signals}
    (tmp_path / "v000001").mkdir()
    (tmp_path / "v000001" / "_manifest.json").write_text(json.dumps({"drift": drift}))
    facts = {"key": "k", "digest": "d", "rows": 1797, "quarantined": 0, "files": 4, "bytes": 1, "latent": 16}
    encoded = {**facts, "snapshot": str(tmp_path / "v000001"), "model": "digits/1", "drift": "data", "new": True}
    server.run(PREFECT, "--no-prompt", "work-pool", "create", "latentpipe", "--type", "process")
    server.run(PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(SHIPPED))
    assert not server.ask("flow_runs/filter")
    server.run(sys.executable, "-c", TELL, "deploy/runs/demo.toml", json.dumps(encoded))
    [run] = _until(lambda: server.ask("flow_runs/filter"))
    deployment = server.ask("deployments/name/latentpipe-train/retrain")
    assert run["deployment_id"] == deployment["id"]
    assert run["parameters"]["config"]["name"] == "digits"
