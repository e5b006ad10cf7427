"""What can go wrong, and the exit code it ends with.

    LatentpipeError
    ├── ConfigError           2   the run's TOML or command line
    ├── DataError             3   the table breaks its contract
    ├── InfrastructureError   4   a disk, a cluster or a server; trying again may help
    └── CommitConflict        5   another run published first

Each says what, where and the cure. The facts are the exception's arguments, so it survives pickling between processes.
"""

from __future__ import annotations

import json
from typing import ClassVar


class LatentpipeError(Exception):
    """Base of every error that is not a bug: `what` happened, `where`, and the `cure`."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, where: str = "", cure: str = "") -> None:
        super().__init__(what, where, cure)
        self.what, self.where, self.cure = what, where, cure

    def to_plain(self) -> str:
        """The error as JSON, for where a framework would wrap an exception beyond recognition."""
        return json.dumps([type(self).__name__, *self.args])

    def __str__(self) -> str:
        sentence = f"{self.where}: {self.what}" if self.where else self.what
        return f"{sentence}\n  cure: {self.cure}" if self.cure else sentence


class ConfigError(LatentpipeError):
    """The run's configuration or the command line is wrong."""

    exit_code = 2


class DataError(LatentpipeError):
    """The data breaks its contract; nothing was published."""

    exit_code = 3


class InfrastructureError(LatentpipeError):
    """Something beneath us failed: storage, cluster or server."""

    exit_code = 4


class CommitConflict(LatentpipeError):
    """Another run published to the same place first."""

    exit_code = 5


def from_plain(text: str) -> LatentpipeError:
    """The error that `to_plain` wrote."""
    name, *facts = json.loads(text)
    kinds: dict[str, type[LatentpipeError]] = {kind.__name__: kind for kind in LatentpipeError.__subclasses__()}
    return kinds.get(name, LatentpipeError)(*facts)
