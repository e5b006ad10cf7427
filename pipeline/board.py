"""Where rank 0 pins what it has done, for the driver to read while training runs.

A module of its own, because the actor's process imports it: no torch, no Ray here.
"""

from __future__ import annotations

Note = dict[str, float] | str
"""The metrics of an epoch, or what a user should know."""


class Board:
    """Pinned notes, until somebody takes them.

    `ray.train.report` would hold every epoch for the controller's next poll.
    """

    def __init__(self) -> None:
        self.pinned: list[Note] = []

    def pin(self, note: Note) -> None:
        """Add a note."""
        self.pinned.append(note)

    def take(self) -> list[Note]:
        """What was pinned since the last call."""
        taken, self.pinned = self.pinned, []
        return taken
