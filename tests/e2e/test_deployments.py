"""deploy/prefect.yaml: deployed to a real Prefect server, and run by a real process worker, all on loopback."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import httpx
import jsonschema
import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel

from pipeline import runfile
from pipeline.training import checkpoints

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "prefect.yaml"
T = TypeVar("T")
PREFECT = str(Path(sys.executable).with_name("prefect"))
ARTEFACTS = {"digits-figures": "table", "digits-plots": "markdown", "digits-latents": "markdown"}  # a link is markdown
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_PREFETCH_SECONDS": "1",
}

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # mlflow's import


def _shipped() -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    return settings


def _check_keys(settings: dict[str, Any]) -> None:
    """Raise jsonschema.ValidationError for a key or value that this Prefect does not know; it would drop the key."""
    schema = PrefectYamlModel.model_json_schema()
    for kind in (schema, *schema["$defs"].values()):
        kind["additionalProperties"] = False
    jsonschema.validate(settings, schema)


@pytest.mark.parametrize("deployment", _shipped()["deployments"], ids=lambda it: it["name"])
def test_a_deployment_runs_the_demo_by_a_flow_of_ours(deployment: dict[str, Any]) -> None:
    """Each entry point is a flow in its file, and `config` is deploy/runs/demo.toml."""
    path, name = deployment["entrypoint"].split(":")
    assert (ROOT / path).is_file()
    assert isinstance(getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name), Flow)
    assert runfile.parse(deployment["parameters"]["config"]) == runfile.load(ROOT / "deploy" / "runs" / "demo.toml")


def test_every_key_is_known() -> None:
    """Prefect ignores a key it does not know, so the file has none."""
    _check_keys(_shipped())


@pytest.mark.parametrize("section", ["work_pool", "schedules", "concurrency_limit", None])
def test_a_misspelt_key_is_found(section: str | None) -> None:
    """The check above can fail, at every depth."""
    settings = _shipped()
    place = settings["deployments"][-1]
    place = place if section is None else place[section]
    (place[0] if isinstance(place, list) else place)["tmezone"] = "UTC"
    with pytest.raises(jsonschema.ValidationError):
        _check_keys(settings)


@dataclass(frozen=True)
class Platform:
    """A Prefect server and its worker, with their own home, port, workspace and logs in one folder."""

    folder: Path
    port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def api(self) -> httpx.Client:
        """A connection to the server, to be closed."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api/", timeout=30, trust_env=False)

    @property
    def mark(self) -> str:
        """In the environment of every process that comes of this platform, and of no other."""
        return f"PREFECT_HOME={self.folder}"

    @property
    def environment(self) -> dict[str, str]:
        """Ours, but for anything that would lead to another Prefect."""
        own = {"PREFECT_HOME": str(self.folder), "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api"}
        return {**{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}, **SETTINGS, **own}

    def prefect(self, *arguments: str) -> None:
        """Run one command to its end, as one would at the root of the checkout."""
        with (self.folder / "commands.log").open("ab") as log:
            command = [PREFECT, "--no-prompt", *arguments]
            subprocess.run(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, timeout=90, check=True)

    def start(self, name: str, *arguments: str) -> None:
        """Start one command that stays, in its own process group."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [PREFECT, *arguments], cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def alive(self) -> set[int]:
        """Every process that came of this platform: the server, the worker, runs of flows, and Ray's."""
        return {int(it.parent.name) for it in Path("/proc").glob("[0-9]*/environ") if self.mark in _environ(it)}

    def of_ray(self) -> set[int]:
        """Those of them that are Ray's."""
        return {pid for pid in self.alive() if re.search("ray::|/ray/", _command(pid))}

    def stop(self) -> None:
        """End all of it, the worker first; then show the ends of the logs, which pytest prints if a test failed."""
        for process in reversed(self.processes.values()):
            _end(process)
        for pid in self.alive():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for log in sorted(self.folder.glob("*.log")):
            print(f"--- {log.name}\n", *log.read_text(errors="replace").splitlines(keepends=True)[-40:])

    def ask(self, path: str, **criteria: Any) -> Any:
        """What the server answers to a filter, or to a plain reading."""
        with self.api as api:
            answer = api.post(path, json=criteria) if path.endswith("filter") else api.get(path)
        answer.raise_for_status()
        return answer.json()

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Its runs, in the order they are due."""
        runs = self.ask("flow_runs/filter", deployments={"name": {"any_": [deployment]}})
        return sorted(runs, key=lambda run: run["expected_start_time"])

    def state(self, run: dict[str, Any]) -> dict[str, Any]:
        """Its state now."""
        state: dict[str, Any] = self.ask(f"flow_runs/{run['id']}")["state"]
        return state

    def artefacts(self, run: dict[str, Any]) -> dict[str, str]:
        """Kind of each artefact of a run, by its key."""
        artefacts = self.ask("artifacts/filter", flow_runs={"id": {"any_": [run["id"]]}})
        return {it["key"]: it["type"] for it in artefacts if it["key"]}

    def completed(self, run: dict[str, Any], *, within_s: float) -> None:
        """Wait for the end of the run, which must be a good one."""
        ended = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        _until(lambda: self.state(run)["type"] in ended, within_s=within_s, what=f"the end of {run['name']}")
        assert self.state(run)["type"] == "COMPLETED", self.state(run)["message"]


def _environ(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text(errors="replace").split("\0")
    return []


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, kind)
            process.wait(timeout=20)
    process.wait()


def _until(answer: Callable[[], T], *, within_s: float, what: str) -> T:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := answer():
            return found
        time.sleep(0.5)
    pytest.fail(f"{what}: not within {within_s} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A server that answers, a pool, the shipped deployments with a workspace of their own, and a worker."""
    platform = Platform(tmp_path / "prefect", _free_port())
    platform.folder.mkdir()
    try:
        platform.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(platform.port))
        _until(lambda: _healthy(platform), within_s=90, what="the server's health")
        platform.prefect("work-pool", "create", "latentpipe", "--type", "process")
        platform.prefect("deploy", "--all", "--prefect-file", str(_with_workspace(tmp_path / "workspace", tmp_path)))
        platform.start("worker", "worker", "start", "--pool", "latentpipe")
        yield platform
    finally:
        platform.stop()


