"""What a key depends on: all that determines the output, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import small_settings

from pipeline import keys, runfile


def training_key(folder: Path, **changes: Any) -> str:
    """The key of a training on one and the same dataset."""
    settings = small_settings(folder)
    for section, change in changes.items():
        settings[section] = {**settings.get(section, {}), **change}
    return keys.training(runfile.parse(settings), "dataset")


HEIGHT = {"type": "float64", "likelihood": "gaussian", "nullable": True}


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": {"beta": 4.0}},
        {"objective": {"bound": "iwae", "draws": 5}},
        {"objective": {"noise": "masking", "noise_level": 0.1}},
        {"model": {"latent": 3, "hidden": [16], "prior": "mixture"}},
        {"train": {"importance_samples": 7}},
        {"train": {"num_workers": 1}},
        {"train": {"warmup_epochs": 1.5}},
        {"train": {"clip_norm": 1.0}},
        {"train": {"ema": 0.99}},
        {"train": {"precision": "bf16", "use_gpu": True}},
        {"data": {"test": 0.2}},
        {"columns": {"height": {**HEIGHT, "sigma": 0.5}}},
        {"columns": {"height": {**HEIGHT, "likelihood": "student_t"}}},
        {"columns": {"height": {**HEIGHT, "likelihood": "mixture", "components": 3}}},
        {"columns": {"city": {"type": "string", "likelihood": "ordinal", "order": ["Rome", "Oslo", "Lima"]}}},
        {"columns": {"note": {"type": "string", "likelihood": "categorical"}}},
    ],
)
def test_a_training_is_another_if_its_settings_are(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Columns, network, objective, training settings, split: the same key would be a wrong answer."""
    assert training_key(tmp_path, **changes) != training_key(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": {"note": {"type": "string", "role": "passthrough", "nullable": True}}},
        {"columns": {"note": {"type": "string", "role": "ignore"}}},
        {"columns": {"more": {"type": "int64[4]", "role": "passthrough", "shape": [2, 2]}}},
        {"train": {"use_gpu": True, "max_restarts": 9, "memory_mb": 1, "cpus_per_worker": 4}},
        {"train": {"checkpoint_s": 5.0, "compile": "on"}},
        {"encode": {"num_workers": 5}},
        {"objective": {"beta": 1.0}},
        {"report": {"colour_by": "city"}},
    ],
)
def test_a_training_is_the_same_wherever_it_runs(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Machines, other steps, columns that are not modelled, and defaults said aloud change nothing."""
    settings = {"train": {"epochs": 3, "batch_rows": 32, "num_workers": 2}, **changes}
    settings["train"] = {"epochs": 3, "batch_rows": 32, "num_workers": 2, **changes.get("train", {})}
    assert training_key(tmp_path, **settings) == training_key(tmp_path)


def latents_key(folder: Path, **encode: Any) -> str:
    """The key of the same model's codes of the same dataset."""
    settings = runfile.parse(small_settings(folder, encode=encode))
    return keys.latents(keys.output(settings, model="small/1", model_digest="model"), content="dataset")


def test_latents_are_others_if_other_columns_are_asked_for(tmp_path: Path) -> None:
    """Whatever is written beside the codes is part of the key; who computes it, and where, is not."""
    asked = [{"reconstruct": False}, {"draws": 1}, {"draws": 2}, {"elbo": False}, {"importance_samples": 5}]
    asked += [{"percentile": False}, {"worst": False}, {"errors": True}, {"imputed": 4}]
    assert len({latents_key(tmp_path, **it) for it in ({}, *asked)}) == len(asked) + 1
    assert latents_key(tmp_path, num_workers=5, use_gpu=True, alias="other") == latents_key(tmp_path)


def test_a_likelihood_does_not_change_the_dataset(tmp_path: Path) -> None:
    """What is modelled how is the training's affair: the prepared table stays."""
    plain, other = small_settings(tmp_path), small_settings(tmp_path)
    other["columns"]["height"] |= {"likelihood": "log_normal"}
    one, two = (keys.dataset(runfile.parse(it), ["digest"]) for it in (plain, other))
    assert one == two
