"""What is kept of the training rows beside the model: the reference, and its own counts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import torch
from torch import Generator

from pipeline import watch
from pipeline.features import Features
from pipeline.reference import Codes, Numbers, Reference, spread_evenly
from pipeline.training import shards
from pipeline.training.job import Job
from pipeline.training.rows import read
from vae.model import VAE
from vae.objectives import elbo

BATCH: Final = 1024


def keep(job: Job, model: VAE, directory: Path, *, rows: int) -> None:
    """Write `reference.*` and `drift.json`, of `rows` training rows, into the model's directory."""
    features = Features.load(job.path)
    table = _training_rows(job, rows)
    mu, bound = _codes(model, features, table)
    Reference.of(features, table, mu, bound).save(directory)
    watch.save_expected(directory, table, mu, bound)


def _training_rows(job: Job, rows: int) -> pa.Table:
    """Some, evenly spread over their order."""
    chosen, kept, start = spread_evenly(rows), [], 0
    for batch, split in read(job):
        mine = np.flatnonzero(split == shards.TRAIN)
        kept.append(batch.take(pa.array(mine[chosen(start, start + len(mine))])))
        start += len(mine)
    return pa.Table.from_batches(kept)


@torch.no_grad()
def _codes(model: VAE, features: Features, table: pa.Table) -> tuple[Codes, Numbers | None]:
    """Codes and ELBO of the rows."""
    model, mu, bound = model.eval(), [], []
    noise = torch.randn(BATCH, 1, model.config.network.latent, generator=Generator().manual_seed(0)).to(model.device)
    for batch in table.to_batches(max_chunksize=BATCH):
        values, observed = (torch.from_numpy(array).to(model.device) for array in features.transform(batch))
        posterior = model.encode(values, observed)
        terms = elbo(model, values, observed, posterior, noise[: len(values)])
        mu.append(posterior.mean.cpu().numpy())
        bound.append(terms.per_row().cpu().numpy())
    return np.concatenate(mu), np.concatenate(bound).astype(np.float64) if model.stochastic else None
