"""Who works on one thing must be of one code: what a driver tells a worker, and the worker checks, before it begins."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import vae
from pipeline import keys
from pipeline.errors import InfrastructureError


@dataclass(frozen=True, kw_only=True)
class Code:
    """What a process runs."""

    version: str
    contracts: dict[str, int]
    """Versions of what the steps write."""
    source: str
    """sha256 over the source files, as they were when this process loaded them."""

    def __str__(self) -> str:
        return f"latentpipe {self.version}, source {self.source[:12]}"


def check(driver: Code) -> None:
    """Raise InfrastructureError, saying who runs what, unless this process runs the driver's code."""
    if driver == CODE:
        return
    here = f"worker {os.getpid()} on {platform.node()}"
    names = sorted({*driver.contracts, *CODE.contracts})
    pairs = {name: (CODE.contracts.get(name), driver.contracts.get(name)) for name in names}
    skewed = "".join(f"; contract {name!r}: {own}, not {other}" for name, (own, other) in pairs.items() if own != other)
    raise InfrastructureError(
        f"runs {CODE}; the driver runs {driver}{skewed}", here, "install one and the same latentpipe on every node"
    )


def _source() -> str:
    folders = [Path(__file__).parent, Path(str(vae.__file__)).parent]
    digest = hashlib.sha256()
    for path in (path for folder in folders for path in sorted(folder.rglob("*.py"))):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


CODE: Final = Code(version=version("latentpipe"), contracts=dict(keys.CONTRACTS), source=_source())
"""Of this process."""
