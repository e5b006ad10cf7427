"""plan: what a run would do, and why: columns, parameters, rows, work units, bytes. Reads; writes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline import ingest, keys, snapshots
from pipeline.config import RunConfig
from pipeline.features import fitting
from pipeline.intake import inventory
from pipeline.intake.ledger import Done, Ledger
from pipeline.intake.taking import Intake
from pipeline.progress import Stage
from vae.config import ModelConfig
from vae.model import VAE


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
    return Planned(
        columns={name: it.likelihood or it.role for name, it in config.columns.items()},
        features=model.features,
        parameters=parameters,
        latent=config.model.latent,
        source_files=len(entries),
        source_bytes=sum(entry.file.bytes for entry in entries),
        rows_in=intake.rows_in,
        rows=intake.rows,
        work_units=-(-intake.rows // config.data.part_rows),
        latents_bytes=intake.rows * config.model.latent * 8,
        **_standing(config, ingest.fingerprint(config, entries)),
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
