"""What tests share: the command as a process, a small table, a run over it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
LATENTPIPE = str(Path(sys.executable).with_name("latentpipe"))


@dataclass(frozen=True)
class Finished:
    """A command that ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def answer(self) -> dict[str, Any]:
        """The JSON object that `--json` prints last."""
        answer: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return answer


def latentpipe(*arguments: str | Path, cwd: Path, timeout_s: float = 240) -> Finished:
    """Run the installed command to its end, in a process group of its own."""
    command = [LATENTPIPE, *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return Finished(process.returncode, stdout, stderr)


@dataclass(frozen=True)
class Demo:
    """The demo, run once by its real command line."""

    workspace: Path
    summary: dict[str, Any]
    stderr: str
    arguments: tuple[str, ...]

    @property
    def latents(self) -> Path:
        """The snapshot of latents."""
        return Path(self.summary["encoded"]["snapshot"])


TABLE = """id,height,smoker,city,note
{rows}
"""


def small_csv(path: Path, *, rows: int = 300, cities: tuple[str, ...] = ("Rome", "Oslo", "Lima")) -> Path:
    """A small mixed table with missing cells, made without random numbers."""
    lines = [
        f"{1000 + i},{'' if i % 17 == 0 else 150 + (i * 7919) % 50 + i % 3 / 4},"
        f"{'true' if (i * 31) % 5 < 2 else 'false'},{'' if i % 23 == 0 else cities[(i * i) % len(cities)]},note {i}"
        for i in range(rows)
    ]
    path.write_text(TABLE.format(rows="\n".join(lines)))
    return path


def small_settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """A run of `small_csv` that takes a second to train; `changes` replace whole sections or add to them."""
    settings: dict[str, Any] = {
        "name": "small",
        "workspace": str(folder / "workspace"),
        "data": {"uri": str(small_csv(folder / "small.csv")), "part_rows": 128},
        "columns": {
            "id": {"type": "int64", "role": "id"},
            "height": {"type": "float64", "likelihood": "gaussian", "nullable": True},
            "smoker": {"type": "bool", "likelihood": "bernoulli"},
            "city": {"type": "string", "likelihood": "categorical", "nullable": True},
            "note": {"type": "string", "role": "passthrough"},
        },
        "model": {"latent": 3, "hidden": [16]},
        "train": {"epochs": 3, "batch_rows": 32, "num_workers": 2},
    }
    for section, change in changes.items():
        settings[section] = (
            {**settings[section], **change} if section in settings and isinstance(change, dict) else change
        )
    return settings
