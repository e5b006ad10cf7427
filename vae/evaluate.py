"""The judge: how good is a model, in nats and in the data's own units.

Everything is a sum over rows first (`Sums`), so batches, files and workers add up exactly; `Evaluation` is the sums
turned into figures. `judge` does it all at once for who has the rows at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, Float64
from torch import Generator, Tensor

from vae.config import CATEGORIES, Objective
from vae.importance import log_evidence
from vae.information import information
from vae.model import VAE, Posterior
from vae.noise import binarise
from vae.objectives import kl
from vae.walkback import compatibility_gap

PLAIN: Final = Objective()
ACTIVE_VARIANCE: Final = 0.01
"""A latent dimension is active if Var over x of E[z_i | x] exceeds this (Burda et al. 2016, section 5.2)."""
BLOCK_ROWS: Final = 64
"""Rows that share a seed of the importance samples, so that the estimate is the same however rows are spread."""
INFORMED: Final = 2_048
"""Rows from which `judge` estimates information and compatibility."""


@dataclass(frozen=True)
class Sums:
    """Sufficient statistics of an evaluation, float64. Adding two is evaluating their rows together."""

    packed: Float64[Tensor, " statistic"]
    columns: int
    latents: int

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.packed + other.packed, self.columns, self.latents)

    def split(self) -> tuple[Tensor, ...]:
        """Rows, rows weighed, log-evidence, KL; log-likelihood, error, cells by column; mean, mean^2, KL by latent.

        The error is squared, in original units, or counts the wrong codes.
        """
        return tuple(self.packed.split([1, 1, 1, 1, *[self.columns] * 3, *[self.latents] * 3]))


def zero(model: VAE) -> Sums:
    """The sums over no rows."""
    columns, latents = len(model.config.columns), model.config.network.latent
    packed = torch.zeros(4 + 3 * columns + 3 * latents, dtype=torch.float64, device=model.device)
    return Sums(packed, columns, latents)


@torch.no_grad()
def tally(
    model: VAE,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    noise: Float[Tensor, "batch draw latent"],
) -> Sums:
    """The sums over one batch, at the given posterior draws; without evidence (see `weigh`)."""
    posterior = model.encode(values, observed)
    z = model.draw(posterior, noise)
    fit = model.log_likelihood(values, observed, z).mean(1)
    none = torch.zeros(2, dtype=torch.float64, device=values.device)
    sums = [
        torch.tensor([len(values)], device=values.device),
        none,
        kl(model, posterior, z).sum(dtype=torch.float64)[None],
        model.columns.per_column(fit).sum(0, dtype=torch.float64),
        _errors(model, values, observed, posterior.mean).sum(0, dtype=torch.float64),
        model.columns.per_column(observed.to(values.dtype)).sum(0, dtype=torch.float64),
        posterior.mean.sum(0, dtype=torch.float64),
        (posterior.mean.double() ** 2).sum(0),
        _kl_per_latent(model, posterior, z).sum(0, dtype=torch.float64),
    ]
    return Sums(torch.cat([part.double() for part in sums]), len(model.config.columns), posterior.mean.shape[1])


@torch.no_grad()
def weigh(
    model: VAE,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    *,
    samples: int,
    seed: int,
    block: int,
) -> Sums:
    """The evidence of the rows of one block (BLOCK_ROWS at most), as sums: importance-sampled log p(x).

    `block` is the block's number in the whole table; seed and block determine the samples.
    """
    generator = Generator().manual_seed(seed * 1_000_003 + block & (1 << 63) - 1)
    sums = zero(model)
    sums.packed[1] = len(values)
    sums.packed[2] = log_evidence(model, values, observed, samples=samples, generator=generator).sum()
    return sums


def _errors(model: VAE, values: Tensor, observed: Tensor, mean: Tensor) -> Float64[Tensor, "batch column"]:
    """Squared error in original units, or 0/1 error of codes, of the reconstruction from E[z | x]."""
    guess = model.reconstruct(mean).double()
    true = torch.where(observed, values, 0.0).double()
    apart = (model.columns.units(guess) - model.columns.units(true)) ** 2
    wrong = torch.where(_coded(model), (guess.round() != true).double(), apart)
    return model.columns.per_column(torch.where(observed, wrong, 0.0))


def _coded(model: VAE) -> Bool[Tensor, " feature"]:
    coded = [column.likelihood in CATEGORIES for column in model.config.columns]
    return torch.tensor(coded, device=model.device)[model.columns.owner]


def _kl_per_latent(model: VAE, posterior: Posterior, z: Tensor) -> Float[Tensor, "batch latent"]:
    """KL(q(z_i | x) || p(z_i)), each dimension by itself."""
    if model.standard or not model.stochastic:
        return kl(model, posterior, z)
    return (posterior.log_prob(z) - model.prior().marginals(z)).mean(1)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of a model on some rows. Nats are per row, in original units."""

    rows: int
    elbo: float | None
    """log_likelihood - kl: a lower bound on the mean log p(x). None if the encoder is deterministic."""
    log_likelihood: float
    """E_q[log p(x | z)]; of a deterministic encoder log p(x | z) at its code."""
    kl: float
    """KL(q(z | x) || p(z)); 0 for a deterministic encoder, which has none."""
    nll: float | None = None
    """-log p(x) by importance sampling: an upper bound, tighter with more samples. None: not estimated."""
    importance_samples: int = 0
    """k of `nll`."""
    seed: int = 0
    """Of the importance samples."""
    rival_nll: float | None = None
    """-log p(x) by `vae.rival`, exact: pPCA of the reals, and all other columns independent."""
    rival: str = "pPCA"
    """What of the two the rival is made of."""
    mutual_information: float | None = None
    """I(x; z) by `informed_rows` rows (`vae.information`), nats, never above their logarithm: what the codes know."""
    prior_gap: float | None = None
    """KL(q(z) || p(z)) over the same rows, nats: what samples from the prior suffer from."""
    informed_rows: int = 0
    compatibility: dict[str, float] | None = None
    """By column, how far a walk between encoder and decoder leaves the data, 0 to 1 (`vae.walkback`); denoising."""
    active_units: int
    """Latent dimensions with Var(E[z_i | x]) > 0.01."""
    kl_per_latent: tuple[float, ...]
    """KL(q(z_i | x) || p(z_i))."""
    variance_per_latent: tuple[float, ...]
    """Var over rows of E[z_i | x]: 1 is full use, 0 is collapse."""
    log_likelihood_per_column: dict[str, float]
    error_per_column: dict[str, float | None]
    """RMSE in original units, or share of wrong codes, from z = E[z | x]; None for a column with nothing observed."""

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Evaluation:
        """Back from `dataclasses.asdict` and JSON."""
        tuples = {name: tuple(plain[name]) for name in ("kl_per_latent", "variance_per_latent")}
        return cls(**{**plain, **tuples})

    @property
    def score(self) -> float:
        """What the best epoch is chosen by: the ELBO, or the fit where there is none."""
        return self.log_likelihood if self.elbo is None else self.elbo

    @property
    def gain(self) -> float | None:
        """Nats per row over the rival, at least; over pPCA where there are reals. None without likelihood or rival."""
        if self.rival_nll is None or self.elbo is None:
            return None
        return self.rival_nll - (-self.elbo if self.nll is None else self.nll)

    @property
    def verdict(self) -> str:
        """In plain words, how much of the latent space is in use."""
        latents = len(self.kl_per_latent)
        if self.active_units == 0:
            return "collapsed: no latent dimension carries information; lower beta or train longer"
        if self.active_units == latents:
            return f"all {latents} latent dimensions in use"
        return f"{latents - self.active_units} of {latents} latent dimensions unused"


