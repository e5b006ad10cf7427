"""Codes and levels: many categories, declared ones, unknown ones, and 8-bit pixels, as the encoder sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from rows import batch, cells, column, feature

from pipeline import linear
from pipeline.errors import DataError
from pipeline.features import fitting
from pipeline.features.transforms import ONE_HOT
from vae.config import LEVELS, LikelihoodName, ModelConfig, Network
from vae.likelihoods import Columns
from vae.model import VAE


def test_many_categories_are_embedded() -> None:
    """Beyond 64 codes the encoder is shown a learned vector, of fastai's width up to 50; few stay one-hot."""
    widths = {}
    for many in (2, ONE_HOT - 1, ONE_HOT, 200, 5000):
        names = pa.array([f"c{number}" for number in range(many)])
        widths[many] = feature(names, "string", "categorical").column().embedding
    assert widths == {2: 0, 63: 0, 64: 17, 200: 31, 5000: 50}


def test_a_model_of_many_categories_runs() -> None:
    """Embedded and one-hot columns side by side; an unseen category and a missing one are zeros; PCA sees one-hot."""
    many, few = pa.array([f"c{number % 80}" for number in range(400)]), pa.array(["a", "b", None, "b"] * 100)
    found = fitting.fit(
        [batch(many=many, few=few)], {"many": column("string", "categorical"), "few": column("string", "categorical")}
    )
    assert [it.name for it in found.layout] == ["few", "many"]
    model = VAE(ModelConfig(columns=found.model_columns(), network=Network(latent=2, hidden=(4,))))
    values, observed = (torch.from_numpy(it) for it in found.transform(batch(many=many, few=few)))
    shown = model.columns.embed(values, observed)
    assert shown.shape == (400, 3 + 19 + 2)
    model.encode(values, observed).mean.sum().backward()
    (vectors,) = (it for name, it in model.named_parameters() if "vectors" in name)
    assert vectors.grad is not None
    assert vectors.grad[1:].any()
    later = found.transform(batch(many=pa.array(["new", None]), few=pa.array(["a", "a"])))
    strange = model.columns.embed(*(torch.from_numpy(it) for it in later))[:, 3:-2]
    assert not strange.any()
    assert linear.embedded(found.model_columns(), values, observed).shape == (400, 3 + 81)


def test_declared_categories_are_the_codes() -> None:
    """In their order, seen or not; others are the unknown code, counted in its rate."""
    names = pa.array(["b", "c", "b", "x", "y", None])
    found = feature(names, "string", "categorical", categories=("c", "b", "a"))
    values, observed = found.transform(names)
    assert values.ravel().tolist() == [2, 1, 2, 0, 0, 0]
    assert observed.ravel().tolist() == [True] * 5 + [False]
    assert found.rates == (3 / 9, 2 / 9, 3 / 9, 1 / 9)
    two = feature(pa.array(["n", "maybe", "y", "y", None]), "string", "bernoulli", categories=("n", "y"))
    assert two.means == (2 / 3,)
    assert two.transform(pa.array(["maybe", "y", "n"]))[1].ravel().tolist() == [False, True, True]


PIXELS = [[0, 255, 128, 7], [1, 2, 254, 255], [0, 0, 0, 255], [9, 90, 0, 30]]
LOOKS: dict[str, tuple[LikelihoodName, dict[str, Any]]] = {
    **{name: (name, {"levels": 256}) for name in LEVELS},
    "static": ("bernoulli", {"levels": 256, "binarise": "static"}),
    "dynamic": ("bernoulli", {"levels": 256, "binarise": "dynamic"}),
    "gaussian": ("gaussian", {}),
    "robust": ("gaussian", {"transform": "robust"}),
}


@pytest.mark.parametrize("look", LOOKS)
def test_pixels_are_of_order_one_and_never_wrap(look: str) -> None:
    """The encoder sees 8-bit pixels as numbers about 1 in size; they come back, and what lies beyond is held."""
    likelihood, extra = LOOKS[look]
    array = cells(PIXELS, "uint8[4]")
    found = feature(array, "uint8[4]", likelihood, shape=(2, 2), **extra)
    values, observed = found.transform(array)
    shown = Columns([found.column()]).embed(torch.from_numpy(values), torch.from_numpy(observed))
    assert 0.5 < shown.abs().max() < 3
    restored = found.restore(values).to_pylist()
    assert restored == ([[255 * (it > 127) for it in row] for row in PIXELS] if look == "static" else PIXELS)
    wild = found.restore(np.array([[-1e30, 1e30, -300, 300]], np.float32)).to_pylist()[0]
    assert wild[::2] == [0, 0]
    assert wild[1] == wild[3] == 255


@pytest.mark.parametrize(
    ("kind", "likelihood", "values"),
    [
        ("float64", "log_normal", [1.0, -4321.0]),
        ("float64", "gaussian", [4321e200, -1.0]),
        ("string", "bernoulli", ["4321", "a", "b"]),
    ],
)
def test_a_secret_value_is_not_told(kind: str, likelihood: LikelihoodName, values: list[Any]) -> None:
    """Messages name the column and the rule; the value only where the column is not secret."""
    for secret in (False, True):
        with pytest.raises(DataError) as caught:
            feature(cells(values, kind), kind, likelihood, secret=secret)
        assert ("4321" in str(caught.value).replace(".", "").replace("e+203", "e200")) != secret
        assert ("a secret value" in str(caught.value)) == secret
