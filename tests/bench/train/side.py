"""One contestant trains one model, in a process of its own; prints what comes of it as one line of JSON.

python side.py NAME MODEL FOLDER EPOCHS DEVICE BEGAN

FOLDER is one of `table.make`. BEGAN is the `time.time()` at which this process was asked for.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import contestants
import torch
from peak import Peak
from table import MODELS
from task import Task


def main() -> None:
    """Run one contestant."""
    name, model, folder, epochs, device, began = sys.argv[1:]
    torch.set_num_threads(1)
    task = Task(MODELS[model], Path(folder), int(epochs), device)
    with Peak() as peak:
        outcome = getattr(contestants, name)(task)
    outside_s = time.time() - float(began) - outcome.loop_s
    print(json.dumps({**asdict(outcome), "outside_s": outside_s, "peak_mb": peak.resident_mb, "own_mb": peak.own_mb}))


if __name__ == "__main__":
    main()
