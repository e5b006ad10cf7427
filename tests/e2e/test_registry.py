"""The registered model of the demo, as a stranger loads it and as a server serves it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from harness import Demo
from mlflow.tracking import MlflowClient

from pipeline import latents

STRANGER = """
import importlib.util, json, sys
sys.meta_path = [it for it in sys.meta_path if "editable" not in getattr(it, "__module__", it.__class__.__module__)
                 and "editable" not in getattr(it, "__name__", "")]
sys.path = [it for it in sys.path if it != sys.argv[4]]
assert importlib.util.find_spec("vae") is None and importlib.util.find_spec("pipeline") is None
import mlflow, numpy as np, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
rows = pd.read_parquet(sys.argv[2])
codes = mlflow.pyfunc.load_model("models:/digits@champion").predict(rows)
np.save(sys.argv[3], np.stack(codes["mu"].to_list()))
"""


@pytest.fixture(scope="module")
def uri(demo: Demo) -> str:
    """The demo's tracking server."""
    return f"sqlite:///{demo.workspace / 'mlflow.db'}"


def environment() -> dict[str, str]:
    """Pickles refused, Python path empty."""
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**plain, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def published(demo: Demo) -> np.ndarray[Any, np.dtype[np.float32]]:
    """`mu` of every row, by id."""
    table = latents.read(demo.latents).to_table(columns=["id", "mu"]).sort_by("id")
    return np.stack(table.column("mu").to_numpy())


def test_a_process_without_the_project_computes_the_same_codes(demo: Demo, uri: str, tmp_path: Path) -> None:
    """The code travels with the model: `predict(DataFrame)` gives what `encode` published, to the bit."""
    source, out = demo.workspace / "sources" / "digits.parquet", tmp_path / "mu.npy"
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-P", "-c", STRANGER, uri, str(source), str(out), root]
    ended = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    order = np.argsort(pq.read_table(source, columns=["id"]).column(0).to_numpy())
    assert np.array_equal(np.load(out)[order], published(demo))


def test_the_artefact_holds_no_pickle(demo: Demo) -> None:
    """safetensors, JSON, Python sources and MLflow's own text files; nothing that executes when it is read."""
    (model,) = demo.workspace.glob("mlartifacts/models/*/artifacts")
    suffixes = {path.suffix for path in model.rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".py", ".yaml", ".txt", ".md", ".typed", ""}, suffixes
    assert not list(model.rglob("__pycache__"))
    assert {"config.json", "features.json", "model.safetensors", "checksums.json"} <= {
        path.name for path in (model / "artifacts" / "model").iterdir()
    }


def test_the_run_tells_everything(demo: Demo, uri: str) -> None:
    """One run: parameters, a metric per epoch, the config, the dataset by our digest, the plots, the test figures."""
    client = MlflowClient(uri)
    run = client.get_run(demo.summary["trained"]["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "150"
    assert run.data.params["model.latent"] == "16"
    assert len(client.get_metric_history(run.info.run_id, "elbo")) == demo.summary["trained"]["epochs"]
    assert run.data.metrics["test_elbo"] == pytest.approx(demo.summary["trained"]["elbo"])
    (dataset,) = run.inputs.dataset_inputs
    assert demo.summary["ingested"]["digest"].startswith(dataset.dataset.digest)
    assert run.data.tags["latentpipe.dataset_digest"] == demo.summary["ingested"]["digest"]
    files = {it.path for it in client.list_artifacts(run.info.run_id, "report")}
    assert {
        "report/index.html",
        "report/training.png",
        "report/pace.png",
        "report/latents.png",
        "report/latent-use.png",
    } <= files
    assert "config.json" in {it.path for it in client.list_artifacts(run.info.run_id)}


def test_the_champion_was_checked_before_it_became_one(demo: Demo, uri: str) -> None:
    """The alias points to the version whose tags say that it was loaded back and compared."""
    version = MlflowClient(uri).get_model_version_by_alias("digits", "champion")
    assert int(version.version) == demo.summary["registered"]["version"]
    assert version.tags["latentpipe.checked"] == "true"
    assert version.tags["latentpipe.model_digest"] == demo.summary["trained"]["digest"]


@pytest.fixture
def served(uri: str, tmp_path: Path) -> Iterator[str]:
    """`mlflow models serve`, on a port of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mlflow = str(Path(sys.executable).with_name("mlflow"))
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [mlflow, "models", "serve", "-m", "models:/digits@champion", "--env-manager", "local", "-p", str(port)]
    env = {**environment(), "MLFLOW_TRACKING_URI": uri, "PATH": bin_first}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(url: str, body: dict[str, Any], *, timeout_s: float = 90) -> Any:
    """POST as JSON, waiting for the server to come up."""
    deadline = time.monotonic() + timeout_s
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except (urllib.error.URLError, ConnectionError) as error:
            if isinstance(error, urllib.error.HTTPError) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_the_model_can_be_served(demo: Demo, served: str) -> None:
    """`mlflow models serve` answers with the codes that `encode` published."""
    rows = pq.read_table(demo.workspace / "sources" / "digits.parquet").sort_by("id").slice(0, 3)
    records = [{"pixels": pixels} for pixels in rows.column("pixels").to_pylist()]
    answer = ask(served, {"dataframe_records": records})
    mu = np.array([row["mu"] for row in answer["predictions"]], dtype=np.float32)
    assert np.allclose(mu, published(demo)[:3], rtol=1e-6, atol=1e-7)
