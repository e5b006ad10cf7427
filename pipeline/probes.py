"""Are the codes of use, and are the samples real? Small supervised models of scikit-learn as measuring instruments."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CLASSES: Final = 100
"""A label of numbers with more distinct ones is regressed."""
FOLDS: Final = 5
FEWEST: Final = 50
"""Rows below which two samples cannot be told apart whatever they are."""
Matrix = npt.NDArray[Any]


def probe(train: tuple[Matrix, Matrix], test: tuple[Matrix, Matrix], *, neighbours: int) -> tuple[float, float]:
    """How well a label follows from the codes: by a linear model, and by the nearest neighbours.

    Both are fitted on codes of training rows; accuracy, or R^2 of a numeric label, on test rows.
    """
    regress = regressed(train[1])
    linear = Ridge() if regress else LogisticRegression(max_iter=2000)
    nearest = (KNeighborsRegressor if regress else KNeighborsClassifier)(n_neighbors=min(neighbours, len(train[1])))
    models = [make_pipeline(StandardScaler(), linear), nearest]
    scores = [float(model.fit(*train).score(*test)) for model in models]
    return scores[0], scores[1]


def regressed(labels: Matrix) -> bool:
    """Whether a label is a quantity: numbers that are not whole, or too many to be classes."""
    return bool(labels.dtype.kind == "f" and ((labels != np.floor(labels)).any() or len(np.unique(labels)) > CLASSES))


def two_sample(real: Matrix, sampled: Matrix, *, categorical: list[bool], seed: int) -> float | None:
    """Classifier two-sample test (Lopez-Paz and Oquab 2017): 0.5 if samples cannot be told from data, 1 if always.

    Cross-validated accuracy of gradient-boosted trees over `[row, feature]`, as many sampled rows as real ones, without
    the features that are seldom observed. None for fewer than FEWEST rows, or where nothing is observed.
    """
    told_by = (~np.isnan(real)).sum(0) >= 2 * FOLDS
    if len(real) < FEWEST or not told_by.any():
        return None
    rows = np.concatenate([real, sampled])[:, told_by]
    told = np.repeat([0, 1], [len(real), len(sampled)])
    order = np.random.default_rng(seed).permutation(len(rows))
    kinds = _few(rows, [code for code, used in zip(categorical, told_by, strict=True) if used])
    trees = HistGradientBoostingClassifier(categorical_features=kinds, random_state=seed)
    return float(cross_val_score(trees, rows[order], told[order], cv=FOLDS, error_score="raise").mean())


def _few(rows: Matrix, categorical: list[bool]) -> list[bool]:
    """The categorical features that the trees can split as such: those with less than 256 codes."""
    highest = np.nanmax(rows, axis=0)
    return [code and top < 255 for code, top in zip(categorical, highest, strict=True)]