def _healthy(platform: Platform) -> bool:
    try:
        return bool(platform.ask("health"))
    except httpx.HTTPError:
        return False


def _with_workspace(workspace: Path, folder: Path) -> Path:
    """The shipped file, but for the workspace."""
    settings = _shipped()
    for deployment in settings["deployments"]:
        deployment["parameters"]["config"]["workspace"] = str(workspace)
    (folder / "prefect.yaml").write_text(yaml.safe_dump(settings))
    return folder / "prefect.yaml"


@pytest.mark.timeout(400)
def test_deployments_run_on_demand_and_by_themselves(platform: Platform) -> None:
    """What is shipped deploys as it is written; a run on demand and a scheduled one complete and leave artefacts."""
    _check_deployments(platform)
    daily = platform.ask("deployments/name/latentpipe-encode/encode-daily")
    settings = daily["parameters"]["config"]
    _check_cancellation(platform, settings)

    platform.prefect("deployment", "run", "latentpipe-full/full", "--param", f"config={_short(settings)}")
    [full] = platform.runs("full")
    assert not full["auto_scheduled"]
    platform.completed(full, within_s=150)
    assert platform.artefacts(full) == ARTEFACTS

    platform.prefect("deployment", "schedule", "create", "latentpipe-encode/encode-daily", "--interval", "4")
    first, *others = _until(lambda: _overlapped(platform), within_s=60, what="a scheduled run, and one more meanwhile")
    assert first["auto_scheduled"]
    assert {(it["state_type"], it["run_count"]) for it in others} == {("CANCELLED", 0)}
    with platform.api as api:
        api.post(f"deployments/{daily['id']}/pause_deployment").raise_for_status()
    platform.completed(first, within_s=100)
    assert platform.artefacts(first) == ARTEFACTS

    ours = {process.pid for process in platform.processes.values()}
    _until(lambda: platform.alive() == ours, within_s=20, what="the end of every process of a finished run")


def _check_cancellation(platform: Platform, settings: dict[str, Any]) -> None:
    """A training that would go on for hours: cancelled, Ray's work ends in ten seconds, and a checkpoint is left."""
    ours = {process.pid for process in platform.processes.values()}
    hours = {"epochs": 100_000, "patience": 100_000, "checkpoint_s": 1, "seed": 1}
    long = json.dumps({**settings, "train": {**settings["train"], **hours}})
    platform.prefect("deployment", "run", "latentpipe-train/train", "--param", f"config={long}")
    [run] = platform.runs("train")
    written = Path(settings["workspace"]) / "training"
    _until(lambda: list(written.glob("*/checkpoints/*[0-9]")), within_s=150, what="a checkpoint")
    assert platform.of_ray()
    platform.prefect("flow-run", "cancel", run["id"])
    _until(lambda: not platform.of_ray(), within_s=10, what="the end of Ray's work")
    _until(lambda: platform.alive() == ours, within_s=60, what="the end of every process of a cancelled run")
    _until(lambda: platform.state(run)["type"] == "CANCELLED", within_s=60, what="the run's last state")
    [training] = written.iterdir()
    assert next(checkpoints.whole(training))


def _short(settings: dict[str, Any]) -> str:
    return json.dumps({**settings, "train": {**settings["train"], "epochs": 3}})


def _overlapped(platform: Platform) -> list[dict[str, Any]]:
    """The scheduled runs that came due, once one is running and another had to yield to it."""
    due = [run for run in platform.runs("encode-daily") if run["state_type"] != "SCHEDULED"]
    return due if {"RUNNING", "CANCELLED"} <= {run["state_type"] for run in due} else []


def _check_deployments(platform: Platform) -> None:
    """The server has what the file says: the schedule, its zone, the limit, and a form with bounds and meanings."""
    deployments = {it["name"]: it for it in platform.ask("deployments/filter")}
    assert {name: it["entrypoint"] for name, it in deployments.items()} == {
        "full": "flows/full.py:full",
        "train": "flows/train.py:train",
        "encode": "flows/encode.py:encode",
        "encode-daily": "flows/encode.py:encode",
    }
    for deployment in deployments.values():
        assert deployment["work_pool_name"] == "latentpipe"
        assert deployment["enforce_parameter_schema"]
        epochs = deployment["parameter_openapi_schema"]["definitions"]["Train"]["properties"]["epochs"]
        assert (epochs["minimum"], epochs["description"]) == (1, "Passes over the training rows, at most.")
    daily = deployments.pop("encode-daily")
    assert not any(it["schedules"] for it in deployments.values())
    [schedule] = daily["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 6 * * *", "Europe/Berlin")
    assert schedule["active"]
    assert daily["global_concurrency_limit"]["limit"] == 1
    assert daily["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    due = _until(lambda: platform.runs("encode-daily"), within_s=20, what="runs for the coming days")
    at = [datetime.fromisoformat(run["expected_start_time"]).astimezone(ZoneInfo("Europe/Berlin")) for run in due]
    assert {f"{it:%H:%M}" for it in at} == {"06:00"}
