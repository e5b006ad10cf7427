"""ingest: any table -> a typed, immutable Parquet snapshot whose manifest fingerprints it.

One pass, in bounded memory, over what is new or changed; the rest is carried over from the snapshot before. Every row
is kept, or set aside with the rule it broke; the two add up to the rows read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from pipeline import identities, keys, snapshots, storage
from pipeline.cluster import ray_session
from pipeline.config import RunConfig
from pipeline.contract import evolve
from pipeline.errors import DataError
from pipeline.intake import inventory
from pipeline.intake.inventory import Entry
from pipeline.intake.ledger import Done, Ledger, profile
from pipeline.intake.taking import Share, Taken, take_in
from pipeline.progress import Stage
from pipeline.records import Ingested
from pipeline.snapshots import Snapshot
from pipeline.spread import Spread, actors, threads
from pipeline.storage import attempt, publish, standing, verify_rows
from pipeline.stores.remote import Location

MB: Final = 1 << 20


def root(config: RunConfig) -> Location:
    """Where the dataset's snapshots live."""
    return storage.root(config, "datasets")


def ingest(config: RunConfig) -> Ingested:
    """Read, type and publish the table; a no-op if the same input was ingested the same way before.

    Raises DataError, with nothing published, if the table breaks its contract.
    """
    with Stage("ingest") as stage:
        older = before(config)
        entries = inventory.take_stock(config, known=older)
        run_key = fingerprint(config, entries)
        if (known := standing(root(config), run_key)) is not None:
            stage.update(f"unchanged, {known.directory.name} stands")
            return record(known, new=False)
        with attempt(root(config), run_key) as directory:
            done = _take_all(config, entries, older, directory, stage)
            parts = [part for it in done for part in it.taken.parts]
            ledger = Ledger(config, entries, done, profile(parts, directory))
            ledger.check(_repeated(config, ledger, directory))
            verify_rows(ledger.rows, ledger.data, directory)
            manifest = {**ledger.manifest(), "run_key": run_key}
            return record(publish(root(config), directory, parts, manifest), new=True)


def fingerprint(config: RunConfig, entries: Sequence[Entry]) -> str:
    """What the dataset is known by: its content and its rules, whatever the files' order, unless that numbers rows."""
    digests = [json.dumps([entry.cut.sha256, entry.file.keys]) for entry in entries]
    return keys.dataset(config, sorted(digests) if config.role("id") else digests)


def record(snapshot: Snapshot, *, new: bool = False) -> Ingested:
    """The facts of a published dataset."""
    facts = snapshot.manifest
    rows = {name: facts[name] for name in ("rows_in", "rows", "quarantined", "content")}
    return Ingested(
        snapshot=str(snapshot.directory),
        key=facts["run_key"],
        digest=snapshot.digest,
        notices=tuple(facts["notices"]),
        new=new,
        **rows,
    )


def latest(config: RunConfig) -> Ingested:
    """The newest dataset of the run's name. Raises DataError if there is none."""
    snapshot = snapshots.latest(root(config))
    if snapshot is None:
        raise DataError("no dataset here", str(root(config)), "run `latentpipe ingest` first")
    return record(snapshot)


def before(config: RunConfig) -> Snapshot | None:
    """The newest snapshot, if it was made by the same rules, so that its files can be carried over.

    Raises ConfigError if a type that is declared now is not one that its contract widens to.
    """
    newest = snapshots.latest(root(config))
    if newest is not None:
        evolve(newest.manifest["rules"]["columns"], config.columns, where=str(newest.directory))
    same = {"rules": keys.rules(config), "contract": keys.CONTRACTS["dataset"]}
    if newest is None or not newest.whole or any(newest.manifest.get(name) != it for name, it in same.items()):
        return None
    return newest


def _take_all(
    config: RunConfig, entries: Sequence[Entry], older: Snapshot | None, directory: Path, stage: Stage
) -> list[Done]:
    """Every unit with what became of its rows, in the source's order: carried over, or taken in now."""
    pieces = inventory.shares(entries, numbered=not config.role("id"))
    place = {identity: index for index, (_, identity) in enumerate(pieces)}
    units = older.manifest["units"] if older is not None else []
    kept = [it for it in units if all(identity in place for identity in it["identities"])]
    done = [Done.carried(older, it, directory) for it in kept if older is not None]
    held = {identity for it in done for identity in it.identities}
    fresh = [*inventory.units([it for it in pieces if it[1] not in held], unit_bytes=config.data.unit_mb * MB)]
    first = 1 + max((it["number"] for it in units), default=-1)
    work = partial(_take, config, str(directory))
    with _workers(config, sum(unit.bytes for unit in fresh)) as spread:
        for index, facts in spread(work, [*enumerate((unit.shares for unit in fresh), first)]):
            done.append(Done(number=first + index, identities=fresh[index].identities, taken=Taken.of(facts)))
            stage.count(sum(it.taken.rows_in for it in done), 0)
    return sorted(done, key=lambda it: place[it.identities[0]])


def _take(config: RunConfig, directory: str, unit: tuple[int, tuple[Share, ...]]) -> dict[str, Any]:
    number, shares = unit
    return asdict(take_in(config, number, shares, Path(directory)))


def _repeated(config: RunConfig, ledger: Ledger, directory: Path) -> list[tuple[int, list[int | str]]]:
    """How many ids come more than once, and the first of them, by bucket."""
    paths = [(directory / part.staged, part) for part in ledger.data]
    counts = identities.counts(
        paths,
        id_column=config.id_column,
        memory_bytes=config.ingest.memory_mb * MB,
        repeated={path for it in ledger.done for path in it.taken.repeated},
    )
    with _workers(config, sum(part.bytes for _, part in paths)) as spread:
        return [found for _, found in spread(identities.count, counts)]


@contextmanager
def _workers(config: RunConfig, source_bytes: int) -> Iterator[Spread]:
    """Threads of this process for a little work, actors of a Ray cluster for more."""
    if source_bytes <= config.ingest.local_mb * MB:
        yield partial(threads, workers=config.ingest.num_workers)
        return
    with ray_session(config.cluster, cpus=config.cpus, log=config.ray_log):
        yield partial(actors, workers=config.ingest.num_workers)
