"""What identifies the output of each step: a sha256 over all that determines it. No clock, no random, no path.

The same key is the same output: a step whose key is already published has nothing to do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.config import RunConfig

CONTRACTS: Final = {"dataset": 2, "training": 4, "latents": 2, "reduced": 2, "samples": 1, "comparison": 1, "tuning": 1}
"""Version of what each step writes; raising one makes every key of that step new."""


FREE: Final = ("uri", "query", "validation", "test", "follow_symlinks", "max_columns", "max_cell_bytes", "max_ratio")
"""Settings of [data] that decide nothing about what a row becomes."""
FREE_OF_TRAINING: Final = ("use_gpu", "max_restarts", "memory_mb", "cpus_per_worker", "checkpoint_s", "compile")
"""Settings of [train] that decide nothing, or nothing but the last bits, of the model."""
FREE_OF_LATENTS: Final = ("alias", "num_workers", "use_gpu", "unit_mb", "local_mb")
"""Settings of [encode] that decide nothing, or nothing but the last bits, of what is written."""
RULES: Final = (
    *("type", "role", "nullable", "optional", "range", "categories", "levels", "order", "binarise", "secret", "unit"),
)
"""Settings of a column that a prepared dataset depends on."""


def dataset(config: RunConfig, inputs: Sequence[str]) -> str:
    """Of a prepared dataset: the files' digests, in order, and the rules they are read by."""
    return _key("dataset", inputs=list(inputs), rules=rules(config))


def rules(config: RunConfig) -> dict[str, Any]:
    """The settings that decide what a prepared dataset holds."""
    settings = config.to_dict()
    reading = {key: value for key, value in settings["data"].items() if key not in FREE}
    typing = {name: {key: it[key] for key in RULES} for name, it in settings["columns"].items()}
    return {"data": reading, "columns": typing}


def training(config: RunConfig, content: str) -> str:
    """Of a training: the dataset's content, columns, network and settings; not where it runs."""
    settings = config.to_dict()
    return _key(
        "training",
        dataset=content,
        columns={name: it for name, it in settings["columns"].items() if it["role"] == "feature"},
        model=settings["model"],
        objective=settings["objective"],
        train={name: value for name, value in settings["train"].items() if name not in FREE_OF_TRAINING},
        split={name: settings["data"][name] for name in ("validation", "test")},
    )


def comparison(config: RunConfig, content: str) -> str:
    """Of a comparison: the training it varies, the family and how it is measured."""
    return _key("comparison", training=training(config, content), compare=config.to_dict()["compare"])


def tuning(config: RunConfig, content: str) -> str:
    """Of a tuning: the training it varies, and what is tried."""
    settings = {name: value for name, value in config.to_dict()["tune"].items() if name != "at_once"}
    return _key("tuning", training=training(config, content), tune=settings)


def output(config: RunConfig, *, model: str, model_digest: str) -> dict[str, Any]:
    """What is made of a row: by which model, `name/version` and digest, and what is written beside its code."""
    settings = config.to_dict()["encode"]
    return {
        "model": {"version": model, "digest": model_digest},
        "id": config.id_column,
        "passthrough": [*config.role("passthrough")],
        "settings": {name: value for name, value in settings.items() if name not in FREE_OF_LATENTS},
    }


def latents(output: dict[str, Any], *, content: str) -> str:
    """Of latent codes: the dataset's content, and what is made of it."""
    return _key("latents", dataset=content, output=output)


def unit(output: dict[str, Any], *, sha256: str, row_groups: tuple[int, int] | None) -> str:
    """Of a file of latent codes: the file of the dataset, the row groups if not all, and what is made of them."""
    return _key("latents", sha256=sha256, row_groups=row_groups, output=output)


def reduced(latents_key: str, *, fitted_on: str, settings: Mapping[str, Any]) -> str:
    """Of reduced coordinates: the codes, those that the reducer was fitted on, and how."""
    return _key("reduced", latents=latents_key, fitted_on=fitted_on, settings=settings)


def training_folder(config: RunConfig, key: str) -> Path:
    """Where the training of this key lives."""
    return config.root / "training" / key[:16]


def samples(model_digest: str, *, rows: int, seed: int) -> str:
    """Of rows sampled from the prior."""
    return _key("samples", model=model_digest, rows=rows, seed=seed)


def _key(kind: str, **facts: Any) -> str:
    return hashlib.sha256(json.dumps({"contract": CONTRACTS[kind], **facts}, sort_keys=True).encode()).hexdigest()
