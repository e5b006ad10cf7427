"""Where rank 0 pins what it has done, for the driver to read while training runs.

A module of its own, because the actor's process imports it: no torch, no Ray here.
"""

from __future__ import annotations

from collections.abc import Mapping


class Board:
    """Pinned notes, until somebody takes them.

    `ray.train.report` would hold every epoch for the controller's next poll.
    """

    def __init__(self) -> None:
        self.pinned: list[Mapping[str, float]] = []

    def pin(self, note: Mapping[str, float]) -> None:
        """Add a note, such as the metrics of an epoch."""
        self.pinned.append(note)

    def take(self) -> list[Mapping[str, float]]:
        """What was pinned since the last call."""
        taken, self.pinned = self.pinned, []
        return taken
