"""Finite cells in, finite numbers out: whatever the columns, networks, objective, masks and sizes of the numbers."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, get_args

import pytest
import torch
from family import MEMBERS, NETWORKS, build, frozen, network
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from vae.config import CATEGORIES, COUNTS, LEVELS, Column, LikelihoodName, ModelConfig
from vae.explore import impute
from vae.fit import Loss, fit_prior, optimizer, step

KINDS: list[str] = [name for names in get_args(LikelihoodName) for name in (get_args(names) or (names,))]
HUGE = float(torch.finfo(torch.float32).max)
many = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


class Case(NamedTuple):
    """A table, a network and an objective."""

    columns: list[dict[str, Any]]
    """Settings of the columns."""
    cells: list[list[float]]
    member: str
    network: dict[str, Any]
    shake: float
    seed: int
    blank: float
    """Share of the cells that are missing, whatever the columns say of themselves."""

    def config(self) -> ModelConfig:
        """The model's settings."""
        columns = tuple(Column(**column) for column in self.columns)
        return ModelConfig(columns=columns, network=network(**self.network))

    def rows(self) -> tuple[Tensor, Tensor]:
        """Values, float32, NaN where a cell is missing; and observed."""
        values = torch.tensor(self.cells, dtype=torch.float32)
        observed = torch.rand(values.shape, generator=Generator().manual_seed(self.seed)) >= self.blank
        return torch.where(observed, values, math.nan), observed


def cell(column: dict[str, Any]) -> st.SearchStrategy[float]:
    """Any value that a column may hold."""
    if column.get("dynamic"):
        return st.floats(0, 1, width=32)
    if column["likelihood"] in (*LEVELS, *CATEGORIES):
        return st.integers(0, column.get("codes", 2) - 1).map(float)
    if column["likelihood"] in COUNTS:
        return st.integers(0, 10**15).map(float) | st.integers(0, 9).map(float)
    extremes = st.sampled_from([0.0, HUGE, -HUGE, 1e30, -1e19, 1e6, -1e-30, 1e-45])
    return extremes | st.floats(-HUGE, HUGE, width=32) | st.floats(-3, 3, width=32)


