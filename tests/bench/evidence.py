"""What each column of evidence costs: one process, one thread, the encoder of one unit, columns asked for one by one.

    python tests/bench/evidence.py [--rows 65536] [--repeats 3]

64 numbers (or, second table, 16 numbers and 16 categories, a tenth of the cells missing) -> 8 latents, two hidden
layers of 64. Rounds are interleaved; a figure is the median of their rates, in rows per second of CPU time, all threads
added up, as a share of the same round's bare rate.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline import reference
from pipeline.columns import ColumnConfig
from pipeline.config import Encode
from pipeline.disk import sha256
from pipeline.encoding.output import Output
from pipeline.encoding.units import Source, Unit
from pipeline.encoding.worker import Encoder
from pipeline.features import fitting
from vae import VAE, ModelConfig, Network, checkpoint

BARE = {"elbo": False, "percentile": False, "worst": False}
ASKED = {
    "codes and reconstruction alone": {},
    "elbo": {"elbo": True},
    "percentile": {"percentile": True},
    "worst": {"worst": True},
    "elbo, percentile, worst (the default)": {"elbo": True, "percentile": True, "worst": True},
    "errors": {"errors": True},
    "draws = 1": {"draws": 1},
    "draws = 8": {"draws": 8},
    "importance_samples = 16": {"importance_samples": 16},
    "importance_samples = 100": {"importance_samples": 100},
    "imputed = 16": {"imputed": 16},
}


def table(rows: int, *, mixed: bool) -> tuple[pa.Table, dict[str, ColumnConfig]]:
    """Rows of 64 numbers, or of 16 numbers and 16 categories with missing cells."""
    random = np.random.default_rng(0)
    hidden = random.standard_normal((rows, 4)).astype(np.float32)
    numbers = hidden @ random.standard_normal((4, 64), np.float32) + random.standard_normal((rows, 64), np.float32)
    gone = random.random((rows, 64)) < 0.1 * mixed
    columns = {"id": pa.array(range(rows), pa.int64())}
    kinds = {}
    for feature in range(32 if mixed else 64):
        cells = numbers[:, feature]
        if mixed and feature >= 16:
            texts = pa.array([f"c{code}" for code in range(8)]).take(pa.array(np.digitize(cells, range(-3, 4))))
            columns[f"c{feature}"] = pa.array(texts.to_pylist(), mask=gone[:, feature])
            kinds[f"c{feature}"] = ColumnConfig(type="string", likelihood="categorical", nullable=True)
        else:
            columns[f"x{feature}"] = pa.array(cells, mask=gone[:, feature])
            kinds[f"x{feature}"] = ColumnConfig(type="float32", likelihood="gaussian", nullable=mixed)
    return pa.table(columns), kinds


def model(rows: pa.Table, kinds: dict[str, ColumnConfig], folder: Path) -> None:
    """A model that nobody trained; its speed is a trained one's."""
    found = fitting.fit(rows.to_batches(), kinds)
    torch.manual_seed(0)
    vae = VAE(ModelConfig(columns=found.model_columns(), network=Network(latent=8, hidden=(64, 64)))).eval()
    values, observed = (torch.from_numpy(it) for it in found.transform(rows.slice(0, 8192)))
    checkpoint.save(vae, folder)
    found.save(folder)
    reference.measure(vae, found, lambda index: (values[index], observed[index]), rows=len(values)).save(folder)
    checkpoint.seal(folder)


def encoder(folder: Path, settings: Encode) -> Encoder:
    """The worker's own, beside no cluster."""
    (folder / "out").mkdir(exist_ok=True)
    facts = {"model_name": "bench/1", "model_digest": "-", "id_column": "id", "id_secret": False, "watched": 0}
    where = {"directory": folder / "out", "model": str(folder / "model")}
    return Encoder(Output(passthrough=(), settings=settings, **where, **facts))


def unit(path: Path, rows: int) -> Unit:
    """A whole file."""
    size, groups = path.stat().st_size, pq.read_metadata(path).num_row_groups
    source = Source(path=path, name=path.name, sha256=sha256(path), bytes=size, changed_ns=path.stat().st_mtime_ns)
    return Unit(number=0, identity="-", source=source, first=0, end=groups, whole=True, rows=rows, bytes=size)


def run(rows: int, repeats: int, *, mixed: bool) -> None:
    """Print one table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, kinds = table(rows, mixed=mixed)
        pq.write_table(data, folder / "in.parquet")
        work = unit(folder / "in.parquet", rows)
        model(data, kinds, folder / "model")
        rates: dict[str, list[float]] = {asked: [] for asked in ASKED}
        sizes = {}
        encoders = {asked: encoder(folder, Encode(**{**BARE, **more})) for asked, more in ASKED.items()}
        for turn in range(repeats + 1):
            for asked, it in encoders.items():
                started = time.process_time()
                [part] = it.encode(work).parts
                if turn:  # the first one loads the model
                    rates[asked].append(rows / (time.process_time() - started))
                sizes[asked] = part.bytes / rows
                (folder / "out" / part.staged).unlink()
        bare = "codes and reconstruction alone"
        for asked in ASKED:
            share = statistics.median(one / base for one, base in zip(rates[asked], rates[bare], strict=True))
            rate, more = statistics.median(rates[asked]), sizes[asked] - sizes[bare]
            print(f"| {asked} | {rate:,.0f} | {share:.2f} | {more:+.1f} |")
        print(f"bare: {sizes[bare]:.1f} bytes per row")


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=65_536)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for mixed in (False, True):
        print("16 numbers, 16 categories, gaps" if mixed else "64 numbers")
        print("| asked for | rows per CPU second | of bare | bytes/row |\n|---|---|---|---|")
        run(asked.rows, asked.repeats, mixed=mixed)


if __name__ == "__main__":
    main()
