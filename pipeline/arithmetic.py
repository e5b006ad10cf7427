"""What the last bits of a number depend on beside the numbers it is computed from."""

from __future__ import annotations

import torch


def arithmetic(device: str) -> dict[str, str]:
    """The kind of device, torch, and the instructions of this machine's processor that it uses."""
    return {"device": device, "torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
