"""The registered model as MLflow loads it, in any process: `predict(DataFrame)` -> `mu` and `logvar` of each row.

This file travels with the model ("models from code"), with the packages `vae` and `pipeline`; nothing is pickled.
"""

from __future__ import annotations

from typing import Any

import mlflow.pyfunc
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from mlflow.models import set_model

from pipeline.codec import Codec
from pipeline.features import Feature
from pipeline.features.doubles import TICKS
from pipeline.schema import cast


class Encoder(mlflow.pyfunc.PythonModel):
    """A codec behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        """Read the model's files; called by MLflow under exactly this name."""
        self.codec = Codec.load(context.artifacts["model"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The latent code of each row; columns beyond the model's own are ignored."""
        columns = {feature.name: _array(feature, model_input[feature.name]) for feature in self.codec.features.columns}
        codes = self.codec.encode(pa.table(columns))
        return pd.DataFrame({"mu": list(codes.mu), "logvar": list(codes.logvar)}, index=model_input.index)


def _array(feature: Feature, cells: Any) -> pa.Array:
    """The cells as the column's type. Raises ValueError naming the column and the rule if they do not fit."""
    plain = pa.array(list(cells), from_pandas=True)
    if pa.types.is_duration(feature.arrow):  # seconds, which JSON can hold
        plain = pc.round(pc.multiply(plain, float(TICKS))).cast(pa.int64()).cast(feature.arrow)
    typed, broken = cast(plain, feature.arrow, nullable=feature.nullable)
    if broken:
        raise ValueError(f"column {feature.name!r}: {', '.join(broken)}")
    return typed


set_model(Encoder())
