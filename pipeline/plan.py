"""plan: what a run would do, and why: columns, parameters, rows, work units, bytes. Reads; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Final

from pipeline import encode, ingest, keys, snapshots
from pipeline.config import RunConfig
from pipeline.encoding import account
from pipeline.encoding.units import cut
from pipeline.errors import ConfigError
from pipeline.features import fitting
from pipeline.intake import inventory
from pipeline.intake.inventory import Entry
from pipeline.intake.ledger import Done, Ledger
from pipeline.intake.taking import Intake
from pipeline.progress import Stage
from pipeline.snapshots import Snapshot
from vae.config import ModelConfig
from vae.model import VAE

SHOWN: Final = 10
"""Units that are named to a person."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What a run would do."""

    columns: dict[str, str]
    """Likelihood, or role, of each column."""
    features: int
    parameters: int
    latent: int
    source_files: int
    source_bytes: int
    rows_in: int
    rows: int
    work_units: int
    latents_bytes: int
    """Of the codes alone, before compression."""
    dataset: str
    """`new`, or the snapshot that already holds it."""
    training: str
    """`new`, `resume`, or the training that is done."""
    latents: str
    """How many units `encode` would make, carry over and retire by the model it would use now, and why."""
    new: dict[str, str]
    """Which it would make, each with why; before `ingest` cut them anew, the files of the source that changed."""

    def lines(self) -> list[str]:
        """For a person."""
        columns = [f"  {name:<24} {what}" for name, what in self.columns.items()]
        kept = f"{self.rows_in:,} rows, {self.rows:,} of them keep the contract"
        return [
            "columns",
            *columns,
            f"source     {self.source_files:,} files, {self.source_bytes:,} bytes, {kept}",
            f"model      {self.features:,} features -> {self.latent} latents, {self.parameters:,} parameters",
            f"encode     {self.work_units:,} work units, about {self.latents_bytes:,} bytes of codes uncompressed",
            f"dataset    {self.dataset}",
            f"training   {self.training}",
            f"latents    {self.latents}",
            *(f"  {name:<24} {why}" for name, why in islice(self.new.items(), SHOWN)),
            *([f"  ... and {len(self.new) - SHOWN:,} more; --json names them all"] if len(self.new) > SHOWN else []),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def plan(config: RunConfig) -> Planned:
    """Read the source as `ingest` would, and say what each step would do. Raises what `ingest` would raise."""
    with Stage("plan"):
        entries = inventory.take_stock(config, known=ingest.before(config))
        intake = Intake(config)
        shares = [share for share, _ in inventory.shares(entries, numbered=not config.role("id"))]
        fitted = fitting.fit(intake.identified(intake.batches(shares)), config.role("feature"))
        Ledger(config, entries, [Done(taken=intake.taken([]))], intake.profile).check(
            [(len(it), [*it]) for it in intake.repeated]
        )
        model = ModelConfig(columns=fitted.model_columns(), network=config.model)
        parameters = sum(parameter.numel() for parameter in VAE(model).parameters())
        key, units = ingest.fingerprint(config, entries), -(-intake.rows // config.data.part_rows)
        latents, new = _latents(config, snapshots.find(ingest.root(config), key), entries, units)
    return Planned(
        columns={name: it.likelihood or it.role for name, it in config.columns.items()},
        features=model.features,
        parameters=parameters,
        latent=config.model.latent,
        source_files=len(entries),
        source_bytes=sum(entry.file.bytes for entry in entries),
        rows_in=intake.rows_in,
        rows=intake.rows,
        work_units=units,
        latents_bytes=intake.rows * config.model.latent * 8,
        latents=latents,
        new=new,
        **_standing(config, key),
    )


def _standing(config: RunConfig, key: str) -> dict[str, str]:
    """What is done already."""
    known = snapshots.find(ingest.root(config), key)
    if known is None:
        return {"dataset": "new", "training": "new"}
    training = keys.training_folder(config, keys.training(config, known.manifest["content"]))
    state = f"done, {training.name}" if (training / "trained.json").exists() else "new"
    begun = state == "new" and (training / "checkpoints").is_dir()
    return {"dataset": f"unchanged, {known.directory}", "training": "resume" if begun else state}


def _latents(
    config: RunConfig, dataset: Snapshot | None, entries: Sequence[Entry], units: int
) -> tuple[str, dict[str, str]]:
    """What `encode` would do by the model that it would use now; a new model would have all of it done anew."""
    output = _output(config)
    if output is None:
        return f"{units:,} units new: there is no model yet", {}
    if dataset is not None:
        wanted = cut(dataset, output, unit_bytes=config.encode.unit_mb << 20)
        change = account.change(wanted, output, encode.root(config))
        return str(change), {str(unit): change.new[unit.number] for unit in wanted if unit.number in change.new}
    newest = snapshots.latest(encode.root(config))
    made = newest.manifest.get("units", []) if newest is not None and newest.manifest.get("output") == output else []
    kept = _kept(config, entries)
    carried = sum(it["input"]["sha256"] in kept for it in made)
    told = f"about {max(units - carried, 0):,} units new: input changed; {carried:,} carried over; the others retired"
    return told, dict.fromkeys(_changed(config, entries), "input changed")


def _changed(config: RunConfig, entries: Sequence[Entry]) -> list[str]:
    """The files of the source with a piece that the newest dataset has not."""
    older = ingest.before(config)
    known = {identity for it in older.manifest["units"] for identity in it["identities"]} if older else set()
    shares = inventory.shares(entries, numbered=not config.role("id"))
    return [*dict.fromkeys(share.piece.file.name for share, identity in shares if identity not in known)]


def _output(config: RunConfig) -> dict[str, Any] | None:
    """What the registered model that `encode` would use makes of a row; None if there is no such model."""
    if not (config.tracking.uri or (config.root / "mlflow.db").exists()):
        return None
    from pipeline.tracking import versions

    try:
        version = versions.resolve(config, config.encode.alias)
    except ConfigError:
        return None
    return keys.output(config, model=f"{config.name}/{version.version}", model_digest=version.tags[versions.DIGEST_TAG])


def _kept(config: RunConfig, entries: Sequence[Entry]) -> set[str]:
    """The digests of the dataset's files that `ingest` would carry over."""
    older = ingest.before(config)
    if older is None:
        return set()
    wanted = {identity for _, identity in inventory.shares(entries, numbered=not config.role("id"))}
    units = [it for it in older.manifest["units"] if wanted.issuperset(it["identities"])]
    paths = {path for it in units for path in it["taken"]["parts"]}
    return {part["sha256"] for part in older.manifest["files"] if part["path"] in paths}