def conclude(model: VAE, sums: Sums, *, samples: int = 0, seed: int = 0) -> Evaluation:
    """Turn sums into figures; `samples` and `seed` are those of `weigh`. Raises ValueError when there were no rows."""
    parts = [part.cpu() for part in sums.split()]
    count, weighed, evidence, divergence, fit, error, cells, mean, square, kl_per_latent = parts
    if not count:
        raise ValueError("an evaluation needs at least one row")
    rows = int(count)
    variance = (square / rows - (mean / rows) ** 2).clamp_min(0)
    names = [column.name for column in model.config.columns]
    return Evaluation(
        rows=rows,
        elbo=float((fit.sum() - divergence) / rows) if model.stochastic else None,
        log_likelihood=float(fit.sum() / rows),
        kl=float(divergence / rows),
        nll=float(-evidence / weighed) if weighed else None,
        importance_samples=samples if weighed else 0,
        seed=seed,
        active_units=int((variance > ACTIVE_VARIANCE).sum()),
        kl_per_latent=tuple((kl_per_latent / rows).tolist()),
        variance_per_latent=tuple(variance.tolist()),
        log_likelihood_per_column=dict(zip(names, (fit / rows).tolist(), strict=True)),
        error_per_column=dict(zip(names, _mean_errors(model, error, cells), strict=True)),
    )


