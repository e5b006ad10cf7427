"""The command `latentpipe`, which sends itself a signal at a named point of its commit; the product knows nothing.

    python tests/faults/stopping.py POINT SIGNAL encode run.toml ...

Python announces each operation on files to an audit hook before it is done. The points, in their order:

    gathered    all units are done; the first of their files is about to be moved together
    stating     the manifest is about to be written
    committing  the snapshot's directory is about to get its name, which is the commit
    pointing    the commit is done, `_latest.json` is about to be moved
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

RENAMES = ("os.rename", "os.link")
POINTS: dict[str, Callable[[str, tuple[str, ...]], bool]] = {
    "gathered": lambda event, names: event == "os.mkdir" and bool(re.search(r"/_attempts/.*/snapshot$", names[0])),
    "stating": lambda event, names: event == "open" and bool(re.search(r"/_attempts/.*/_manifest\.json$", names[0])),
    "committing": lambda event, names: event in RENAMES and bool(re.search(r"/v\d{6,}$", names[1])),
    "pointing": lambda event, names: event in RENAMES and names[1].endswith("/_latest.json"),
}


def stop_at(point: str, number: int) -> None:
    """Send this process the signal, once, at the point."""
    reached, armed = POINTS[point], [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if armed and event in ("open", "os.mkdir", *RENAMES):
            names = tuple(os.fsdecode(it) for it in arguments if isinstance(it, str | bytes | os.PathLike))
            if names and reached(event, (*names, "")):
                armed.clear()
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def main() -> None:
    """Arm, then be the command."""
    point, name, *arguments = sys.argv[1:]
    sys.argv = ["latentpipe", *arguments]
    sys.path.pop(0)  # this folder: its modules are no command's
    from flows.__main__ import main as latentpipe

    stop_at(point, signal.Signals[name])
    latentpipe()


if __name__ == "__main__":
    main()
