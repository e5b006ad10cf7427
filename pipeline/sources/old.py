"""Where rows come from: files of several formats, as raw record batches. Nothing is typed or judged here."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import csv

from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.storage import sha256

FORMATS: Final = {
    ".csv": "csv",
    ".data": "csv",
    ".txt": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".arrow": "ipc",
    ".feather": "ipc",
}
COMPRESSED: Final = (".gz", ".zst", ".bz2")
BLOCK_BYTES: Final = 8 << 20
BATCH_ROWS: Final = 65_536


@dataclass(frozen=True)
class Block:
    """Some neighbouring rows of one file, as found."""

    batch: pa.RecordBatch
    ragged: tuple[tuple[int, str], ...] = ()
    """CSV rows with too many or too few cells: position among the file's rows, and text. They are not in `batch`."""

    def __len__(self) -> int:
        return len(self.batch) + len(self.ragged)

    def positions(self, first: int) -> npt.NDArray[np.int64]:
        """Where the batch's rows stand in the file, if the block begins at row `first`."""
        return np.setdiff1d(np.arange(first, first + len(self)), [row for row, _ in self.ragged])


def files(data: Data, *, workspace: Path) -> list[Path]:
    """The files a source names, sorted; hidden and `_` files are not data. Raises DataError if there are none."""
    if data.uri.startswith("sklearn:"):
        return [_example(data.uri.removeprefix("sklearn:"), workspace / "sources")]
    path = Path(data.uri).absolute()
    if path.is_file():
        return [path]
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    base = path if path.is_dir() else path.parent
    listed = sorted(it for it in found if it.is_file() and not _hidden(it, base))
    if not listed:
        raise DataError("no such file, folder or match", str(path), "check data.uri")
    return listed


def _hidden(path: Path, base: Path) -> bool:
    below = path.relative_to(base).parts if path.is_relative_to(base) else (path.name,)
    return any(part[0] in "._" for part in below)


def digest(path: Path) -> dict[str, str | int]:
    """What identifies a file's content."""
    try:
        return {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)}
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", str(path), "check its permissions") from error


def blocks(path: Path, data: Data) -> Iterator[Block]:
    """The file's rows, in order and in bounded memory. Raises DataError, naming the file, if it cannot be read."""
    if path.stat().st_size == 0:
        raise DataError("the file is empty (0 bytes)", str(path))
    try:
        yield from _csv(path, data) if format_of(path, data) in ("csv", "tsv") else _arrow(path, data)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {_first_line(error)}", str(path), "check data.format and the file") from error


def format_of(path: Path, data: Data) -> str:
    """The declared format, or the one of the file's suffix."""
    if data.format != "auto":
        return data.format
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSED]
    if not suffixes or suffixes[-1] not in FORMATS:
        raise DataError(
            "format not known from the name", str(path), f"set data.format; known suffixes: {', '.join(FORMATS)}"
        )
    return FORMATS[suffixes[-1]]


def _arrow(path: Path, data: Data) -> Iterator[Block]:
    if format_of(path, data) == "parquet":
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _refuse_duplicates(file.schema_arrow.names, path)
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                yield Block(batch)
        return
    source = ds.dataset(path, format="ipc")
    _refuse_duplicates(source.schema.names, path)
    for batch in source.to_batches(batch_size=BATCH_ROWS):
        yield Block(batch)


def _csv(path: Path, data: Data) -> Iterator[Block]:
    """Every cell as text: types are the contract's affair, and only declared tokens are null."""
    ragged: list[tuple[int, str]] = []

    def set_aside(row: csv.InvalidRow) -> str:
        ragged.append(((row.number or 1) - 1 - int(data.header), row.text))
        return "skip"

    delimiter = "\t" if format_of(path, data) == "tsv" else data.delimiter
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=set_aside)
    read = csv.ReadOptions(
        column_names=None if data.header else list(data.names), block_size=BLOCK_BYTES, use_threads=False
    )
    names = _csv_names(path, data, parse, read)
    ragged.clear()
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    tokens = pa.array(data.null_tokens, pa.string())
    shown = [name.strip() for name in names] if data.trim else names
    _refuse_duplicates(shown, path)
    with csv.open_csv(path, read, parse, convert) as reader:
        for batch in reader:
            cells = [_cells(column, data.trim, tokens) for column in batch.columns]
            yield Block(pa.RecordBatch.from_arrays(cells, names=shown), tuple(ragged))
            ragged.clear()
    if ragged:
        yield Block(pa.RecordBatch.from_arrays([pa.array([], pa.string())] * len(names), names=shown), tuple(ragged))


def _csv_names(path: Path, data: Data, parse: csv.ParseOptions, read: csv.ReadOptions) -> list[str]:
    """The names as in the file, or as declared."""
    if not data.header and not data.names:
        raise DataError("data.header = false needs data.names", str(path), "`latentpipe init --data FILE` writes them")
    with csv.open_csv(path, read, parse) as reader:
        names: list[str] = reader.schema.names
    _refuse_duplicates(names, path)
    return names


def _cells(column: pa.Array, trim: bool, tokens: pa.Array) -> pa.Array:
    text = pc.utf8_trim_whitespace(column) if trim else column
    return pc.if_else(pc.is_in(text, tokens), pa.scalar(None, pa.string()), text)


def _refuse_duplicates(names: list[str], path: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"two columns are named {name!r}", str(path), "rename one of them")
        seen.add(name)


def _example(name: str, folder: Path) -> Path:
    """scikit-learn's bundled digits (1,797 images of 8 x 8, UCI optical digits), written once to Parquet."""
    if name != "digits":
        raise DataError(f"no example table {name!r}", "data.uri", "sklearn:digits")
    path = folder / "digits.parquet"
    if not path.exists():
        from sklearn.datasets import load_digits  # slow to import, and only this example needs it

        images, labels = load_digits(return_X_y=True)
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(images.astype(np.float32).ravel()), images.shape[1])
        ids = pa.array(np.arange(len(images)))
        folder.mkdir(parents=True, exist_ok=True)
        table = pa.table({"id": ids, "pixels": pixels, "label": pa.array(labels.astype(np.int8))})
        pq.write_table(table, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return path


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
