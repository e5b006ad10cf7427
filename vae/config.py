"""Settings of an autoencoder: columns, networks, objective. Importing this costs no torch and does nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from vae.bounds import FORBID_EXTRA as FORBID_EXTRA
from vae.bounds import Bounds as Bounds
from vae.bounds import Count as Count
from vae.bounds import Positive as Positive
from vae.bounds import check as check

RealName = Literal["gaussian", "log_normal", "student_t", "mixture", "joint_mixture"]
CountName = Literal["poisson", "negative_binomial"]
LevelName = Literal["binomial", "discretised_logistic"]
CategoryName = Literal["bernoulli", "categorical", "ordinal"]
LikelihoodName = Literal[RealName, CountName, LevelName, CategoryName]
"""Distributions p(x | z), by the values they are over; each is a class of the same name in `vae.likelihoods`."""

REALS: Final = get_args(RealName)
"""Over real numbers, standardised: (x - center) / scale, of log x for log_normal; see also `Column.warp`."""
WARPED: Final = ("gaussian", "mixture", "joint_mixture")
"""Reals that may have a warp: sums of Gaussians, whose means under one are known in closed form."""
COUNTS: Final = get_args(CountName)
"""Over 0, 1, 2, ..., as they are."""
LEVELS: Final = get_args(LevelName)
"""Over 0, 1, ..., codes - 1, as they are: the 256 grey values of a pixel."""
CATEGORIES: Final = get_args(CategoryName)
"""Over codes: bernoulli 0 and 1, ordinal 0..codes-1 by rank, categorical 1..codes-1 with 0 for the unknown."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column as the model sees it: the features it occupies and the distribution of its values.

    Model values are the numbers that `values[batch, feature]` holds; REALS, COUNTS, LEVELS and CATEGORIES say which.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    name: str
    """Name, as in the table."""
    likelihood: LikelihoodName
    """Distribution p(x | z) of each of its features."""
    width: Positive = 1
    """Number of features: 1 for a scalar or a category code, H*W*C for an image."""
    shape: tuple[Positive, ...] = ()
    """Height, width and channels of an image, for convolutions; empty: not an image."""
    codes: Count = 0
    """Number of codes or levels; 0 for reals, counts and bernoulli. A categorical's unknown code 0 is included."""
    warp: Literal["none", "log1p", "knots"] = "none"
    """What is standardised: x; log(1 + x); or x, and then straight lines through `knots` and `scores`. Reals only."""
    knots: tuple[float, ...] = ()
    """Standardised numbers, rising, that the model values `scores` stand for. Warp `knots` only."""
    scores: tuple[float, ...] = ()
    """Model values at the knots, rising; beyond the outermost ones the outermost lines go on."""
    periods: tuple[Annotated[float, Bounds(gt=0)], ...] = ()
    """Periods, original units, of a time: the encoder is also shown sine and cosine of each. Reals only."""
    embedding: Count = 0
    """Width of the vector, learned per code, that the encoder is shown; 0: one-hot. Categorical only."""
    center: float = 0.0
    """Original value of the model value 0 (its logarithm where that is standardised). Reals only."""
    scale: Annotated[float, Bounds(gt=0)] = 1.0
    """Original units in one standardised unit; log p(x) includes the Jacobian -log(scale). Reals only."""
    floor: Annotated[float, Bounds(gt=0)] = 1e-2
    """Smallest standard deviation a real may claim, in standardised units: the resolution of the data."""
    sigma: Annotated[float, Bounds(ge=0)] = 0.0
    """A Gaussian's fixed standard deviation, standardised units; 0: learned, one per column."""
    components: Positive = 5
    """Components of a mixture."""
    group: str = ""
    """Columns with joint_mixture and the same group have one mixture together."""
    means: tuple[float, ...] = ()
    """Mean model value of each feature (or one for all), where the output bias starts; empty: unknown."""
    rates: tuple[Annotated[float, Bounds(ge=0, le=1)], ...] = ()
    """Marginal probability of each code, where a categorical's or ordinal's output bias starts; empty: uniform."""
    low: float = -2.0
    """Smallest model value seen, one end of salt-and-pepper noise. Reals and counts."""
    high: float = 2.0
    """Largest model value seen, the other end."""
    dynamic: bool = False
    """A bernoulli whose values are probabilities, of which every step draws zeros and ones anew (Burda et al. 2016)."""
    nullable: bool = False
    """Whether cells may be missing; if so, the encoder is also told which ones are."""

    def __post_init__(self) -> None:
        check(self)
        coded = self.likelihood in ("categorical", "ordinal", *LEVELS)
        if coded != (self.codes > 1):
            raise ValueError(f"column {self.name!r}: codes = {self.codes} with likelihood {self.likelihood!r}")
        if self.rates and len(self.rates) != self.codes:
            raise ValueError(f"column {self.name!r}: {len(self.rates)} rates for {self.codes} codes")
        if self.means and len(self.means) not in (1, self.width):
            raise ValueError(f"column {self.name!r}: {len(self.means)} means for {self.width} features")
        if self.shape and (len(self.shape) != 3 or math.prod(self.shape) != self.width):
            raise ValueError(
                f"column {self.name!r}: shape {self.shape} is not (height, width, channels) of {self.width}"
            )
        if bool(self.group) != (self.likelihood == "joint_mixture"):
            raise ValueError(f"column {self.name!r}: group = {self.group!r} with likelihood {self.likelihood!r}")
        if self.group and self.shape:
            raise ValueError(f"column {self.name!r}: an image cannot be part of a joint_mixture")
        if self.sigma and self.likelihood != "gaussian":
            raise ValueError(f"column {self.name!r}: sigma = {self.sigma:g} with likelihood {self.likelihood!r}")
        if self.dynamic and self.likelihood != "bernoulli":
            raise ValueError(f"column {self.name!r}: dynamic with likelihood {self.likelihood!r}")
        numbers = (self.center, self.low, self.high, *self.means, *self.knots, *self.scores)
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"column {self.name!r}: a setting is not finite")
        self._check_input()

    def _check_input(self) -> None:
        """Raise ValueError for a warp, periods or an embedding that the likelihood cannot honour."""
        kind = f"with likelihood {self.likelihood!r}"
        if self.warp != "none" and (self.likelihood not in WARPED or self.sigma):
            raise ValueError(f"column {self.name!r}: warp = {self.warp!r} {kind}, sigma = {self.sigma:g}")
        rising = all(a < b for line in (self.knots, self.scores) for a, b in pairwise(line))
        if not rising or len(self.knots) != len(self.scores) or (self.warp == "knots") != (len(self.knots) > 1):
            raise ValueError(
                f"column {self.name!r}: {len(self.knots)} knots, {len(self.scores)} scores with warp = {self.warp!r}: "
                "as many, rising, at least two, with 'knots' only"
            )
        if self.periods and (self.likelihood not in REALS or self.likelihood == "log_normal" or self.warp != "none"):
            raise ValueError(f"column {self.name!r}: periods {kind}, warp = {self.warp!r}")
        if self.periods and self.shape:
            raise ValueError(f"column {self.name!r}: periods with a shape: an image has none")
        if self.embedding and self.likelihood != "categorical":
            raise ValueError(f"column {self.name!r}: embedding = {self.embedding} {kind}")


