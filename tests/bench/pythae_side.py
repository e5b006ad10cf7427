"""The other side of the comparison: pythae 0.1.2's own VAE, loss, trainer and likelihood, only silent and timed.

The network is a plain one of linear layers, Bernoulli over binary rows or, for reals, pythae's squared error. `weights`
hands it over as tensors, so that one and the same estimator can judge both sides.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback
from torch import Tensor, nn

ACTIVATIONS: Final[dict[str, type[nn.Module]]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU, "gelu": nn.GELU}
Likelihood = Literal["bernoulli", "gaussian"]


class Trained(NamedTuple):
    """A model after its last epoch, and how long each epoch took."""

    model: VAE
    seconds_per_epoch: tuple[float, ...]


def train(
    train_rows: Tensor,
    *,
    hidden: Sequence[int],
    latent: int,
    epochs: int,
    batch_rows: int,
    learning_rate: float,
    seed: int,
    activation: str = "relu",
    likelihood: Likelihood = "bernoulli",
    device: Literal["cpu", "cuda"] = "cpu",
) -> Trained:
    """Train by Adam, as pythae does by itself: no validation rows, a copy of the best model kept.

    `train_rows` is `[row, feature]`, float32; 0 or 1 if the likelihood is "bernoulli".
    """
    _silence()
    torch.manual_seed(seed)
    model = build(train_rows.shape[1], hidden=hidden, latent=latent, activation=activation, likelihood=likelihood)
    clock = _Clock()
    with tempfile.TemporaryDirectory() as directory:
        config = BaseTrainerConfig(
            output_dir=directory,
            num_epochs=epochs,
            per_device_train_batch_size=batch_rows,
            learning_rate=learning_rate,
            seed=seed,
            no_cuda=device == "cpu",
        )
        rows = BaseDataset(train_rows, torch.ones(len(train_rows)))
        _Trainer(model, rows, training_config=config, callbacks=[clock]).train()
    return Trained(model.eval(), tuple(clock.seconds))


def build(
    features: int,
    *,
    hidden: Sequence[int],
    latent: int,
    activation: str = "relu",
    likelihood: Likelihood = "bernoulli",
) -> VAE:
    """features -> hidden -> mean and log-variance of `latent` dimensions -> hidden mirrored -> features."""
    binary = likelihood == "bernoulli"
    config = VAEConfig(input_dim=(features,), latent_dim=latent, reconstruction_loss="bce" if binary else "mse")
    encoder = Encoder((features, *hidden), latent, ACTIVATIONS[activation])
    decoder = Decoder((latent, *reversed(hidden)), features, ACTIVATIONS[activation], binary=binary)
    return VAE(config, encoder=encoder, decoder=decoder)


@torch.no_grad()
def nll(model: VAE, test_rows: Tensor, k: int, seed: int) -> float:
    """-log p(x), nats per row, by pythae's `get_nll` at k importance samples per row.

    `get_nll` returns the mean of log p(x), so its sign is turned here. It draws `batch_size` samples whenever
    `n_samples` is not more, and drops what does not fill a batch; both are k, so it draws k.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return -float(model.get_nll(test_rows, n_samples=k, batch_size=k))


def weights(model: VAE) -> dict[str, Tensor]:
    """Copies of the linear layers' `NAME.weight` and `NAME.bias`, in the order in which a row passes them.

    The names: encoder.0, encoder.1, ..., mean, logvar, decoder.0, decoder.1, ..., outputs (the logits).
    """
    layers = {
        **{f"encoder.{i}": layer for i, layer in enumerate(_linear(model.encoder.body))},
        "mean": model.encoder.mean,
        "logvar": model.encoder.logvar,
        **{f"decoder.{i}": layer for i, layer in enumerate(_linear(model.decoder.body))},
        "outputs": model.decoder.outputs,
    }
    return {
        f"{name}.{kind}": getattr(layer, kind).detach().clone()
        for name, layer in layers.items()
        for kind in ("weight", "bias")
    }


class Encoder(BaseEncoder):
    """Mean and log-variance of q(z | x)."""

    def __init__(self, widths: Sequence[int], latent: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.body = _mlp(widths, activation)
        self.mean = nn.Linear(widths[-1], latent)
        self.logvar = nn.Linear(widths[-1], latent)

    def forward(self, x: Tensor) -> ModelOutput:
        """Under the names that pythae asks for."""
        hidden = self.body(x)
        return ModelOutput(embedding=self.mean(hidden), log_covariance=self.logvar(hidden))


class Decoder(BaseDecoder):
    """The probability of a one in each feature, which is what pythae's "bce" takes, or the mean, for "mse"."""

    def __init__(self, widths: Sequence[int], features: int, activation: type[nn.Module], *, binary: bool) -> None:
        super().__init__()
        self.body = _mlp(widths, activation)
        self.outputs = nn.Linear(widths[-1], features)
        self.last = nn.Sigmoid() if binary else nn.Identity()

    def forward(self, z: Tensor) -> ModelOutput:
        """Under the name that pythae asks for."""
        return ModelOutput(reconstruction=self.last(self.outputs(self.body(z))))


class _Trainer(BaseTrainer):
    """Without the progress bar and the printer of losses, which pythae adds to any callbacks."""

    def _setup_callbacks(self) -> None:
        self.callback_handler = CallbackHandler(callbacks=self.callbacks, model=self.model)


class _Clock(TrainingCallback):
    """Seconds of each whole epoch: the steps, and the copy that pythae makes of the best model."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started = 0.0

    def on_epoch_begin(self, training_config: BaseTrainerConfig, **kwargs: Any) -> None:
        """The clock starts."""
        self.started = time.perf_counter()

    def on_epoch_end(self, training_config: BaseTrainerConfig, **kwargs: Any) -> None:
        """The clock stops."""
        self.seconds.append(time.perf_counter() - self.started)


def _silence() -> None:
    """Every module of pythae prints by a logger and a handler of its own."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "pythae":
            logging.getLogger(name).setLevel(logging.WARNING)


def _mlp(widths: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers initialised as torch does, an activation after each: as in pythae's default networks."""
    return nn.Sequential(*[part for pair in pairwise(widths) for part in (nn.Linear(*pair), activation())])


def _linear(body: nn.Sequential) -> Iterator[nn.Linear]:
    return (layer for layer in body if isinstance(layer, nn.Linear))
