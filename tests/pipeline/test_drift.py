"""Drift, on real rows: what did not move is left in peace, what moved is named, and who counts does not matter."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from harness import ROOT

from pipeline import agree, drift, ingest, latents, reference, runfile, watch
from pipeline.drift import Drift, HeldOut, Signal
from pipeline.features import Features, fitting
from pipeline.snapshots import Snapshot
from pipeline.watch import Watch
from vae import VAE, ModelConfig

TRAINED, OTHERS = slice(0, 12_000), slice(12_000, None)


@dataclass(frozen=True)
class People:
    """UCI Adult, shuffled, as an untrained model sees it; the first rows count as those it was trained on."""

    features: Features
    model: VAE
    values: Any
    observed: Any
    directory: Path

    def elbo(self, values: Any, observed: Any) -> Any:
        """Of every row, up to what all rows share: the model's real columns by their distance from the middle."""
        return -(np.where(observed, values.clip(-5, 5), 0) ** 2).sum(1).astype(np.float64)

    def mu(self, values: Any, observed: Any) -> Any:
        """Codes."""
        with torch.no_grad():
            return self.model.encode(torch.from_numpy(values), torch.from_numpy(observed)).mean.numpy()

    def watched(self, values: Any, observed: Any, elbo: Any = None) -> Watch:
        """All of these rows."""
        found = Watch.load(self.directory, rows=len(values))
        ids = pa.chunked_array([pa.array(np.arange(len(values)))])
        bound = self.elbo(values, observed) if elbo is None else elbo
        found.add(ids, values, observed, self.mu(values, observed), bound)
        return found

    def others(self, rows: int, *, seed: int = 0) -> tuple[Any, Any]:
        """Rows that were not trained on."""
        kept = np.random.default_rng(seed).permutation(len(self.values[OTHERS]))[:rows]
        return self.values[OTHERS][kept].copy(), self.observed[OTHERS][kept].copy()

    def judged(self, values: Any, observed: Any, **settings: Any) -> Drift:
        """The judgement on them."""
        elbo = settings.pop("elbo", None)
        return drift.judge(self.watched(values, observed, elbo), self.directory, **settings)

    def place(self, name: str) -> int:
        """Of a column's value."""
        widths = [it.width for it in self.features.layout]
        return sum(widths[: [it.name for it in self.features.layout].index(name)])


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> People:
    """Read, fitted and measured once."""
    folder = tmp_path_factory.mktemp("people")
    settings = (f"workspace={folder}", f"data.uri={shared_data / 'adult-train.csv'}")
    config = agree.agree(runfile.load(ROOT / "deploy/runs/adult.toml", overrides=settings))
    table = latents.open_file(*Snapshot(Path(ingest.ingest(config).snapshot)).files).to_table()
    table = table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
    features = fitting.fit(table[TRAINED].to_batches(), config.role("feature"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(ModelConfig(columns=features.model_columns(), network=config.model)).eval()
    values, observed = features.transform(table)
    found = People(features, model, values, observed, folder)
    train = torch.from_numpy(values[TRAINED]), torch.from_numpy(observed[TRAINED])

    def take(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return train[0][numbers], train[1][numbers]

    measured = reference.measure(model, features, take, rows=len(train[0]))
    bound = found.elbo(values[TRAINED], observed[TRAINED])
    measured = type(measured)(**{**vars(measured), "elbo": np.quantile(bound, np.linspace(0, 1, 1001))})
    measured.save(folder)
    features.save(folder)
    watch.save_expected(features, measured, take, rows=len(train[0]), model=folder)
    return found


def moved(found: Drift) -> set[tuple[str, str]]:
    """Names and kinds of what moved."""
    return {(it.name, it.what) for it in found.signals if it.moved}


@pytest.mark.parametrize("rows", [40, 1_000, 20_000])
def test_other_rows_of_the_same_people_have_not_moved(people: People, rows: int) -> None:
    """Samples of every size from where the training rows are from; and not for want of looking: 30 signals."""
    found = [people.judged(*people.others(rows, seed=seed), least=0.0) for seed in range(2)]
    assert [it.verdict for it in found] == ["nothing", "nothing"]
    assert {len(it.signals) for it in found} == {30}
    assert found[0].rows == rows


def test_false_alarms_are_as_many_as_were_allowed(people: People) -> None:
    """With half of the encodes allowed a false alarm, about half have one: the threshold follows."""
    alarms = [
        people.judged(*people.others(1_000, seed=seed), least=0.0, false_alarms=0.5).verdict != "nothing"
        for seed in range(8)
    ]
    assert 1 <= sum(alarms) <= 7


def test_a_column_that_moved_is_named(people: People) -> None:
    """Everybody is half a scale older: `age`, and the codes with it; nothing else."""
    values, observed = people.others(3_000)
    values[:, people.place("age")] += 0.5
    found = people.judged(values, observed)
    assert found.verdict in ("data", "data and model")
    assert ("age", "distance") in moved(found)
    assert {name for name, _ in moved(found)} <= {"age", "mu", "elbo"}


def test_a_category_never_seen_and_cells_gone_missing_are_told_apart(people: People) -> None:
    """One row in ten of an unknown country; one in ten without an occupation."""
    values, observed = people.others(3_000)
    values[::10, people.place("country")] = 0
    observed[1::10, people.place("occupation")] = False
    found = moved(people.judged(values, observed))
    assert {("country", "unseen"), ("occupation", "missing")} <= found
    assert not {("country", "missing"), ("occupation", "unseen")} & found


def test_columns_that_no_longer_go_together_show_in_the_codes(people: People) -> None:
    """Each column as it was, but for itself: every marginal stands, the codes are others."""
    values, observed = people.others(20_000)
    for column in range(values.shape[1]):
        order = np.random.default_rng(column).permutation(len(values))
        values[:, column], observed[:, column] = values[order, column], observed[order, column]
    found = people.judged(values, observed, least=0.0)
    assert {it.of for it in found.signals if it.moved} - {"fit"} == {"codes"}
    assert found.verdict.startswith("data")


def test_a_worse_fit_of_the_same_data_is_the_models(people: People) -> None:
    """The ELBO falls where no input and no code moved; it may rise, and may fall by what unseen rows cost anyway."""
    values, observed = people.others(5_000)
    usual = people.elbo(values, observed)
    fallen = people.judged(values, observed, elbo=usual - 2)
    assert (fallen.verdict, moved(fallen)) == ("model", {("elbo", "fall")})
    assert people.judged(values, observed, elbo=usual + 2).verdict == "nothing"
    held_out = HeldOut(float(people.elbo(*people.others(20_000)).mean()) - 2, 5_000)
    assert people.judged(values, observed, elbo=usual - 2, held_out=held_out).verdict == "nothing"


def test_a_move_too_small_to_matter_is_none(people: People) -> None:
    """Among many rows chance excuses little; `least` says what matters."""
    values, observed = people.others(20_000)
    values[:, people.place("age")] += 0.1
    assert ("age", "distance") in moved(people.judged(values, observed, least=0.0))
    assert people.judged(values, observed, least=0.3).verdict == "nothing"


def test_counts_add_up_however_the_rows_are_cut(people: People) -> None:
    """Units of any size, in any order, through JSON: the same counts and the same judgement."""
    values, observed = people.others(1_000)
    whole = people.watched(values, observed)
    cut = [people.watched(values[at], observed[at]).facts() for at in (slice(700, None), slice(0, 1), slice(1, 700))]
    merged = Watch.load(people.directory, rows=1_000).merged(json.loads(json.dumps(cut)))
    assert merged.facts() == whole.facts()
    assert drift.judge(merged, people.directory) == drift.judge(whole, people.directory)


@pytest.mark.parametrize("kind", [pa.int64(), pa.string(), pa.binary()])
def test_of_many_rows_a_share_is_watched_chosen_by_their_ids(people: People, kind: pa.DataType) -> None:
    """The same rows whatever their order and batches, about as many as asked for."""
    values, observed = people.others(20_000)
    mu, ids = people.mu(values, observed), pa.array(np.arange(20_000)).cast(pa.string()).cast(kind)
    order = np.random.default_rng(1).permutation(20_000)
    found = []
    for rows in (np.arange(20_000), order):
        watch = Watch.load(people.directory, rows=watched_of(0.1))
        for part in np.array_split(rows, 7):
            watch.add(pa.chunked_array([ids.take(pa.array(part))]), values[part], observed[part], mu[part])
        found.append(watch)
    assert found[0].facts() == found[1].facts()
    assert found[0].rows == pytest.approx(2_000, abs=200)


def watched_of(share: float) -> int:
    """So many rows that this share of them is watched."""
    return round(watch.WATCHED / share)


def test_nothing_watched_is_nothing_moved(people: People) -> None:
    """No rows, no signals; and it is told so."""
    found = drift.judge(Watch.load(people.directory, rows=10), people.directory)
    assert (found.verdict, found.rows, found.signals) == ("nothing", 0, ())
    assert drift.told(found.facts()) == "nothing moved; 0 signals of 0 rows, 1.0% false alarms"
    assert drift.told(None) == "not watched"


def test_a_column_that_cannot_move_has_a_rank(people: People) -> None:
    """A constant's threshold is 0 where `least` is."""
    values, observed = people.others(3_000)
    found = people.judged(values, observed, least=0.0)
    still = Signal(of="inputs", name="constant", what="distance", value=0.0, chance=0.0, threshold=0.0)
    signals = replace(found, signals=(still, *found.signals)).facts()["signals"]
    assert len(signals) == len(found.signals) + 1
    assert not any(it["moved"] for it in signals[[it["name"] for it in signals].index("constant") :])


def test_a_judgement_is_told_in_a_line(people: People) -> None:
    """What moved, the farthest first, at most five by name."""
    values, observed = people.others(3_000)
    observed[:, people.place("occupation")] = False
    values += np.float32(0.7) * (np.arange(values.shape[1]) == people.place("hours"))
    line = drift.told(people.judged(values, observed).facts())
    assert line.startswith("the data moved")
    assert "occupation (missing)" in line
    assert "hours (distance)" in line
