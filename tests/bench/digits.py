"""The rows of the comparison: scikit-learn's 1,797 digits as 64 pixels of 0 and 1, float32."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor

TEST_ROWS: Final = 360
SEED: Final = 0


class Rows(NamedTuple):
    """Binary rows `[row, 64]`; no digit is in both."""

    train: Tensor
    test: Tensor


def fixed() -> Rows:
    """A pixel, 0 to 16, is on from 8: 1,437 and 360 rows, always the same."""
    train, test = _split()
    return Rows((train >= 8).float(), (test >= 8).float())


def resampled(times: int = 20) -> Rows:
    """A pixel is on with probability x / 16, each training digit drawn `times` times: 28,740 and 360 rows."""
    train, test = _split()
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.bernoulli(train.repeat(times, 1) / 16, generator=generator)
    return Rows(drawn, torch.bernoulli(test / 16, generator=generator))


def _split() -> tuple[Tensor, Tensor]:
    """Training and test digits by one fixed permutation, values 0 to 16."""
    digits = torch.from_numpy(load_digits().data).float()
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(SEED))
    return digits[order[TEST_ROWS:]], digits[order[:TEST_ROWS]]