def _mean_errors(model: VAE, error: Tensor, cells: Tensor) -> list[float | None]:
    rates = [float(total / count) if count else None for total, count in zip(error, cells, strict=True)]
    coded = [column.likelihood in CATEGORIES for column in model.config.columns]
    return [rate if code or rate is None else rate**0.5 for rate, code in zip(rates, coded, strict=True)]


def judge(
    model: VAE,
    batches: Iterable[tuple[Float[Tensor, "batch feature"], Bool[Tensor, "batch feature"]]],
    *,
    samples: int = 100,
    seed: int = 0,
    objective: Objective = PLAIN,
) -> Evaluation:
    """The evaluation over all rows of some batches, one at a time in memory; NLL by `samples` importance samples.

    The figures do not depend on how the rows are cut into batches. samples = 0 leaves the NLL out.
    """
    sums, generator, kept = zero(model), Generator().manual_seed(seed), list[tuple[Tensor, ...]]()
    for block, (given, observed) in enumerate(_blocks(batches)):
        values = binarise(model.columns, given, torch.rand(given.shape, generator=generator).to(given))
        kept += [(values, observed)] if block < INFORMED // BLOCK_ROWS else []
        noise = torch.randn(len(values), 1, model.config.network.latent, generator=generator).to(values)
        sums += tally(model, values, observed, noise)
        if samples and model.stochastic:
            sums += weigh(model, values, observed, samples=samples, seed=seed, block=block)
    evaluation = conclude(model, sums, samples=samples, seed=seed)
    some = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return examined(model, evaluation, *some, objective=objective)


def examined(
    model: VAE,
    evaluation: Evaluation,
    values: Float[Tensor, "batch feature"],
    observed: Bool[Tensor, "batch feature"],
    *,
    objective: Objective,
) -> Evaluation:
    """With what cannot be summed over batches, from a few of the rows (INFORMED of them will do)."""
    if model.stochastic:
        found = information(model, values, observed, seed=evaluation.seed)
        evaluation = replace(
            evaluation,
            mutual_information=found.mutual_information,
            prior_gap=found.prior_gap,
            informed_rows=found.rows,
        )
    if objective.noise != "none":
        gap = compatibility_gap(model, objective, values, observed, seed=evaluation.seed)
        evaluation = replace(evaluation, compatibility=gap)
    return evaluation


def _blocks(batches: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """The same rows, BLOCK_ROWS at a time, so that no figure depends on the batches they came in."""
    rest: tuple[Tensor, ...] = ()
    for batch in batches:
        rows = [torch.cat(both) for both in zip(rest, batch, strict=True)] if rest else batch
        *whole, rest = zip(*(part.split(BLOCK_ROWS) for part in rows), strict=True)
        yield from whole
    if rest:
        yield rest
