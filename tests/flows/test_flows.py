"""The flows on a real Prefect server, in this process."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import LATENTPIPE, ROOT, small_settings

from pipeline import latents


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """A small run, as a deployment's parameters hold it."""
    return small_settings(tmp_path, report={"colour_by": "city"})


@pytest.mark.usefixtures("prefect_up", "ray_up")
def test_train_then_encode(settings: dict[str, Any]) -> None:
    """`train` leaves a champion; `encode` resolves it and publishes; again, it writes nothing; records are plain.

    Rows that moved are told as an event, which the server keeps.
    """
    from flows.encode import encode
    from flows.train import train

    trained = train(settings)
    assert trained["registered"]["champion"]
    first, again = encode(settings), encode(settings)
    assert latents.read(first["encoded"]["snapshot"]).count_rows() == 300
    assert (first["encoded"]["new"], again["encoded"]["new"]) == (True, False)
    assert first["encoded"]["model"] == f"small/{trained['registered']['version']}"
    assert first["encoded"]["drift"] == again["encoded"]["drift"] == "nothing"
    taller = Path(settings["data"]["uri"])
    taller.write_text(re.sub(r"(?m)^(\d+),1(\d\d)", r"\1,2\2", taller.read_text()))
    moved = encode(settings)
    assert moved["encoded"]["drift"].startswith("data")
    [event] = until(lambda: events("latentpipe.drift"))
    assert event["resource"]["prefect.resource.id"] == "latentpipe.latents.small"
    assert event["related"][0]["prefect.resource.id"] == f"latentpipe.model.{moved['encoded']['model']}"
    assert event["payload"]["snapshot"] == moved["encoded"]["snapshot"]
    assert ("height", "distance") in {(it["name"], it["what"]) for it in event["payload"]["moved"]}
    assert "the data moved" in event["payload"]["told"]


def events(name: str) -> list[dict[str, Any]]:
    """Those of this name that the server has."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/events/filter", json={"filter": {"event": {"name": [name]}}})
    found: list[dict[str, Any]] = answer.json()["events"]
    return found


def until(answer: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Its first answer that is not empty; events are on their way for a while."""
    for _ in range(200):
        if found := answer():
            return found
        time.sleep(0.1)
    return []


@pytest.mark.usefixtures("prefect_up")
def test_a_bad_parameter_is_refused_before_anything_runs(settings: dict[str, Any]) -> None:
    """Prefect validates the config by the bounds of its fields, and forbids keys it does not know."""
    from prefect.exceptions import ParameterTypeError

    from flows.full import full

    with pytest.raises(ParameterTypeError, match="epochs"):
        full({**settings, "train": {"epochs": 0}})
    with pytest.raises(ParameterTypeError, match="epohcs"):
        full({**settings, "train": {"epohcs": 1}})


@pytest.mark.usefixtures("prefect_up")
def test_an_error_of_ours_passes_through_a_flow_as_itself(settings: dict[str, Any]) -> None:
    """The command's exit code depends on it; and what no retry can help is not tried again."""
    from prefect.client.orchestration import get_client

    from flows.encode import encode
    from pipeline.errors import DataError

    with pytest.raises(DataError, match="no such file"):
        encode({**settings, "data": {"uri": "/nowhere.csv"}})
    with get_client(sync_client=True) as client:
        (run,) = [it for it in client.read_task_runs() if it.state_name == "Failed"]
    assert run.run_count == 1


def test_tasks_take_and_return_records_never_tables() -> None:
    """Every parameter and result of a task is the config or a record."""
    from prefect import Task

    from flows import tasks
    from pipeline import records
    from pipeline.config import RunConfig

    plain = {RunConfig, *(it for it in vars(records).values() if inspect.isclass(it))}
    found = [it for it in vars(tasks).values() if isinstance(it, Task)]
    assert len(found) == 8
    for task in found:
        hints = inspect.get_annotations(task.fn, eval_str=True)
        assert set(hints.values()) <= plain, task.name


CANCELLABLE = """
from pathlib import Path
from prefect.utilities.engine import capture_sigterm, is_prefect_sigterm_handler_installed as installed
from pipeline.cluster import ray_session
from pipeline.config import Cluster
import ray, sys
with capture_sigterm():
    before = installed()
    with ray_session(Cluster(), log=Path(sys.argv[1])):
        inside = installed()
    print(before, inside, installed())
    ray.init(address="local", include_dashboard=False, log_to_driver=False, configure_logging=False)
    print(installed())
"""


def test_prefects_cancellation_survives_ray(tmp_path: Path) -> None:
    """`ray_session` leaves Prefect's SIGTERM handler in place, inside and after; a bare `ray.init` does not."""
    command = [sys.executable, "-c", CANCELLABLE, str(tmp_path / "ray.log")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ended.stdout.split() == ["True", "True", "True", "False"], ended.stderr


def test_a_prefect_server_that_does_not_answer_is_exit_4(tmp_path: Path) -> None:
    """The address and the cure, before anything is computed."""
    (tmp_path / "run.toml").write_text((ROOT / "deploy/runs/demo.toml").read_text())
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    ended = subprocess.run(
        [LATENTPIPE, "run", "run.toml"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 4
    assert ended.stderr.startswith("latentpipe: http://127.0.0.1:9/api: Prefect does not answer")
    assert "Traceback" not in ended.stderr
