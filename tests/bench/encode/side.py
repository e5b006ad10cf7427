"""One contestant encodes one dataset, in a process of its own; prints when it had published, and its peak memory.

python side.py NAME PLACE OUT
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peak import Peak

GROUP = 65_536
"""Rows of a row group, in all files but those of the usual recipe."""
SHAPE = 1024


def ours(place: Path, out: Path) -> int:
    """`encode`: units, checks, digests, everything on disk, published at once."""
    return _ours(place)


def by_ray(place: Path, out: Path) -> int:
    """`encode` by Ray Data actors."""
    return _ours(place, local_mb=0)


def again(place: Path, out: Path) -> int:
    """`encode` of what is encoded."""
    return _ours(place)


def _ours(place: Path, **settings: Any) -> int:
    from table import config, ingested, registered

    from pipeline import encode

    return encode.encode(config(place, **settings), registered(place), ingested(place)).rows


def bare(place: Path, out: Path) -> int:
    """Two threads; each reads a whole file, encodes it, writes it, and takes the next. Nothing is checked or synced."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    torch.set_num_threads(1)
    model = Model(place)
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda path: _whole_file(model, path, out / path.name), _files(place)))


def usual_ray(place: Path, out: Path) -> int:
    """`read_parquet().map_batches(...).write_parquet()`: numpy batches, two actors, default settings."""
    import pyarrow.parquet as pq
    import ray
    import ray.data

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    folder = str(_files(place)[0].parent)
    rows = ray.data.read_parquet(folder, file_extensions=["parquet"])
    actors = ray.data.ActorPoolStrategy(size=2)
    codes = rows.map_batches(Usual, fn_constructor_args=(place,), batch_size=8192, compute=actors, num_cpus=1)
    codes.write_parquet(str(out / "usual"))
    return sum(pq.read_metadata(path).num_rows for path in (out / "usual").glob("*.parquet"))


class Model:
    """Weights and scales as a bare script would hold them."""

    def __init__(self, place: Path) -> None:
        import torch
        from table import NAMES

        import vae
        from pipeline.features import Features
        from vae.linear import Linear

        self.model = vae.load(place / "model")
        for layer in self.model.modules():
            if isinstance(layer, Linear):
                layer.__class__ = torch.nn.Linear  # torch's own products, as in any script
        features = {it.name: it for it in Features.load(place / "model").columns}
        self.names = NAMES
        self.center = torch.tensor([features[name].center for name in NAMES])
        self.scale = torch.tensor([features[name].scale for name in NAMES])

    def __call__(self, values: Any) -> tuple[Any, Any, Any]:
        """mu, logvar and reconstruction of `[row, feature]`, in the table's units."""
        import torch

        with torch.inference_mode():
            posterior = self.model.encode((values - self.center) / self.scale, None)
            guess = self.model.reconstruct(posterior.mean)
            return posterior.mean, posterior.logvar, guess * self.scale + self.center


class Usual:
    """The callable class of the documentation's batch inference."""

    def __init__(self, place: Path) -> None:
        import torch

        torch.set_num_threads(1)
        self.model = Model(place)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns of numpy arrays."""
        import numpy as np
        import torch

        values = torch.from_numpy(np.stack([batch[name] for name in self.model.names], axis=1))
        mu, logvar, recon = (it.numpy() for it in self.model(values))
        columns = {f"recon_{name}": recon[:, index] for index, name in enumerate(self.model.names)}
        return {"id": batch["id"], "mu": mu, "logvar": logvar, **columns}


def _files(place: Path) -> list[Path]:
    """The dataset's, largest first."""
    from pipeline.snapshots import latest

    newest = latest(place / "workspace" / "datasets" / "bench")
    assert newest is not None
    return sorted(newest.files, key=lambda path: -path.stat().st_size)


def _whole_file(model: Model, path: Path, target: Path) -> int:
    """The same columns, types and Parquet settings as ours."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    table = pq.read_table(path)
    count, latent = len(table), model.model.config.network.latent
    mu, logvar = torch.empty(count, latent), torch.empty(count, latent)
    recon = torch.empty(len(model.names), count)
    columns = [torch.from_numpy(table.column(name).combine_chunks().to_numpy()) for name in model.names]
    for start in range(0, count, SHAPE):
        part = slice(start, start + SHAPE)
        found = model(torch.stack([it[part] for it in columns]).T.contiguous())
        mu[part], logvar[part], recon[:, part] = found[0], found[1], found[2].T
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), latent)
    written = pa.table(
        {
            "id": table.column("id"),
            "mu": pa.FixedSizeListArray.from_arrays(pa.array(mu.numpy().ravel()), type=vector),
            "logvar": pa.FixedSizeListArray.from_arrays(pa.array(logvar.numpy().ravel()), type=vector),
            "recon": pa.StructArray.from_arrays([pa.array(it) for it in np.asarray(recon)], names=model.names),
            "model_version": pa.repeat("bench/1", count),
        }
    )
    floats = ["mu.list.element", "logvar.list.element", *(f"recon.{name}" for name in model.names)]
    pq.write_table(
        written,
        target,
        row_group_size=GROUP,
        compression="zstd",
        compression_level=1,
        use_dictionary=["model_version"],
        column_encoding={**dict.fromkeys(floats, "BYTE_STREAM_SPLIT"), "id": "DELTA_BINARY_PACKED"},
        write_page_checksum=True,
        write_page_index=True,
    )
    return count


def main() -> None:
    """Run one contestant."""
    from pipeline.cli import MEMORY

    os.environ.update(MEMORY)  # as the command does, before Arrow is loaded; for all alike
    name, place, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    contestants: dict[str, Callable[[Path, Path], int]] = {
        it.__name__: it for it in (ours, by_ray, again, bare, usual_ray)
    }
    with Peak() as peak:
        rows = contestants[name](place, out)
        published = time.monotonic()
    print(json.dumps({"published": published, "rows": rows, "peak_mb": peak.mb}))


if __name__ == "__main__":
    main()
