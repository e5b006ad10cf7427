"""The eye on every step: its loss and its gradient must be finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.training.culprits import TOLD


class Diverged(Exception):
    """A number that must be finite is not; the same on every rank."""

    def __init__(self, what: str, step: int, columns: tuple[str, ...], numbers: tuple[int, ...]) -> None:
        super().__init__(what, step, columns, numbers)
        self.what, self.step, self.columns, self.numbers = what, step, columns, numbers

    def told(self, ids: Sequence[str], *, epoch: int, rate: float) -> str:
        """It as a clause."""
        where = f"in epoch {epoch}" + (f", step {self.step}," if self.step else "")
        some, left = self.columns[:TOLD], len(self.columns[TOLD:])
        columns = (
            f"columns {', '.join(some)}" + (f" and {left} more" if left else "") if some else "no column by itself"
        )
        rows = f"; ids {', '.join(ids)}" if ids else ""
        return f"the {self.what} was not finite {where} at learning rate {rate:g}: {columns}{rows}"


class Watch:
    """Looks at the loss and the gradient of every step; from the first that is not finite on, no weight moves.

    It asks nothing of a GPU before the window's end.
    """

    def __init__(self, adam: torch.optim.Optimizer, device: torch.device) -> None:
        self.struck = torch.zeros((), device=device)
        adam.found_inf = self.struck  # type: ignore[attr-defined]  # by which a fused step skips itself
        adam.register_step_pre_hook(self._look)
        self.losses, self.marks = list[Tensor](), list[Tensor]()

    def __len__(self) -> int:
        return len(self.losses)

    def note(self, loss: Tensor) -> None:
        """Remember the loss of a step."""
        self._mark(loss)
        self.losses.append(loss)
        self.marks.append(self.struck.clone())

    def summary(self) -> Tensor:
        """Sum of the losses, and whether any number was not finite."""
        return torch.stack([torch.stack(self.losses).double().sum(), self.struck.double()])

    def first(self) -> int:
        """Number of the first step in the window that was not finite; if none was, that of the next one."""
        return int(torch.stack(self.marks).eq(0).sum())

    def clear(self) -> None:
        """Begin a new window."""
        self.struck.zero_()
        self.losses.clear()
        self.marks.clear()

    def _look(self, adam: torch.optim.Optimizer, *rest: Any) -> None:
        sums = [it.grad.sum() for group in adam.param_groups for it in group["params"] if it.grad is not None]
        self._mark(torch.stack(sums).sum())

    def _mark(self, number: Tensor) -> None:
        torch.maximum(self.struck, (~number.isfinite()).to(self.struck.dtype), out=self.struck)
