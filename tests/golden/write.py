"""How the golden snapshots were written, once each: kept to be read, not to be run again.

PYTHONPATH=.:tests python tests/golden/write.py FOLDER
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from harness import small_csv, small_settings
from workspaces import model_of

from pipeline import encode, ingest, runfile
from pipeline.cluster import ray_session
from pipeline.config import Cluster

ROWS = 40
KINDS = {
    "int-recon": ({"type": "int64", "role": "id"}, True),
    "string-bare": ({"type": "string", "role": "id"}, False),
}


def main(folder: Path) -> None:
    """One small set of latents for each kind, in two files."""
    with ray_session(Cluster(), cpus=2, log=folder / "ray.log"):
        for name, (id_column, reconstruct) in KINDS.items():
            here = folder / name
            here.mkdir(parents=True)
            settings = small_settings(here, columns={"id": id_column}, encode={"reconstruct": reconstruct})
            settings["data"] = {"uri": str(small_csv(here / "small.csv", rows=ROWS)), "part_rows": 25}
            config = runfile.parse(settings)
            ingested = ingest.ingest(config)
            encoded = encode.encode(config, model_of(config, ingested), ingested)
            target = Path(__file__).parent / "latents-v1" / name / Path(encoded.snapshot).name
            shutil.copytree(encoded.snapshot, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
