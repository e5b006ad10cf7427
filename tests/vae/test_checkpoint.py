"""A model on disk: equal to the bit when it comes back, and refused by name when it was altered."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vae import checkpoint
from vae.checkpoint import CheckpointError
from vae.model import VAE

Batch = tuple[Tensor, Tensor, Tensor]
FILES = ["config.json", "model.safetensors", "preprocessing.json"]


@pytest.fixture
def saved(model: VAE, tmp_path: Path) -> Path:
    """A sealed float32 model with another file beside it."""
    checkpoint.save(model.float(), tmp_path / "model")
    (tmp_path / "model" / "preprocessing.json").write_text('{"mean": 3}')
    checkpoint.seal(tmp_path / "model")
    return tmp_path / "model"


def refusal(path: Path, message: str) -> str:
    """A pattern that the whole error must match: the file, then what is wrong with it."""
    return f"^{re.escape(f'{path}: {message}')}$"


def test_a_model_comes_back_to_the_bit(model: VAE, batch: Batch, saved: Path) -> None:
    """Settings, every parameter and every result of a loaded model equal those of the saved one exactly."""
    values, observed, noise = batch[0].float(), batch[1], batch[2].float()
    loaded = checkpoint.load(saved)
    assert loaded.config == model.config
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    results = zip(loaded(values, observed, noise), model(values, observed, noise), strict=True)
    assert all(torch.equal(one, other) for one, other in results)


def test_a_loaded_model_is_ready_to_use(saved: Path) -> None:
    """A loaded model is in evaluation mode, on the CPU, and can be had from a string path too."""
    loaded = checkpoint.load(str(saved))
    assert not loaded.training
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}


def test_a_directory_is_plain_files(saved: Path) -> None:
    """A model is JSON and safetensors with a checksum of every other file, and nothing else."""
    assert sorted(path.name for path in saved.iterdir()) == sorted([*FILES, "checksums.json"])
    sums = json.loads((saved / "checksums.json").read_text())
    assert sums == {name: hashlib.sha256((saved / name).read_bytes()).hexdigest() for name in FILES}
    assert json.loads((saved / "config.json").read_text())["format"] == checkpoint.FORMAT


def test_the_seal_is_a_digest_of_everything(model: VAE, saved: Path, tmp_path: Path) -> None:
    """Sealing again, or saving the same model elsewhere, gives the same digest; any other byte, another one."""
    first = checkpoint.digest(saved)
    assert checkpoint.seal(saved) == first
    checkpoint.save(model.float(), tmp_path / "again")
    (tmp_path / "again" / "preprocessing.json").write_text('{"mean": 3}')
    assert checkpoint.seal(tmp_path / "again") == first
    (tmp_path / "again" / "preprocessing.json").write_text('{"mean": 4}')
    assert checkpoint.seal(tmp_path / "again") != first


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_refused(saved: Path, name: str) -> None:
    """One flipped bit in any file is found, and the file is named."""
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=refusal(saved / name, "altered since it was saved (sha256 differs)")):
        checkpoint.load(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(saved: Path, name: str) -> None:
    """A file that was sealed and is gone is named."""
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=refusal(saved / name, "missing")):
        checkpoint.load(saved)


def test_altered_checksums_are_refused(saved: Path) -> None:
    """A checksum that was altered no longer fits its file, which is named."""
    sums = json.loads((saved / "checksums.json").read_text())
    (saved / "checksums.json").write_text(json.dumps({**sums, "config.json": "0" * 64}))
    message = "altered since it was saved (sha256 differs)"
    with pytest.raises(CheckpointError, match=refusal(saved / "config.json", message)):
        checkpoint.load(saved)


def test_unreadable_checksums_are_refused(saved: Path) -> None:
    """Checksums cut short, as by a full disk, are refused as a checkpoint's error that names the file."""
    content = (saved / "checksums.json").read_text()
    (saved / "checksums.json").write_text(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=re.escape(str(saved / "checksums.json"))):
        checkpoint.load(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_unsealed_files_are_refused(saved: Path, name: str) -> None:
    """A model is loaded only from files whose checksum was verified: one that has none is refused by name."""
    sums = json.loads((saved / "checksums.json").read_text())
    del sums[name]
    (saved / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(CheckpointError, match=re.escape(name)):
        checkpoint.load(saved)


@pytest.mark.parametrize("there", [True, False])
def test_missing_checksums_are_refused(saved: Path, there: bool) -> None:
    """A directory without checksums, or no directory at all, is not a model directory."""
    (saved / "checksums.json").unlink()
    directory = saved if there else saved / "nowhere"
    message = "not a model directory, checksums.json is missing"
    with pytest.raises(CheckpointError, match=refusal(directory, message)):
        checkpoint.load(directory)


def test_a_newer_format_is_refused(saved: Path) -> None:
    """A model written by a newer version is refused, naming the file and the format that is read."""
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "format": checkpoint.FORMAT + 1}))
    checkpoint.seal(saved)
    message = f"written by a newer version; this one reads format {checkpoint.FORMAT}"
    with pytest.raises(CheckpointError, match=refusal(saved / "config.json", message)):
        checkpoint.load(saved)


def test_saving_over_a_sealed_model_breaks_the_seal(model: VAE, saved: Path) -> None:
    """New weights under an old seal are refused until they are sealed."""
    with torch.no_grad():
        model.mean.weight += 1
    checkpoint.save(model, saved)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: altered"):
        checkpoint.load(saved)
    checkpoint.seal(saved)
    assert torch.equal(checkpoint.load(saved).mean.weight, model.mean.weight)


def test_a_refusal_is_a_value_error() -> None:
    """Whoever catches ValueError catches a refused checkpoint."""
    assert issubclass(CheckpointError, ValueError)
