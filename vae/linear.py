"""Linear layers. MKL leaves the AVX-512 of AMD's processors idle, oneDNN does not: there it is twice as fast."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function

PROCESSORS: Final = Path("/proc/cpuinfo")
WORTH: Final = 4096
"""Weights from which a layer repays the detour."""


class Linear(nn.Linear):
    """x W' + b, `[batch, inputs] -> [batch, outputs]`: nn.Linear, its names and, up to rounding, its numbers."""

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """The layer's outputs; by oneDNN if they are a CPU's, of float32, and many."""
        plain = x.is_cpu and x.dtype == torch.float32 and len(x) > 0 and not torch.is_autocast_enabled("cpu")
        if plain and self.weight.numel() >= WORTH and onednn_is_faster():
            product = _Affine.apply if torch.is_grad_enabled() else _called
            out: Tensor = product(x, self.weight, self.bias)
            return out
        return super().forward(x)


@cache
def onednn_is_faster() -> bool:
    """Whether this machine's float32 products are oneDNN's: always the same answer here, as the bits depend on it."""
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512") and torch.backends.mkldnn.is_available()
    return wide and PROCESSORS.is_file() and "AuthenticAMD" in PROCESSORS.read_text()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


@torch.library.custom_op(
    "latentpipe::product", mutates_args=(), schema="(Tensor x, Tensor weight, Tensor? bias) -> Tensor"
)
def _sealed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same for torch.compile, which takes oneDNN's own for an inference's, with constant weights."""
    return _product(x, weight, bias)


@_sealed.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(len(x), len(weight))


def _called(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _sealed(x, weight, bias) if torch.compiler.is_compiling() else _product(x, weight, bias)


class _Affine(Function):
    """x W' + b by oneDNN; its gradients are such products again, and have gradients themselves."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _called(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _Affine.apply(slope, weight.t(), None) if of_x else None,
            _Affine.apply(slope.t(), x.t(), None) if of_weight else None,
            slope.sum(0) if of_bias else None,
        )
