"""tune: many short trainings with other settings, the worse ones stopped early; the winner's config as a TOML.

Trials are judged by the validation rows alone, and by the same bound whatever they train for. Which settings are tried
is a function of the config; who is stopped early depends on who comes first, so on the machine, unless one trial runs
at a time. What is done is kept: an interrupted tuning goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pipeline import keys, runfile, space, tables, toml
from pipeline.cluster import ray_session
from pipeline.config import RunConfig, Tune
from pipeline.disk import storage_errors
from pipeline.errors import DataError
from pipeline.features import Features
from pipeline.progress import Stage
from pipeline.records import Ingested, Tuned
from pipeline.tracking.runs import TuningRun
from pipeline.train import prepare
from pipeline.training.checkpoints import Metrics, Progress
from pipeline.training.job import Job
from pipeline.trials import Halving, News, search

TABLE: Final = "trials.json"
"""Written last: it makes the tuning done."""
WINNER: Final = "winner.toml"


@dataclass
class Trial:
    """One training of the tuning, and what became of it."""

    number: int
    config: RunConfig
    directory: Path
    history: list[Metrics] = field(default_factory=list)
    state: str = "waiting"
    """At its end `finished`, `stopped` early, or `failed`."""
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to do."""
        return self.state != "waiting"

    @property
    def best(self) -> Metrics | None:
        """The epoch with the highest score."""
        return max(self.history, key=lambda epoch: epoch["score"], default=None)

    def row(self) -> dict[str, Any]:
        """Its line of the table: settings and figures."""
        model, train, best = self.config.model, self.config.train, self.best
        return {
            "trial": self.number,
            "latent": model.latent,
            "hidden": list(model.hidden),
            "learning_rate": train.learning_rate,
            "beta": self.config.objective.beta,
            "batch_rows": train.batch_rows,
            "score": best and best["score"],
            "best_epoch": best and int(best["epoch"]),
            "epochs": len(self.history),
            "seconds": round(sum(epoch["epoch_s"] for epoch in self.history), 3),
            "state": self.state,
            "error": self.error,
        }

    def hear(self, news: News) -> None:
        """Take in an epoch, or the end."""
        if news.epoch is not None:
            del self.history[int(news.epoch["epoch"]) - 1 :]  # retold after an interruption
            self.history.append(news.epoch)
            return
        progress = Progress(epoch=len(self.history), best_epoch=self.row()["best_epoch"] or 0)
        self.state = "failed" if news.error else "finished" if progress.exhausted(self.config.train) else "stopped"
        self.error = news.error
        _write(self.directory / "trial.json", {"state": self.state, "error": self.error, "history": self.history})

    def remember(self) -> None:
        """Take in how it ended in an earlier attempt, if it did."""
        path = self.directory / "trial.json"
        if path.exists():
            for name, value in json.loads(path.read_text()).items():
                setattr(self, name, value)


def tune(config: RunConfig, ingested: Ingested) -> Tuned:
    """Try the settings of [tune] on the snapshot, or return at once if this very tuning is done.

    Raises ConfigError for settings that cannot be tried, DataError if there is nothing to learn from or every trial
    fails, InfrastructureError if there is no room for a trial.
    """
    with Stage("tune") as stage:
        key = keys.tuning(config, ingested.content)
        directory = config.root / "tuning" / key[:16]
        if new := not (directory / TABLE).exists():
            _tune(config, ingested, directory, key, stage)
        else:
            stage.update(f"unchanged, the tuning {key[:16]} stands")
        facts = json.loads((directory / TABLE).read_text())
        with storage_errors(directory):
            (directory / WINNER).write_text(_toml(config, facts), encoding="utf-8")
        return Tuned(
            **{**facts, "trials": tuple(facts["trials"])},
            key=key,
            table=str(directory / TABLE),
            winner=str(directory / WINNER),
            new=new,
        )


def lines(tuned: Tuned) -> list[str]:
    """For a person: the table, and who won."""
    rows = [{**row, "hidden": "-".join(map(str, row["hidden"])), **_short(row)} for row in tuned.trials]
    return [
        *tables.lines(rows),
        _verdict(tuned.best, tuned.score, tuned.gain, tuned.judged_by),
        f"table   {tuned.table}",
        f"next    latentpipe run {tuned.winner}",
    ]


def _short(row: Mapping[str, Any]) -> dict[str, str]:
    """What the table's three decimals would not show, or show too well."""
    seconds = f"{row['seconds']:.1f}"
    return {"learning_rate": f"{row['learning_rate']:g}", "beta": f"{row['beta']:g}", "seconds": seconds}


def _verdict(best: int, score: float, gain: float | None, judged_by: str) -> str:
    won = f"trial {best} is best: {judged_by} {score:.3f} nats per validation row"
    if best == 0:
        return f"{won}; nothing beats the settings as they are"
    return won if gain is None else f"{won}, {gain:.3f} better than the settings as they are"


