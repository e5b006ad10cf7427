"""Tables that come with the packages: `sklearn:digits`."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.disk import storage_errors
from pipeline.errors import DataError


def example(name: str, folder: Path) -> Path:
    """scikit-learn's bundled digits (1,797 images of 8 x 8, UCI optical digits), written once to Parquet."""
    if name != "digits":
        raise DataError(f"no example table {name!r}", "data.uri", "sklearn:digits")
    path = folder / "digits.parquet"
    if not path.exists():
        partial = folder / f"digits.{uuid.uuid4().hex}.partial"
        with storage_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(_digits(), partial)
            partial.rename(path)
    return path


def _digits() -> pa.Table:
    from sklearn.datasets import load_digits  # slow to import, and only this example needs it

    images, labels = load_digits(return_X_y=True)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(images.astype(np.float32).ravel()), images.shape[1])
    return pa.table(
        {"id": pa.array(np.arange(len(images))), "pixels": pixels, "label": pa.array(labels.astype(np.int8))}
    )
