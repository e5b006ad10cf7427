"""Where the work is done, and where what it makes goes: [storage], [cluster] and [tracking]."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from vae.config import FORBID_EXTRA, Bounds, Count, check


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Where the product goes."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    uri: str = ""
    """Folder, or `s3://bucket/prefix`, where snapshots of latents, coordinates and samples are published; empty: the
    workspace. A store's endpoint and credentials come from the environment alone: AWS_ENDPOINT_URL, AWS_REGION,
    AWS_ACCESS_KEY_ID and so on. It must honour `If-None-Match: *`, which is tried before anything is computed."""

    def __post_init__(self) -> None:
        if "://" in self.uri and not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9.-]+(/[^/?#@]+)*/?", self.uri):
            raise ValueError("uri: a folder, or s3://bucket/prefix; endpoint and credentials are the environment's")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The Ray cluster to run on."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    address: str = ""
    """Address of a running cluster, such as 10.0.0.1:6379; empty: embedded in this process."""
    num_cpus: Count = 0
    """CPUs of the embedded cluster; 0: enough for the workers asked for."""
    object_store_mb: Annotated[int, Bounds(ge=80)] = 256
    """Object store of the embedded cluster. Only facts pass through it, never rows."""
    wait_s: Annotated[float, Bounds(ge=0)] = 60.0
    """How long to wait for a running cluster to have, or to regain, room for the workers asked for."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """The MLflow tracking server and registry."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    uri: str = ""
    """Tracking URI; empty: sqlite in the workspace."""
    experiment: str = ""
    """Experiment of the training runs; empty: the run's name."""
    promote: bool = True
    """Move the alias `champion` to a new version once it was reloaded and checked."""
