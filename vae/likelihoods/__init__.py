"""p(x | z), column by column: one class per distribution, and `Columns`, their product."""

from vae.likelihoods.category import Bernoulli, Categorical, Ordinal
from vae.likelihoods.columns import Columns
from vae.likelihoods.count import NegativeBinomial, Poisson
from vae.likelihoods.level import Binomial, DiscretisedLogistic
from vae.likelihoods.likelihood import LIKELIHOODS, Likelihood
from vae.likelihoods.mixture import JointMixture, Mixture
from vae.likelihoods.real import Gaussian, LogNormal, StudentT

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Binomial",
    "Categorical",
    "Columns",
    "DiscretisedLogistic",
    "Gaussian",
    "JointMixture",
    "Likelihood",
    "LogNormal",
    "Mixture",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "StudentT",
]
