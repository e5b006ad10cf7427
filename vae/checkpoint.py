"""A model as a directory without pickle: `config.json`, `model.safetensors`, and `checksums.json` over every file.

Other files may lie beside (fitted preprocessing, optimizer state); `seal` covers them too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from vae.config import Column, ModelConfig, Network
from vae.model import VAE

FORMAT: Final = 3
CONFIG, WEIGHTS, CHECKSUMS = "config.json", "model.safetensors", "checksums.json"


class CheckpointError(ValueError):
    """A model directory that is incomplete, altered, or of another format."""


def save(model: VAE, directory: str | Path) -> None:
    """Write weights and architecture; call `seal` once everything that belongs beside them is there."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps({"format": FORMAT, **asdict(model.config)}, indent=1))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, directory / WEIGHTS)


def seal(directory: str | Path) -> str:
    """Write `checksums.json` over all files of the directory; return the digest of the whole."""
    files = {path.name: _sha256(path) for path in sorted(Path(directory).iterdir()) if path.name != CHECKSUMS}
    (Path(directory) / CHECKSUMS).write_text(json.dumps(files, indent=1))
    return digest(directory)


def digest(directory: str | Path) -> str:
    """sha256 of `checksums.json`, and so of all that it covers."""
    return _sha256(Path(directory) / CHECKSUMS)


def sealed(directory: str | Path) -> dict[str, str]:
    """The sha256 of each file when it was sealed. Raises CheckpointError if that is not known."""
    directory = Path(directory)
    if not (directory / CHECKSUMS).is_file():
        raise CheckpointError(f"{directory}: not a model directory, {CHECKSUMS} is missing")
    try:
        files: dict[str, str] = dict(json.loads((directory / CHECKSUMS).read_text()))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{directory / CHECKSUMS}: not readable as a JSON object") from error
    for name in (CONFIG, WEIGHTS):
        if name not in files:
            raise CheckpointError(f"{directory / name}: not covered by {CHECKSUMS}")
    return files


def verify(directory: str | Path) -> None:
    """Raise CheckpointError, naming the file, unless every file is as it was sealed."""
    directory = Path(directory)
    for name, expected in sealed(directory).items():
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory / name}: missing")
        if _sha256(directory / name) != expected:
            raise CheckpointError(f"{directory / name}: altered since it was saved (sha256 differs)")


def load(directory: str | Path, *, device: str | torch.device = "cpu") -> VAE:
    """The model, in evaluation mode on `device`, after every file's checksum was verified."""
    verify(directory)
    config = json.loads((Path(directory) / CONFIG).read_text())
    if (written := config["format"]) != FORMAT:
        age = "a newer version" if written > FORMAT else "an older version; train again"
        raise CheckpointError(f"{Path(directory) / CONFIG}: format {written}, not {FORMAT}: written by {age}")
    weights = load_file(Path(directory) / WEIGHTS)
    with torch.random.fork_rng(devices=[]):  # the initial weights are thrown away; the caller's seed is not spent
        model = VAE(_model_config(config)).to(weights["mean.weight"].dtype)
    model.load_state_dict(weights)
    return model.to(device).eval()


def _model_config(config: dict[str, Any]) -> ModelConfig:
    columns = tuple(Column(**_frozen(column)) for column in config["columns"])
    return ModelConfig(columns=columns, network=Network(**_frozen(config["network"])))


def _frozen(settings: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
