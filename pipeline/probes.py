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
"""A label with more distinct values, all numbers, is regressed."""
FOLDS: Final = 5
Matrix = npt.NDArray[Any]


def probe(train: tuple[Matrix, Matrix], test: tuple[Matrix, Matrix], *, neighbours: int) -> tuple[float, float]:
    """How well a label follows from the codes: by a linear model, and by the nearest neighbours.

    Both are fitted on codes of training rows; accuracy, or R^2 of a numeric label, on test rows.
    """
    regress = train[1].dtype.kind == "f" and len(np.unique(train[1])) > CLASSES
    linear = Ridge() if regress else LogisticRegression(max_iter=2000)
    nearest = (KNeighborsRegressor if regress else KNeighborsClassifier)(n_neighbors=neighbours)
    models = [make_pipeline(StandardScaler(), linear), nearest]
    scores = [float(model.fit(*train).score(*test)) for model in models]
    return scores[0], scores[1]


def two_sample(real: Matrix, sampled: Matrix, *, categorical: list[bool], seed: int) -> float:
    """Classifier two-sample test (Lopez-Paz and Oquab 2017): 0.5 if samples cannot be told from real rows, 1 if always.

    Cross-validated accuracy of gradient-boosted trees over `[row, feature]`, as many sampled rows as real ones.
    """
    rows = np.concatenate([real, sampled])
    told = np.repeat([0, 1], [len(real), len(sampled)])
    order = np.random.default_rng(seed).permutation(len(rows))
    trees = HistGradientBoostingClassifier(categorical_features=_few(rows, categorical), random_state=seed)
    return float(cross_val_score(trees, rows[order], told[order], cv=FOLDS).mean())


def _few(rows: Matrix, categorical: list[bool]) -> list[bool]:
    """The categorical features that the trees can split as such: those with less than 256 codes."""
    highest = np.nanmax(np.where(np.isnan(rows), 0, rows), axis=0)
    return [code and top < 255 for code, top in zip(categorical, highest, strict=True)]