def _tune(config: RunConfig, ingested: Ingested, directory: Path, key: str, stage: Stage) -> None:
    """Run the trials that are not done; write the table."""
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    varied = space.trials(config)
    job = prepare(config, ingested, directory)
    trials = [_trial(number, it, directory) for number, it in enumerate(varied)]
    jobs = {it.number: _job(job, it) for it in trials if not it.ended}
    with TuningRun.open(config, key=key) as run:
        if jobs:
            cpus = config.train.cpus_per_worker
            with ray_session(config.cluster, cpus=cpus, log=config.ray_log):
                _search(config, trials, jobs, run, stage, scratch=directory / "ray")
        facts = _facts(config, trials)
        (directory / WINNER).write_text(_toml(config, facts), encoding="utf-8")
        _write(directory / TABLE, {**facts, "mlflow_run": run.id})
        figures = {"best_trial": float(facts["best"]), "best_score": facts["score"], "gain": facts["gain"]}
        run.finish({name: value for name, value in figures.items() if value is not None}, directory)
    for scratch in ("ray", "trials"):
        shutil.rmtree(directory / scratch, ignore_errors=True)


def _trial(number: int, config: RunConfig, directory: Path) -> Trial:
    """A trial of these settings, as it was left; named by them, so that it goes on with its own checkpoints alone."""
    train = replace(config.train, epochs=config.tune.epochs, num_workers=1, importance_samples=0)
    config = replace(config, train=train)
    trial = Trial(number, config, directory / "trials" / keys.training(config, "")[:16])
    trial.remember()
    return trial


def _job(job: Job, trial: Trial) -> Job:
    """The tuning's job with the trial's settings, in the trial's directory."""
    with storage_errors(trial.directory):
        trial.directory.mkdir(parents=True, exist_ok=True)
    Features.load(job.path).save(trial.directory)
    config = trial.config
    return replace(
        job, directory=str(trial.directory), network=config.model, objective=config.objective, train=config.train
    )


def _search(
    config: RunConfig, trials: list[Trial], jobs: Mapping[int, Job], run: TuningRun, stage: Stage, *, scratch: Path
) -> None:
    """Have the trials run; note and log what is heard of them."""
    scheduler = Halving(config.tune)
    for trial in trials:
        if trial.ended:
            scheduler.remember(trial.number, trial.history)
    with closing(search(config, jobs, scheduler, scratch=scratch)) as heard:
        for news in heard:
            trial = trials[news.trial]
            logged = run.trial(trial.number, trial.config)
            trial.hear(news)
            if news.epoch is not None:
                logged.log([news.epoch])
            else:
                figures = {name: trial.row()[name] for name in ("score", "best_epoch", "epochs", "seconds")}
                known = {name: float(value) for name, value in figures.items() if value is not None}
                run.conclude(trial.number, known, state=trial.state, error=trial.error)
            stage.update(_line(trials, trial))


def _line(trials: list[Trial], heard: Trial) -> str:
    """How far it is."""
    ended, score = sum(it.ended for it in trials), _judged_by(heard.config)
    best = max((it.best["score"] for it in trials if it.best), default=None)
    so_far = "" if best is None else f", best validation {score} {best:.3f} nats/row"
    return f"{ended}/{len(trials)} trials done, trial {heard.number} at epoch {len(heard.history)}{so_far}"


def _judged_by(config: RunConfig) -> str:
    return config.objective.score(config.model)


def _facts(config: RunConfig, trials: list[Trial]) -> dict[str, Any]:
    """The table and the winner. Raises DataError if every trial failed."""
    rows = [it.row() for it in trials]
    able = [row for row in rows if row["state"] != "failed"]
    if not able:
        raise DataError(f"all {len(rows)} trials failed, the first because {rows[0]['error']}", cure="other settings")
    best = max(able, key=lambda row: row["score"])
    gain = best["score"] - rows[0]["score"] if rows[0] in able else None
    return {
        "judged_by": _judged_by(config),
        "best": best["trial"],
        "score": best["score"],
        "gain": gain,
        "trials": rows,
    }


def _toml(config: RunConfig, facts: Mapping[str, Any]) -> str:
    """The winner's config, as a run of its own; the comments tell where it comes from."""
    row = facts["trials"][facts["best"]]
    winner = replace(space.vary(config, row), tune=Tune())
    tried = f"found by latentpipe tune, {len(facts['trials'])} trials of at most {config.tune.epochs} epochs"
    verdict = _verdict(facts["best"], facts["score"], facts["gain"], facts["judged_by"])
    return "\n".join([*map(toml.comment, (tried, verdict)), runfile.text(winner)])


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    with storage_errors(path):
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(facts, indent=1))
        partial.rename(path)
