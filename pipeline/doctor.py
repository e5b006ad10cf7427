"""doctor: is everything that a run needs here, and does it work? Each check tries the real thing."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import ray
import torch

from pipeline.cluster import ray_session
from pipeline.config import RunConfig
from pipeline.errors import InfrastructureError, LatentpipeError
from pipeline.tracking import server

PACKAGES: Final = ("latentpipe", "torch", "ray", "pyarrow", "mlflow", "prefect", "fastapi")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check."""

    check: str
    ok: bool
    detail: str


def doctor(config: RunConfig) -> list[Finding]:
    """Run every check, whatever the others found."""
    checks: dict[str, Callable[[RunConfig], str]] = {
        "versions": _versions,
        "machine": _machine,
        "gpu": _gpu,
        "storage": _storage,
        "mlflow": _mlflow,
        "ray": _ray,
    }
    return [_finding(name, check, config) for name, check in checks.items()]


def _finding(name: str, check: Callable[[RunConfig], str], config: RunConfig) -> Finding:
    try:
        return Finding(check=name, ok=True, detail=check(config))
    except (LatentpipeError, OSError) as error:
        return Finding(check=name, ok=False, detail=str(error))


def _versions(config: RunConfig) -> str:
    return f"python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in PACKAGES)


def _machine(config: RunConfig) -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"


def _gpu(config: RunConfig) -> str:
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if config.train.use_gpu and not names:
        raise InfrastructureError(
            "train.use_gpu = true, and torch sees no GPU here", cure="use_gpu = false, or a GPU build of torch"
        )
    return ", ".join(names) or "none; training and encoding use CPUs"


def _storage(config: RunConfig) -> str:
    """The commit's own operations: a directory renamed to a free name, and refused at a taken one."""
    config.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.root, prefix=".doctor-") as scratch:
        first, second, target = (Path(scratch) / name for name in ("first", "second", "target"))
        for directory in (first, second):
            directory.mkdir()
            (directory / "file").write_text("probe")
        first.rename(target)
        try:
            second.rename(target)
        except OSError:
            free = shutil.disk_usage(config.root).free
            return f"{config.root}: write and rename work, {free / 2**30:.1f} GiB free"
    raise InfrastructureError(
        "two snapshots could take one name on this file system", str(config.root), "use another one"
    )


def _mlflow(config: RunConfig) -> str:
    server.connect(config)
    return f"{config.tracking.uri or 'sqlite in the workspace'} answers"


def _ray(config: RunConfig) -> str:
    with ray_session(config.cluster, log=config.ray_log):
        pid = ray.get(ray.remote(_pid).remote(), timeout=60)
        resources = {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
        where = config.cluster.address or "embedded"
        return f"{where}: a task ran in process {pid}; resources {resources}"


def _pid() -> int:
    return os.getpid()
