"""register: a finished training -> a version in the MLflow registry, and the alias `champion` if it proves itself.

A version becomes champion only after it was loaded back from the registry and gave the very codes the training's own
model gives. The same model files are registered once.
"""

from __future__ import annotations

from pipeline.tracking import server, versions  # before mlflow, which it silences

# isort: split
from importlib.metadata import version as installed
from pathlib import Path
from typing import Final

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from pipeline.codec import Codec
from pipeline.columns import CALENDAR
from pipeline.config import RunConfig
from pipeline.errors import InfrastructureError
from pipeline.features import Feature, Features
from pipeline.features.doubles import TICKS
from pipeline.parts import opened
from pipeline.progress import Stage
from pipeline.records import Registered, Trained
from pipeline.snapshots import Snapshot

CHECK_ROWS: Final = 256
EXAMPLE_ROWS: Final = 2
PACKAGES: Final = ("torch", "safetensors", "jaxtyping", "numpy", "pyarrow", "pandas", "pydantic", "mlflow")
_HERE: Final = Path(__file__).parent


def register(config: RunConfig, trained: Trained) -> Registered:
    """Register the training's model, check the version, move the alias. A no-op for files already registered.

    Raises InfrastructureError if MLflow cannot be reached or hands back another model than it was given.
    """
    with Stage("register") as stage:
        version = versions.find(config, digest=trained.digest)
        new = version is None
        if version is None:
            version = _create(config, trained)
        if new or version.tags.get(versions.CHECKED_TAG) != "true":
            _check(config, trained, version)
            versions.promote(config, version)
        registered = record(config, version, new=new)
        stage.update(f"{config.name} version {version.version}{', champion' if registered.champion else ''}")
        return registered


def champion(config: RunConfig) -> Registered:
    """The version that `encode.alias` points to, resolved now; its files fetched and verified."""
    return record(config, versions.resolve(config, config.encode.alias), new=False)


def record(config: RunConfig, version: ModelVersion, *, new: bool) -> Registered:
    """The facts of a registered version."""
    return Registered(
        name=config.name,
        version=int(version.version),
        model=str(versions.files(config, version)),
        digest=version.tags[versions.DIGEST_TAG],
        mlflow_run=version.run_id,
        training_key=version.tags[server.KEY_TAG],
        champion=versions.is_champion(config, version),
        new=new,
    )


def _create(config: RunConfig, trained: Trained) -> ModelVersion:
    codec = Codec.load(trained.model)
    return versions.create(
        config,
        run_id=trained.mlflow_run,
        key=trained.key,
        digest=trained.digest,
        python_model=str(_HERE / "serving.py"),
        artifacts={"model": trained.model},
        code_paths=[str(_HERE), str(_HERE.parent / "vae")],
        signature=_signature(codec.features),
        input_example=example(codec),
        pip_requirements=[f"{name}=={installed(name).partition('+')[0]}" for name in PACKAGES],
    )


def example(codec: Codec) -> pd.DataFrame:
    """What MLflow shows beside the signature: decoded noise, so that no row of the table leaks."""
    noise = np.random.default_rng(0).standard_normal((EXAMPLE_ROWS, codec.latent), dtype=np.float32)
    return frame(codec.features, pa.Table.from_struct_array(codec.decode(noise)))


def _check(config: RunConfig, trained: Trained, version: ModelVersion) -> None:
    """Load the version as a stranger would, and compare its codes with the training's own model, bit for bit."""
    with opened(Snapshot(Path(trained.dataset)).files[0]) as file:
        sample = pa.table(next(file.iter_batches(batch_size=CHECK_ROWS)))
    features = Features.load(Path(trained.model))
    with server.mlflow_errors(config.name):
        loaded = mlflow.pyfunc.load_model(f"models:/{config.name}/{version.version}")
        found = loaded.predict(frame(features, sample))
    expected = Codec.load(trained.model).encode(sample)
    if not np.array_equal(np.stack(found["mu"].to_list()), expected.mu):
        raise InfrastructureError(
            f"version {version.version} of {config.name!r}, loaded back, gives other codes than the trained model",
            cure="the alias was not moved; compare the versions in `latentpipe doctor`",
        )


def frame(features: Features, table: pa.Table) -> pd.DataFrame:
    """The model's columns as the DataFrame that its signature asks for."""
    cells = {feature: _plain(table.column(feature.name)).to_pylist() for feature in features.columns}
    return pd.DataFrame({it.name: pd.Series(values, dtype=_signed(it)[1]) for it, values in cells.items()})


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """As JSON has it: a date or time as text (ISO 8601), a duration in seconds."""
    if pa.types.is_duration(column.type):
        return pc.divide(column.cast(pa.int64()).cast(pa.float64()), TICKS)
    return column.cast(pa.string()) if pa.types.is_temporal(column.type) else column


def _signature(features: Features) -> ModelSignature:
    codes = Array(DataType.float)
    return ModelSignature(
        inputs=Schema([ColSpec(_signed(it)[0], it.name, required=not it.nullable) for it in features.columns]),
        outputs=Schema([ColSpec(codes, "mu"), ColSpec(codes, "logvar")]),
    )


def _signed(feature: Feature) -> tuple[DataType | Array, str]:
    """A column's type in MLflow's signature, and in pandas; what may be missing needs one that holds NaN or None."""
    name = str(feature.scalar)
    if name == "string" or feature.type in CALENDAR:
        kind, dtype = DataType.string, "object"
    elif name == "bool":
        kind, dtype = DataType.boolean, "object" if feature.nullable else "bool"
    elif "int" in name and name != "uint64" and not feature.nullable:
        kind, dtype = DataType.long, "int64"
    else:
        kind, dtype = DataType.double, "float64"
    return (Array(kind), "object") if feature.vector else (kind, dtype)
