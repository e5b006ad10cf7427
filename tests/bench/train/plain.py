"""The model and the step that are the same wherever the loop is a plain one: bare, of Ray's recipe, of Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from table import Model
from torch import Tensor, nn
from torch.nn import functional


class Plain(nn.Module):
    """A VAE of linear layers and ReLU; reals have a standard deviation each, learned, pixels a logit each."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.likelihood = model.likelihood
        self.encoder = _mlp((model.features, *model.hidden))
        self.mean = nn.Linear(model.hidden[-1], model.latent)
        self.logvar = nn.Linear(model.hidden[-1], model.latent)
        self.decoder = _mlp((model.latent, *reversed(model.hidden)))
        self.outputs = nn.Linear(model.hidden[0], model.features)
        self.log_scale = nn.Parameter(torch.zeros(model.features)) if model.likelihood == "gaussian" else None

    def forward(self, values: Tensor) -> Tensor:
        """Minus the ELBO at one draw, less constants, the mean over rows; under bfloat16 autocast on a GPU."""
        with torch.autocast(values.device.type, torch.bfloat16, enabled=values.is_cuda):
            hidden = self.encoder(values)
            mean, logvar = self.mean(hidden).float(), self.logvar(hidden).float()
            latent = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
            outputs = self.outputs(self.decoder(latent)).float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1)
        return (self._fit(values, outputs) + kl).mean()

    def _fit(self, values: Tensor, outputs: Tensor) -> Tensor:
        if self.log_scale is None:
            return functional.binary_cross_entropy_with_logits(outputs, values, reduction="none").sum(1)
        return (0.5 * ((values - outputs) * torch.exp(-self.log_scale)) ** 2 + self.log_scale).sum(1)


def adam(model: nn.Module) -> torch.optim.Adam:
    """Fused."""
    return torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, values: Tensor) -> None:
    """Descend once on a batch."""
    optimizer.zero_grad(set_to_none=True)
    model(values).backward()
    optimizer.step()


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*[part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())])