@st.composite
def column(draw: st.DrawFn, name: str, *, image: bool) -> dict[str, Any]:
    """Settings of a column of any kind; of an image, any that an image may be."""
    kind: Any = draw(st.sampled_from([kind for kind in KINDS if not (image and kind == "joint_mixture")]))
    shape = tuple(draw(st.integers(1, 3)) for _ in range(3)) if image else ()
    more: dict[str, Any] = {"width": math.prod(shape) if image else draw(st.integers(1, 3)), "shape": shape}
    if kind in ("categorical", "ordinal", *LEVELS):
        more["codes"] = draw(st.integers(2, 6) | st.just(256))
    if "mixture" in kind:
        more["components"] = draw(st.integers(1, 3))
    if kind == "joint_mixture":
        more["group"] = name
    if kind == "bernoulli":
        more["dynamic"] = draw(st.booleans())
    if kind == "gaussian":
        more["sigma"] = draw(st.sampled_from([0.0, 0.1]))
    if kind not in (*COUNTS, *LEVELS, *CATEGORIES):
        more["scale"] = draw(st.sampled_from([1.0, 1e-3, 1e6]))
        more["floor"] = draw(st.sampled_from([1e-2, 1e-4, 1.0]))
    return {"name": name, "likelihood": kind, "nullable": draw(st.booleans()), **more}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any mix of columns, one to five rows, some or all cells missing, any network, any member of the family."""
    member = draw(st.sampled_from(list(MEMBERS)))
    chosen = {**NETWORKS[draw(st.sampled_from(list(NETWORKS)))], **MEMBERS[member][0]}
    if chosen["prior"] == "vamp" and ("free" in member or chosen["encoder"] == "deterministic"):
        chosen["prior"] = "mixture"
    if chosen["encoder"] == "deterministic" and MEMBERS[member][0].get("encoder") != "deterministic":
        chosen["encoder"] = "stochastic"
    chosen["activation"] = draw(st.sampled_from(["silu", "relu", "gelu", "tanh"]))
    image = chosen["body"] == "convolution"
    columns = [draw(column(f"x{index}", image=False)) for index in range(draw(st.integers(0 if image else 1, 4)))]
    columns += [draw(column("image", image=True))] if image else []
    if member == "denoising-gaussian":
        columns += [{"name": "real", "likelihood": "gaussian", "width": 1}]
    row = [cell(each) for each in columns for _ in range(each["width"])]
    count = draw(st.integers(1, 5))
    cells = [[draw(each) for each in row] for _ in range(count)]
    shake, seed = draw(st.sampled_from([0.0, 0.3, 3.0])), draw(st.integers(0, 99))
    return Case(columns, cells, member, chosen, shake, seed, draw(st.sampled_from([0.0, 0.3, 1.0])))


def learns(case: Case) -> None:
    """Two steps, in which loss, gradients and weights must stay finite."""
    model = build(case.config(), seed=case.seed, shake=case.shake, dtype=torch.float32)
    objective = MEMBERS[case.member][1]
    of, (values, observed) = Loss(model, objective), case.rows()
    noise = frozen(model, objective, len(values), seed=case.seed)
    adam = optimizer(of.parameters(), learning_rate=1e-2)
    for _ in range(2):
        total = step(of, adam, values, observed, noise, share=1 / len(values), beta=objective.beta)
        assert total.isfinite()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
            assert parameter.isfinite().all(), name


def test_the_check_of_finiteness_can_fail() -> None:
    """Meta: a NaN in a cell that counts as observed is found."""
    case = Case([{"name": "x", "likelihood": "gaussian"}], [[math.nan], [1.0]], "vae", {}, 0.3, 1, 0.0)
    with pytest.raises(AssertionError):
        learns(case)


@many
@given(case=cases())
def test_loss_and_gradients_are_finite(case: Case) -> None:
    """Loss and every gradient: not one NaN, not one infinity; nor after a step along them."""
    learns(case)


@many
@given(case=cases())
def test_what_a_model_is_asked_is_finite(case: Case) -> None:
    """Codes, KL, reconstructions, samples, imputations, the fitted prior's density: not one NaN, not one infinity."""
    model = build(case.config(), seed=case.seed, shake=case.shake, dtype=torch.float32)
    values, observed = case.rows()
    q = model.encode(values, observed)
    if model.config.network.prior == "mixture":
        fit_prior(model, values, observed, seed=case.seed)
    generator = Generator().manual_seed(case.seed)
    found = {
        "mean": q.mean,
        "kl": q.kl(),
        "fit": model.log_likelihood(values, observed, q.mean[:, None]),
        "prior": model.prior().log_prob(q.mean),
        "reconstruction": model.reconstruct(q.mean),
        "mode": model.columns.mode(model.decode(q.mean)),
        "imputation": impute(model, values, observed, draws=1, candidates=3, generator=generator).draws,
    }
    if model.stochastic or not model.standard:
        found["sample"] = model.sample(3, generator=generator)
    assert [name for name, tensor in found.items() if not tensor.isfinite().all()] == []


@pytest.mark.parametrize("member", ["undercomplete", "denoising-gaussian", "denoising-salt", "vae", "vamp", "iwae"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_at_its_ends(kind: Any, member: str) -> None:
    """Each likelihood at its two ends and in between, beside a real for Gaussian noise."""
    coded = kind in ("categorical", "ordinal", *LEVELS)
    more: dict[str, Any] = {"codes": 256} if coded else {"group": "g"} if kind == "joint_mixture" else {}
    ends = (
        (0.0, 255.0)
        if coded
        else (0.0, 1e15)
        if kind in COUNTS
        else (0.0, 1.0)
        if kind == "bernoulli"
        else (-HUGE, HUGE)
    )
    columns: list[dict[str, Any]] = [{"name": "x", "likelihood": kind, "nullable": True, "width": 2, **more}]
    columns += [{"name": "y", "likelihood": "gaussian"}]
    cells = [[*ends, 0.0], [ends[1], ends[1], HUGE], [ends[0], 0.0, -HUGE], [0.0, 1.0, 0.5]]
    learns(Case(columns, cells, member, MEMBERS[member][0], 0.3, 1, 0.2))
