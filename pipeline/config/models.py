"""How models are trained, compared and tuned: [train], [compare] and [tune]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

from vae.config import FORBID_EXTRA, Bounds, Count, Positive, check

MemberName = Literal[
    "marginals",
    "gaussian",
    "ppca",
    "mixture",
    "pca",
    "undercomplete",
    "sparse",
    "contractive",
    "denoising",
    "vae",
    "beta_vae",
    "iwae",
]


@dataclass(frozen=True, kw_only=True)
class Train:
    """How the model is trained."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    epochs: Positive = 50
    """Passes over the training rows, at most."""
    patience: Positive = 10
    """Stop after this many epochs without a better validation bound."""
    batch_rows: Positive = 256
    """Rows per optimisation step over all workers together."""
    learning_rate: Annotated[float, Bounds(gt=0, le=1)] = 1e-3
    """Adam's step size."""
    decay: Literal["none", "cosine", "threefold"] = "none"
    """How it falls with the epochs: not; to 0 by half a cosine; to a tenth over stages, each thrice as long (Burda)."""
    warmup_epochs: Annotated[float, Bounds(ge=0)] = 0.0
    """Epochs, or parts of one, over which the step size rises from 0, in equal steps; `decay` falls with it."""
    epsilon: Annotated[float, Bounds(gt=0, le=1)] = 1e-8
    """Adam's epsilon."""
    clip_norm: Annotated[float, Bounds(ge=0)] = 0.0
    """Longest gradient; a longer one is shortened to it. 0: as long as it is."""
    ema: Annotated[float, Bounds(ge=0, lt=1)] = 0.0
    """Share that an exponential moving average of the weights keeps in each step, such as 0.999. The average is what is
    judged, and registered. 0: the weights themselves."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of the networks' matrix products; likelihoods and weights are float32 in any case."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether the loss is compiled; auto: if the training is so long that it saves more time than it takes."""
    importance_samples: Count = 100
    """Samples per row for -log p(x) of the test rows, in the final evaluation; 0: leave it out."""
    seed: Count = 0
    """Of the initial weights, the order of rows and the posterior noise."""
    num_workers: int | tuple[int, int] = 2
    """Ray Train workers, or the fewest and the most of them: `[1, 4]` goes on with the nodes there are. Gradients equal
    those of one worker on the same batch."""
    cpus_per_worker: Positive = 1
    """CPUs, and so threads, of each worker."""
    use_gpu: bool = False
    """One GPU per worker."""
    checkpoint_s: Annotated[float, Bounds(ge=0)] = 30.0
    """Seconds between two checkpoints, and so what an interruption costs at most; 0: as often as possible."""
    max_restarts: Count = 3
    """How often lost workers are replaced before the run fails."""
    memory_mb: Positive = 4096
    """Most memory the training rows may take in one worker; more rows are read from files as they are needed."""

    def __post_init__(self) -> None:
        check(self)
        if not 1 <= self.workers[0] <= self.workers[1]:
            raise ValueError(f"num_workers = {self.num_workers}: a number from 1, or the fewest and the most: [1, 4]")
        if self.precision == "bf16" and not self.use_gpu:
            raise ValueError("precision = 'bf16' is for GPUs: set use_gpu = true, or leave it float32")

    @property
    def workers(self) -> tuple[int, int]:
        """The fewest workers to go on with, and the most."""
        return (self.num_workers, self.num_workers) if isinstance(self.num_workers, int) else self.num_workers


@dataclass(frozen=True, kw_only=True)
class Compare:
    """What `latentpipe compare` compares, and by which label. The members bring their own [objective]."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    family: tuple[MemberName, ...] = get_args(MemberName)
    """Exact likelihoods of the ladder, PCA, and autoencoders, in the order of the table."""
    label: str = ""
    """Passthrough column that codes are probed for; the codes must not have seen it. Empty: no probe."""
    neighbours: Positive = 5
    """Of the nearest-neighbour probe."""
    classes: Positive = 10
    """Components of the mixture."""

    def __post_init__(self) -> None:
        check(self)
        if not self.family or len(set(self.family)) < len(self.family):
            raise ValueError(f"family = {list(self.family)!r}: name at least one member, and each once")


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers between two, log-uniform."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    low: Annotated[float, Bounds(gt=0, le=1)]
    """Smallest."""
    high: Annotated[float, Bounds(gt=0, le=1)]
    """Largest."""

    def __post_init__(self) -> None:
        check(self)
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g}, high = {self.high:g}: low must be below high")


@dataclass(frozen=True, kw_only=True)
class Tune:
    """What `latentpipe tune` tries. What is not listed stays as the run has it; if nothing is listed, latent, width,
    depth, learning_rate and batch_rows are tried around the run's own.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    trials: Positive = 16
    """Trainings to begin, at most; the first is the run's own settings, and runs to its end."""
    epochs: Positive = 50
    """Of a trial, at most; train.patience holds besides."""
    grace: Positive = 5
    """Epochs before a trial may be stopped for being behind; looked at again at each `reduction`-fold of them."""
    reduction: Annotated[int, Bounds(ge=2)] = 3
    """Of so many trials that come so far, one goes on (ASHA, Li et al. 2020)."""
    at_once: Count = 0
    """Trials at a time; 0: as many as the machine's cores, or the cluster's CPUs and GPUs, hold."""
    seed: Count = 0
    """Of the draws."""
    latent: tuple[Annotated[int, Bounds(ge=1, le=4096)], ...] = ()
    """Numbers of latent dimensions to try."""
    width: tuple[Positive, ...] = ()
    """Widths of the hidden layers; each trial's layers are equally wide."""
    depth: tuple[Positive, ...] = ()
    """Numbers of hidden layers."""
    learning_rate: Range | None = None
    """Such as { low = 1e-4, high = 1e-2 }."""
    beta: tuple[Annotated[float, Bounds(ge=0)], ...] = ()
    """Weights of the KL term in training; the bound that trials are judged by is that of beta = 1."""
    batch_rows: tuple[Positive, ...] = ()
    """Rows per optimisation step."""

    def __post_init__(self) -> None:
        check(self)
        if self.grace > self.epochs:
            raise ValueError(f"grace = {self.grace}: a trial has but epochs = {self.epochs}")
        for name in ("latent", "width", "depth", "beta", "batch_rows"):
            if len(set(listed := getattr(self, name))) < len(listed):
                raise ValueError(f"{name} = {list(listed)}: a value is listed twice")
