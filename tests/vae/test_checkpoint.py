"""A model on disk: equal to the bit when it comes back, and refused by name when it was altered."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from family import EVERY, MEMBERS, NETWORKS, build, frozen, network, table
from torch import Generator, Tensor

from vae import checkpoint, fit
from vae.checkpoint import CheckpointError
from vae.config import Column, ModelConfig
from vae.fit import Loss
from vae.model import VAE

FILES = ["config.json", "model.safetensors", "preprocessing.json"]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]

SOME = ["mlp-stochastic-mixture", "residual-deterministic-normal", "convolution-stochastic-vamp"]
"""Networks that have every body, encoder and prior between them."""


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


def ready(config: ModelConfig, *, dtype: torch.dtype) -> VAE:
    """A model whose weights were moved; of a mixture, fitted."""
    model = build(config, shake=0.2, dtype=dtype)
    if config.network.prior == "mixture":
        values, observed = table(config, 40)
        fit.fit_prior(model, values.to(dtype), observed, seed=1)
    return model


def outcomes(model: VAE, *, seed: int = 7) -> list[Tensor]:
    """What a model makes of some rows: codes, parameters, log-probabilities, prior, guesses and draws."""
    dtype = model.mean.weight.dtype
    values, observed = (part.to(model.device) for part in table(model.config, 6))
    q = model.encode(values.to(dtype), observed)
    z = model.draw(q, torch.randn(6, 2, 3, generator=Generator().manual_seed(seed)).to(q.mean))
    found = [q.mean, q.logvar, model.decode(q.mean), model.log_likelihood(values.to(dtype), observed, z)]
    found += [model.prior().log_prob(z), model.reconstruct(q.mean)]
    if (model.stochastic or not model.standard) and model.device.type == "cpu":
        found.append(model.sample(5, generator=Generator().manual_seed(seed)))
    return found


def back(model: VAE, directory: Path) -> VAE:
    """The model after it was saved and loaded."""
    checkpoint.save(model, directory)
    checkpoint.seal(directory)
    return checkpoint.load(directory)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_model_comes_back_to_the_bit(name: str, precision: torch.dtype, tmp_path: Path) -> None:
    """Every body, encoder and prior, over all kinds of columns: settings, weights and outcomes are equal exactly."""
    model = ready(ModelConfig(columns=EVERY, network=network(**NETWORKS[name])), dtype=precision)
    loaded = back(model, tmp_path)
    assert loaded.config == model.config
    assert loaded.standard == model.standard
    assert list(loaded.state_dict()) == list(model.state_dict())
    for one, other in (
        (loaded.state_dict(), model.state_dict()),
        (dict(loaded.named_buffers()), dict(model.named_buffers())),
    ):
        assert all(torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in other)
    assert all(torch.equal(one, other) for one, other in zip(outcomes(loaded), outcomes(model), strict=True))


@pytest.mark.parametrize("column", EVERY, ids=[column.name for column in EVERY])
def test_every_likelihood_comes_back_to_the_bit(column: Column, tmp_path: Path) -> None:
    """The same for each distribution by itself, its own parameters included."""
    model = ready(ModelConfig(columns=(column,), network=network()), dtype=torch.float32)
    loaded = back(model, tmp_path)
    assert loaded.config == model.config
    assert all(torch.equal(one, other) for one, other in zip(outcomes(loaded), outcomes(model), strict=True))


@pytest.mark.parametrize("member", list(MEMBERS))
def test_training_goes_on_where_it_was(member: str, tmp_path: Path) -> None:
    """A loaded model has the saved one's loss and gradients, to the bit."""
    settings, objective = MEMBERS[member]
    model = build(ModelConfig(columns=EVERY, network=network(**settings)), shake=0.2)
    values, observed = table(model.config, 5)
    found = []
    for each in (model, back(model, tmp_path)):
        loss = Loss(each, objective)(values, observed, frozen(model, objective, 5))
        loss.sum().backward()
        found.append([loss, *(p.grad for p in each.parameters() if p.grad is not None)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SOME)
def test_a_model_is_loaded_onto_a_device(name: str, device: str, tmp_path: Path) -> None:
    """From any device to any other: all tensors are there, and equal outcomes follow, on the CPU to the bit."""
    model = ready(ModelConfig(columns=EVERY, network=network(**NETWORKS[name])), dtype=torch.float64).to(device)
    checkpoint.save(model, tmp_path)
    checkpoint.seal(tmp_path)
    there, here = checkpoint.load(tmp_path, device=device), checkpoint.load(tmp_path)
    assert {tensor.device.type for tensor in (*there.parameters(), *there.buffers())} == {device}
    assert here.device.type == "cpu"
    near = 0 if device == "cpu" else 1e-9
    for one, other in zip(outcomes(there), outcomes(here), strict=False):
        torch.testing.assert_close(one.cpu(), other, rtol=near, atol=near)


@pytest.mark.parametrize("name", SOME)
def test_no_tensor_stays_behind(name: str, tmp_path: Path) -> None:
    """Without a second device to hand: on torch's `meta` device an operation with a tensor left on the CPU fails.

    A model loaded there encodes, decodes, has its log-probabilities and gradients.
    """
    model = build(ModelConfig(columns=EVERY, network=network(**NETWORKS[name])), dtype=torch.float32)
    checkpoint.save(model, tmp_path)
    checkpoint.seal(tmp_path)
    there = checkpoint.load(tmp_path, device="meta")
    assert {tensor.device.type for tensor in (*there.parameters(), *there.buffers())} == {"meta"}
    values, observed = (part.to("meta") for part in table(model.config, 4))
    q = there.encode(values.float(), observed)
    z = there.draw(q, torch.empty(4, 2, 3, device="meta"))
    fitted = there.log_likelihood(values.float(), observed, z)
    (fitted.sum() + there.prior().log_prob(z).sum()).backward()
    assert fitted.device.type == "meta"


def test_the_meta_device_finds_a_tensor_left_behind(model: VAE) -> None:
    """Meta: it does fail where one constant is on the CPU."""
    there = model.to("meta")
    there.columns.owner = there.columns.told = torch.zeros(1, dtype=torch.long)
    values, observed = (part.to("meta") for part in table(model.config, 2))
    with pytest.raises(RuntimeError):
        there.columns.per_column(there.encode(values, observed).mean)


def test_loading_spends_no_random_numbers(saved: Path) -> None:
    """The global generator is where it was, and the model is the same whatever its state, a VampPrior's too."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = checkpoint.load(saved)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    other = checkpoint.load(saved)
    assert all(torch.equal(*pair) for pair in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


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


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_refused(saved: Path, name: str, place: float) -> None:
    """One flipped bit anywhere in any file is found, and the file is named."""
    content = bytearray((saved / name).read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=refusal(saved / name, "altered since it was saved (sha256 differs)")):
        checkpoint.load(saved)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("longer", [True, False])
def test_a_file_of_another_length_is_refused(saved: Path, name: str, longer: bool) -> None:
    """Bytes added to a file, or cut off its end, are found, and the file is named."""
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content + b" " if longer else content[:-1])
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


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '"x"', "null"])
def test_unreadable_checksums_are_refused(saved: Path, content: str) -> None:
    """Checksums cut short, as by a full disk, or that are no object, are a checkpoint's error that names the file."""
    (saved / "checksums.json").write_text(content)
    with pytest.raises(CheckpointError, match=re.escape(str(saved))):
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


def _written_as(saved: Path, config: dict[str, Any]) -> None:
    """Replace the settings and seal them, as another version would have."""
    (saved / "config.json").write_text(json.dumps(config))
    checkpoint.seal(saved)


@pytest.mark.parametrize(
    ("apart", "age"), [(1, "a newer version"), (7, "a newer version"), (-1, "an older version; train again")]
)
def test_another_format_is_refused(saved: Path, apart: int, age: str) -> None:
    """A model written by a newer version, or an older one, is refused, naming the file and both formats."""
    written = checkpoint.FORMAT + apart
    _written_as(saved, {**json.loads((saved / "config.json").read_text()), "format": written})
    message = f"format {written}, not {checkpoint.FORMAT}: written by {age}"
    with pytest.raises(CheckpointError, match=refusal(saved / "config.json", message)):
        checkpoint.load(saved)


def test_weights_of_another_model_are_refused(saved: Path, tmp_path: Path) -> None:
    """Weights that do not fit the settings, sealed all the same, are not loaded in part."""
    other = build(ModelConfig(columns=EVERY, network=network(hidden=(6, 4))), dtype=torch.float32)
    checkpoint.save(other, tmp_path / "other")
    (saved / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    checkpoint.seal(saved)
    with pytest.raises(RuntimeError, match="size mismatch"):
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
