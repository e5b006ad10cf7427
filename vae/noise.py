"""Everything random in a training step, drawn before it: so a step is a function, on one worker or on many.

Also the corruptions of denoising autoencoders (Vincent et al. 2010), which act on values, by the kind of each column.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from vae.config import Objective
from vae.likelihoods import Columns
from vae.likelihoods.likelihood import Observed


class Noise(NamedTuple):
    """The randomness of some rows; parts that an objective does not need have no width."""

    posterior: Float[Tensor, "batch draw latent"]
    """Standard normal, for z = mean + std * noise."""
    corruption: Float[Tensor, "batch uniform"]
    """Uniform on [0, 1), two numbers per feature (Gaussian noise: standard normal, one)."""
    probe: Float[Tensor, "batch direction"]
    """Standard normal directions of the code, for the contractive penalty."""
    binary: Float[Tensor, "batch chance"]
    """Uniform on [0, 1), one number per feature, where columns are binarised anew in every step."""

    def take(self, index: Tensor | slice, *, device: torch.device | str = "cpu") -> Noise:
        """That of some of the rows."""
        return Noise(*(part[index].to(device) for part in self))


def draw(objective: Objective, columns: Columns, *, rows: int, latent: int, generator: Generator) -> Noise:
    """The noise of one step over `rows` rows, on the generator's device: the CPU's is the same everywhere."""
    features, place = len(columns.owner), generator.device
    posterior = torch.randn(rows, objective.draws, latent, generator=generator, device=place)
    if objective.noise == "gaussian":
        corruption = torch.randn(rows, features, generator=generator, device=place)
    else:
        width = 2 * features if objective.noise != "none" else 0
        corruption = torch.rand(rows, width, generator=generator, device=place)
    probe = torch.randn(rows, latent if objective.contraction else 0, generator=generator, device=place)
    binary = torch.rand(rows, features if columns.drawn else 0, generator=generator, device=place)
    return Noise(posterior, corruption, probe, binary)


def binarise(
    columns: Columns, values: Float[Tensor, "batch feature"], uniform: Float[Tensor, "batch feature"]
) -> Float[Tensor, "batch feature"]:
    """Zeros and ones, by their probabilities, in the columns that are dynamic; the others as they are."""
    return torch.where(columns.dynamic, (uniform.to(values.dtype) < values).to(values.dtype), values)


def corrupt(
    objective: Objective,
    columns: Columns,
    values: Float[Tensor, "batch feature"],
    observed: Observed,
    noise: Float[Tensor, "batch uniform"],
) -> tuple[Float[Tensor, "batch feature"], Observed]:
    """What the encoder is shown instead of `values` and `observed`.

    gaussian: reals get normal noise of standard deviation `noise_level`, in standardised units. masking: a cell counts
    as missing with probability `noise_level`. salt_and_pepper: it takes its column's smallest or largest value.
    """
    if objective.noise == "none":
        return values, observed
    noise = noise.to(values.dtype)
    if objective.noise == "gaussian":
        return columns.jitter(values, objective.noise_level * noise), observed
    whether, which = noise.chunk(2, 1)
    struck = whether < objective.noise_level
    if objective.noise == "masking":
        return values, ~struck if observed is None else observed & ~struck
    return torch.where(struck, columns.extreme(which), values), observed
