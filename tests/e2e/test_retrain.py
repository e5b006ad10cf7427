"""deploy/retrain.yaml as it is written; `retrain.py` beside this file runs it."""

from __future__ import annotations

from typing import Any

import yaml
from harness import ROOT

from pipeline import runfile

SHIPPED = ROOT / "deploy" / "retrain.yaml"


def _shipped() -> dict[str, Any]:
    [deployment] = yaml.safe_load(SHIPPED.read_text())["deployments"]
    found: dict[str, Any] = deployment
    return found


def test_the_run_is_the_demos_and_the_event_its_latents() -> None:
    """What is shipped fits together: config, resource and event."""
    deployment = _shipped()
    assert runfile.parse(deployment["parameters"]["config"]) == runfile.load(ROOT / "deploy/runs/demo.toml")
    [trigger] = deployment["triggers"]
    name = deployment["parameters"]["config"]["name"]
    assert trigger["match"] == {"prefect.resource.id": f"latentpipe.latents.{name}"}
