"""What a run has to say at its end: twelve lines at most, or one JSON object."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config import RunConfig
from pipeline.records import Encoded, Ingested, Reduced, Registered, Reported, Trained


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The records of a whole run, and where its time went."""

    ingested: Ingested
    trained: Trained
    registered: Registered
    encoded: Encoded
    reduced: Reduced
    reported: Reported
    seconds: dict[str, float]
    """Wall time of each step; `prefect` is its server and records, `ray` the start of the cluster."""

    def lines(self, config: RunConfig, *, run: str) -> list[str]:
        """For a person; `run` is the TOML's path."""
        rows, model, codes = self.ingested, self.trained, self.encoded
        alias = ", champion" if self.registered.champion else ""
        took = ", ".join(f"{step} {seconds:.1f}" for step, seconds in self.seconds.items())
        return [
            f"{config.name}: done in {sum(self.seconds.values()):.1f} s",
            f"rows       {rows.rows_in:,} in = {rows.rows:,} kept + {rows.quarantined:,} quarantined",
            *(f"notice     {notice}" for notice in rows.notices),
            f"training   best epoch {model.best_epoch} of {model.epochs}, {model.rows_per_s:,.0f} rows/s",
            *_nats(model),
            f"latents    {model.active_units} of {model.latent} dimensions active: {model.verdict}",
            *([f"drift      {codes.drift} moved: see the report"] if codes.drift not in ("", "nothing") else []),
            f"model      {self.registered.name} version {self.registered.version}{alias}",
            f"snapshot   {codes.snapshot}, {codes.bytes:,} bytes in {codes.files} files",
            f"report     {self.reported.page}",
            f"seconds    {took}",
            f"logs       {config.root / 'logs'}",
            f"next       open the report; latentpipe sample {run} --rows 1000",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        return asdict(self)


def _nats(model: Trained) -> list[str]:
    """What the test rows cost."""
    if model.elbo is None:
        return [f"test fit   log p(x|z) {model.log_likelihood:.3f} nats/row; a deterministic encoder has no bound"]
    parts = f"reconstruction {model.log_likelihood:.3f} - KL {model.kl:.3f}"
    lines = [f"test ELBO  {model.elbo:.3f} nats/row = {parts}"]
    if model.nll is not None and model.gain is not None:
        drawn, side = f"{model.importance_samples} importance samples", "better" if model.gain > 0 else "worse"
        lines.append(f"test NLL   {model.nll:.3f} nats/row by {drawn}, {abs(model.gain):.3f} {side} than {model.rival}")
    return lines