@dataclass(frozen=True, kw_only=True)
class Network:
    """Encoder, prior and decoder. The decoder mirrors the encoder."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    latent: Annotated[int, Bounds(ge=1, le=4096)] = 8
    """Number of latent dimensions d; an autoencoder with fewer than the data has is called undercomplete."""
    encoder: Literal["stochastic", "deterministic"] = "stochastic"
    """stochastic: q(z | x) is a Gaussian, a VAE; deterministic: z = f(x), the classical autoencoder."""
    body: Literal["mlp", "residual", "convolution"] = "mlp"
    """Plain layers; residual blocks with layer normalisation; convolutions over the columns that have a shape."""
    hidden: tuple[Positive, ...] = (128, 128)
    """Widths of the encoder's hidden layers, input side first."""
    channels: tuple[Positive, ...] = (32, 64)
    """Channels of the convolutions, each of which halves height and width. Convolution only."""
    activation: Literal["silu", "relu", "gelu", "tanh"] = "silu"
    """Nonlinearity between layers."""
    prior: Literal["normal", "mixture", "vamp"] = "normal"
    """p(z): N(0, I); a mixture of Gaussians fitted to the codes after training; a VampPrior, trained with the rest."""
    prior_components: Positive = 50
    """Components of a mixture or VampPrior."""

    def __post_init__(self) -> None:
        check(self)
        if self.body == "convolution" and not self.channels:
            raise ValueError("body = 'convolution' needs channels")
        if self.encoder == "deterministic" and self.prior == "vamp":
            raise ValueError("prior = 'vamp' needs a stochastic encoder; fit a 'mixture' instead")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything needed to build a model again: its columns, in the order of its features, and its networks."""

    columns: tuple[Column, ...]
    network: Network

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("a model needs at least one column")
        if self.network.body == "convolution" and not any(column.shape for column in self.columns):
            raise ValueError("body = 'convolution': no column has a shape (height, width, channels)")
        runs = [group for group, _ in groupby((column.group, column.components) for column in self.columns) if group[0]]
        if len(runs) != len({group for group, _ in runs}):
            raise ValueError("columns of one joint_mixture group must be neighbours with the same components")

    @property
    def features(self) -> int:
        """Width of the values tensor: the sum of the columns' widths."""
        return sum(column.width for column in self.columns)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What training maximises; each setting works with every other, or is refused by name."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    bound: Literal["elbo", "iwae"] = "elbo"
    """Lower bound on log p(x): the ELBO, or the tighter importance-weighted bound of Burda et al. 2016."""
    draws: Positive = 1
    """Posterior draws k per row: averaged by the ELBO, weighted by the IWAE."""
    gradient: Literal["dreg", "reparameterised"] = "dreg"
    """Gradient of the IWAE: doubly reparameterised (Tucker et al. 2019), or plain. IWAE only."""
    beta: Annotated[float, Bounds(ge=0)] = 1.0
    """Weight of the KL term (Higgins et al. 2017); 1 is the bound."""
    annealing: Literal["none", "linear", "cyclical"] = "none"
    """How beta rises from 0: once, or again and again (Fu et al. 2019; half of each cycle rising)."""
    annealing_epochs: Annotated[float, Bounds(ge=0)] = 0.0
    """Epochs of the rise, or of one cycle."""
    free_bits: Annotated[float, Bounds(ge=0)] = 0.0
    """Nats per row and latent dimension below which the KL is not pressed (Kingma et al. 2016, here per row)."""
    noise: Literal["none", "gaussian", "masking", "salt_and_pepper"] = "none"
    """Corruption of the encoder's input; the clean row is the target: a denoising autoencoder (Vincent et al. 2010)."""
    noise_level: Annotated[float, Bounds(ge=0)] = 0.0
    """Standard deviation in standardised units (gaussian; reals only), or the probability that a cell is corrupted."""
    sparsity: Literal["none", "l1", "kl"] = "none"
    """Penalty on the code: sum of |z_j|, or KL(target || mean over the batch of sigmoid(z_j)) (Ng 2011)."""
    sparsity_weight: Annotated[float, Bounds(ge=0)] = 0.0
    """Nats per unit of the sparsity penalty."""
    sparsity_target: Annotated[float, Bounds(gt=0, lt=1)] = 0.05
    """Wanted mean activation. Sparsity `kl` only."""
    contraction: Annotated[float, Bounds(ge=0)] = 0.0
    """Weight of the squared Frobenius norm of d mean / d input (Rifai et al. 2011)."""

    def __post_init__(self) -> None:
        check(self)
        if self.bound == "iwae" and (self.beta != 1 or self.annealing != "none" or self.free_bits):
            raise ValueError(
                "bound = 'iwae' takes neither beta, annealing nor free_bits: its weights need the whole KL"
            )
        if self.bound == "elbo" and self.gradient != "dreg":
            raise ValueError(f"gradient = {self.gradient!r} with bound = 'elbo', which has but one")
        for choice, amount in (
            ("noise", "noise_level"),
            ("sparsity", "sparsity_weight"),
            ("annealing", "annealing_epochs"),
        ):
            if (getattr(self, choice) != "none") != (getattr(self, amount) > 0):
                raise ValueError(f"{choice} = {getattr(self, choice)!r} with {amount} = {getattr(self, amount):g}")
        if self.noise in ("masking", "salt_and_pepper") and self.noise_level > 1:
            raise ValueError(f"noise_level = {self.noise_level:g}: a probability is at most 1")

    def suit(self, network: Network) -> None:
        """Raise ValueError if a setting would have no effect, or no meaning, with this network."""
        if self.free_bits and network.prior == "vamp":
            raise ValueError("free_bits need a KL per dimension, which prior = 'vamp' has not")
        if network.encoder == "stochastic":
            return
        for name in ("bound", "draws", "beta", "annealing", "free_bits"):
            default = type(self).__dataclass_fields__[name].default
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r} with encoder = 'deterministic', which has no KL term"
                )

    def score(self, network: Network) -> str:
        """What chooses the best epoch on the validation rows: a bound, or the fit where there is none."""
        if network.encoder == "deterministic":
            return "log p(x|z)"
        return f"IWAE-{self.draws}" if self.bound == "iwae" else "ELBO"

    def beta_at(self, epochs: float) -> float:
        """Weight of the KL after so many epochs.

        >>> Objective(annealing="cyclical", annealing_epochs=10.0).beta_at(12.5)
        0.5
        """
        if self.annealing == "none":
            return self.beta
        if self.annealing == "linear":
            return self.beta * min(1.0, epochs / self.annealing_epochs)
        return self.beta * min(1.0, 2 * (epochs % self.annealing_epochs) / self.annealing_epochs)
