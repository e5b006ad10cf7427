"""Principal components of latent codes, exact at any number of rows: the covariance is summed chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Codes = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Components:
    """Principal axes of codes: coords = (mu - mean) @ axes. Each is signed so that its largest loading is positive."""

    mean: Matrix
    axes: Matrix
    """`[latent, dims]`, orthonormal columns."""
    explained: tuple[float, ...]
    """Share of the variance along each."""

    @property
    def dims(self) -> int:
        """Number of coordinates."""
        return int(self.axes.shape[1])

    @classmethod
    def fit(cls, chunks: Iterable[Codes], dims: int) -> Self:
        """The `dims` leading eigenvectors of the codes' covariance."""
        rows, total, products = 0, np.zeros(()), np.zeros(())
        for chunk in chunks:
            codes = chunk.astype(np.float64)
            rows, total, products = rows + len(codes), total + codes.sum(0), products + codes.T @ codes
        mean: Matrix = np.asarray(total / rows)
        variances, axes = np.linalg.eigh(np.asarray(products / rows) - np.outer(mean, mean))
        leading = np.argsort(variances)[::-1][:dims]
        axes = axes[:, leading]
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dims)])
        whole = max(float(variances.clip(0).sum()), np.finfo(np.float64).tiny)
        return cls(mean, axes, tuple((variances[leading].clip(0) / whole).tolist()))

    def apply(self, codes: Codes) -> Codes:
        """Codes `[row, latent]` as coordinates `[row, dims]`."""
        return ((codes - self.mean) @ self.axes).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        return {"mean": self.mean.tolist(), "axes": self.axes.tolist(), "explained": list(self.explained)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Back from `to_dict` and JSON, the same to the bit."""
        return cls(np.array(plain["mean"]), np.array(plain["axes"]), tuple(plain["explained"]))
