"""encode: a registered model, a prepared dataset -> latent codes in Parquet; only what changed is computed.

The unit of work is a file of the dataset, or some row groups of a large one (`pipeline.encoding.units`). A worker reads
it, encodes it and writes the result itself, where no reader looks; only facts come back, and the driver publishes all
of them at once. Units that a recent snapshot holds are carried over. What an attempt that failed had finished is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline import keys, storage
from pipeline.cluster import ray_session
from pipeline.config import RunConfig
from pipeline.encoding import account, units
from pipeline.encoding.account import Change, Made
from pipeline.encoding.units import Unit
from pipeline.errors import DataError
from pipeline.progress import Stage
from pipeline.records import Encoded, Ingested, Registered
from pipeline.snapshots import Snapshot
from pipeline.spread import Spread, actors, threads
from pipeline.storage import attempt, publish, standing, verify_ids
from pipeline.stores.remote import Location

if TYPE_CHECKING:
    from pipeline.encoding.output import Output
    from pipeline.watch import Watch

MB: Final = 1 << 20


def root(config: RunConfig) -> Location:
    """Where the latents' snapshots live."""
    return storage.root(config, "latents")


def encode(config: RunConfig, registered: Registered, ingested: Ingested) -> Encoded:
    """Encode every row of the snapshot, and publish; a no-op if this model encoded this data this way before.

    Raises DataError if the data is not what was ingested, lacks a column of the model's, or has too many rows without a
    finite code; InfrastructureError if actors cannot be had, or one unit ends every actor.
    """
    with Stage("encode") as stage:
        output = keys.output(config, model=_name(registered), model_digest=registered.digest)
        run_key = keys.latents(output, content=ingested.content)
        if (before := standing(root(config), run_key)) is not None:
            stage.update(f"unchanged, {before.directory.name} stands")
            return record(before, new=False)
        wanted = units.cut(
            _dataset(ingested), output, unit_bytes=config.encode.unit_mb * MB, workers=config.encode.num_workers
        )
        found = account.change(wanted, output, root(config))
        facts = _manifest(config, registered, ingested)
        with attempt(root(config), run_key) as directory:
            worker = _output(config, registered, directory, rows=sum(wanted[number].rows for number in found.new))
            watch = _watch(worker) if found.new else None
            made = _make_all(config, worker, wanted, found, stage=stage, watch=watch)
            account.check(wanted, made, limit=config.data.quarantine_limit, where=ingested.snapshot)
            parts = sorted((part for it in made for part in it.parts), key=lambda part: part.path)
            verify_ids(parts, directory, config.id_column, secret=worker.id_secret)
            moved = _drift(config, worker, watch)
            manifest = {**facts, **_rows(wanted, made), "output": output, "run_key": run_key, "drift": moved}
            snapshot = publish(root(config), directory, parts, manifest)
        stage.update(str(found))
        return record(snapshot, new=True)


def record(snapshot: Snapshot, *, new: bool = False) -> Encoded:
    """The facts of published latents."""
    facts = snapshot.manifest
    return Encoded(
        snapshot=str(snapshot.directory),
        key=facts["run_key"],
        digest=snapshot.digest,
        rows=facts["rows"],
        quarantined=facts["quarantined"],
        files=len(facts["files"]),
        bytes=sum(part["bytes"] for part in facts["files"]),
        latent=facts["latent"],
        model=f"{facts['model']['name']}/{facts['model']['version']}",
        drift=(facts.get("drift") or {}).get("verdict", ""),
        new=new,
    )


def latest(config: RunConfig) -> Encoded:
    """The newest latents of the run's name. Raises DataError if there are none."""
    from pipeline import latents

    return record(latents.resolve(root(config)))


def _name(registered: Registered) -> str:
    return f"{registered.name}/{registered.version}"


def _dataset(ingested: Ingested) -> Snapshot:
    """The dataset's snapshot. Raises DataError if it is not the one that was ingested."""
    snapshot = Snapshot.at(ingested.snapshot)
    if snapshot.digest != ingested.digest:
        raise DataError("its manifest changed since it was ingested", ingested.snapshot, "ingest again")
    return snapshot


def _output(config: RunConfig, registered: Registered, directory: Location, *, rows: int) -> Output:
    """What workers are told who have so many rows to encode."""
    from pipeline.encoding.output import Output
    from pipeline.watch import known

    return Output(
        directory=directory,
        model=registered.model,
        model_name=_name(registered),
        model_digest=registered.digest,
        id_column=config.id_column,
        id_secret=any(it.secret for it in config.role("id").values()),
        passthrough=tuple(config.role("passthrough")),
        settings=config.encode,
        watched=rows if config.drift.watch and known(registered.model) else 0,
    )


