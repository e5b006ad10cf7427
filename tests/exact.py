"""What is known exactly: expectations by quadrature, and the linear model at pPCA's optimum."""

from __future__ import annotations

import torch
from family import build
from torch import Tensor

from vae.config import Column, ModelConfig, Network
from vae.likelihoods import Gaussian
from vae.model import VAE
from vae.ppca import PPCA


def normal(nodes: int, latent: int = 1) -> tuple[Tensor, Tensor]:
    """Points `[nodes ** latent, latent]` and weights: sum(weights * f(points)) = E[f(z)] for z ~ N(0, I).

    The trapezoidal rule on [-10, 10]: of all smooth integrands that vanish at both ends it makes exponentially small
    errors, here smaller than Gauss-Hermite quadrature's (Trefethen and Weideman 2014).
    """
    line = torch.linspace(-10, 10, nodes, dtype=torch.float64)
    weights = (-0.5 * line**2).softmax(0)
    points = torch.cartesian_prod(*[line] * latent).view(-1, latent)
    return points, torch.cartesian_prod(*[weights] * latent).view(-1, latent).prod(1)


def corners(rows: int, latent: int) -> Tensor:
    """Draws `[rows, 2 * latent, latent]` with mean 0 and covariance I: the mean over them is E[f] of quadratic f."""
    axes = latent**0.5 * torch.eye(latent, dtype=torch.float64)
    return torch.cat([axes, -axes]).expand(rows, -1, -1)


@torch.no_grad()
def log_evidence(model: VAE, values: Tensor, observed: Tensor, *, nodes: int = 241) -> Tensor:
    """log p(x) of each row, by quadrature over every component of the prior."""
    prior = model.prior()
    points, weights = normal(nodes, prior.mean.shape[1])
    z = prior.mean[:, None] + (0.5 * prior.logvar).exp()[:, None] * points
    log_weight = prior.log_weight[:, None] + weights.log()
    outputs = model.decode(z.flatten(0, 1))
    cells = (part[:, None].expand(-1, len(outputs), -1) for part in (values, observed))
    fits = torch.stack([model.columns.log_prob(outputs, *row).sum(1) for row in zip(*cells, strict=True)])
    return (fits + log_weight.flatten()).logsumexp(1)


def gaussian_rows(eigenvalues: list[float], *, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows whose mean is 0 and whose covariance (divided by n) has exactly these eigenvalues; and the eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor(eigenvalues, dtype=torch.float64)
    raw = torch.randn(rows, len(spread), generator=generator, dtype=torch.float64)
    white, _, _ = torch.linalg.svd(raw - raw.mean(0), full_matrices=False)
    axes, _ = torch.linalg.qr(torch.randn(len(spread), len(spread), generator=generator, dtype=torch.float64))
    return rows**0.5 * white * spread.sqrt() @ axes.mT, axes


def linear(features: int, latent: int, *, encoder: str = "stochastic", **column: float) -> VAE:
    """A model without hidden layers, float64, of one Gaussian column: its features share their scale."""
    x = Column(name="x", likelihood="gaussian", width=features, **column)
    network = Network(latent=latent, hidden=(), encoder=encoder)
    return build(ModelConfig(columns=(x,), network=network))


def noise_scale(model: VAE) -> Gaussian:
    """The one block of a linear model, which holds its noise's scale."""
    (block,) = model.columns.blocks
    assert isinstance(block, Gaussian)
    return block


@torch.no_grad()
def optimum(ppca: PPCA, **column: float) -> VAE:
    """The linear VAE at pPCA's maximum of the likelihood, the ELBO's too (Lucas et al. 2019).

    Decoder W z + m; encoder M^-1 W' (x - m) with variances sigma^2 / diag(M), where M = W'W + sigma^2 I.
    """
    model = linear(*ppca.weight.shape, **column)
    unit = torch.eye(ppca.weight.shape[1], dtype=torch.float64)
    precision = ppca.weight.mT @ ppca.weight + ppca.variance * unit
    back = torch.linalg.solve(precision, ppca.weight.mT)
    model.decoder.head.weight.copy_(ppca.weight)
    model.decoder.head.bias.copy_(ppca.mean)
    model.mean.weight.copy_(back)
    model.mean.bias.copy_(-back @ ppca.mean)
    assert model.logvar is not None
    model.logvar.weight.zero_()
    model.logvar.bias.copy_((ppca.variance / precision.diagonal()).log())
    block = noise_scale(model)
    block.log_scale.copy_((ppca.variance.sqrt() - block.floor[0]).log())
    return model
