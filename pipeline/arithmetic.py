"""What the last bits of a number depend on beside the numbers it is computed from."""

from __future__ import annotations

import torch

from vae.linear import onednn_is_faster


def arithmetic(device: str) -> dict[str, str]:
    """The kind of device, torch, the instructions it uses of this machine's processor, and who multiplies there."""
    return {
        "device": device,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "products": "oneDNN" if onednn_is_faster() else "MKL",
    }