def _make_all(
    config: RunConfig, output: Output, wanted: Sequence[Unit], found: Change, *, stage: Stage, watch: Watch | None
) -> list[Made]:
    """What became of every unit, in their order; `watch` adds up what was counted of those made now."""
    from pipeline.encoding.worker import Encoder

    held = {number: Made.carried(wanted[number], *it, output.directory) for number, it in found.standing.items()}
    fresh = sorted((wanted[number] for number in found.new), key=lambda unit: -unit.bytes)
    rows = sum(unit.rows for unit in fresh)
    with _workers(config, fresh) as spread:
        for index, facts in spread(Encoder(output), fresh):
            if watch is not None:
                watch.merged([facts.pop("watched")])
            held[fresh[index].number] = Made.of(facts)
            stage.count(sum(held[unit.number].rows for unit in fresh if unit.number in held), rows)
    return [held[number] for number in sorted(held)]


@contextmanager
def _workers(config: RunConfig, fresh: Sequence[Unit]) -> Iterator[Spread]:
    """Threads of this process for a little work, actors of a Ray cluster for more."""
    settings = config.encode
    large = sum(unit.bytes for unit in fresh) > settings.local_mb * MB or settings.local_mb == 0
    if not (large or settings.use_gpu or config.cluster.address):
        from pipeline.codec import one_thread

        with one_thread():
            yield partial(threads, workers=settings.num_workers)
        return
    loads = units.loads(fresh, workers=settings.num_workers, unit_bytes=settings.unit_mb * MB)
    with ray_session(config.cluster, cpus=config.cpus, log=config.ray_log):
        yield partial(
            actors,
            workers=settings.num_workers,
            use_gpu=settings.use_gpu,
            wait_s=config.cluster.wait_s,
            loads=loads,
        )


def _watch(worker: Output) -> Watch | None:
    """What adds up the workers' counts; None by a model without its training rows' counts."""
    from pipeline.watch import Watch

    return Watch.load(worker.model, rows=worker.watched) if worker.watched else None


def _drift(config: RunConfig, worker: Output, watch: Watch | None) -> dict[str, Any] | None:
    """The judgement on the rows encoded now; None where none were watched."""
    from pipeline import drift
    from pipeline.training.worker import STORY

    if watch is None:
        return None
    settings = {"false_alarms": config.drift.false_alarms, "least": config.drift.least}
    held_out = drift.HeldOut.by(Path(worker.model) / STORY)
    return drift.judge(watch, worker.model, **settings, held_out=held_out).facts()


def _rows(wanted: Sequence[Unit], made: Sequence[Made]) -> dict[str, Any]:
    """The account as the manifest has it; `computed` only where it is the same of all units."""
    alike = all(it.computed == made[0].computed for it in made)
    return {
        **({"computed": made[0].computed} if alike else {}),
        "units": [account.facts(unit, it) for unit, it in zip(wanted, made, strict=True)],
        "rows_in": sum(unit.rows for unit in wanted),
        "rows": sum(it.rows for it in made),
        "quarantined": sum(it.quarantined for it in made),
    }


def _manifest(config: RunConfig, registered: Registered, ingested: Ingested) -> dict[str, Any]:
    """What is known before any row is encoded. Raises ConfigError or DataError if the model has not what is asked."""
    from pipeline import latents
    from pipeline.codec import Codec
    from pipeline.evidence import Evidence
    from pipeline.schema import table_schema
    from vae import checkpoint

    codec = Codec.load(registered.model)
    Evidence(codec, config.encode)
    passthrough = [it for it in table_schema(config) if it.name in config.role("passthrough")]
    return {
        "kind": "latents",
        "contract": latents.CONTRACT,
        "id": config.id_column,
        "passthrough": {it.name: str(it.type) for it in passthrough},
        "secret": sorted(name for name, it in config.columns.items() if it.secret),
        "model": {
            "name": registered.name,
            "version": registered.version,
            "digest": registered.digest,
            "mlflow_run": registered.mlflow_run,
            "training_key": registered.training_key,
            "files": checkpoint.sealed(registered.model),
        },
        "input": {"snapshot": ingested.snapshot, "key": ingested.key, "digest": ingested.digest},
        "latent": codec.latent,
        "code_version": version("latentpipe"),
    }
