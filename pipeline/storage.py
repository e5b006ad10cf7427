"""All of a snapshot, or none of it: write files where no reader looks, then publish them with one rename.

    with attempt(root, run_key) as directory:          # <root>/_attempts/<run key>/<uuid>/
        parts = [write(directory, "part-00000.parquet", batches, schema=schema) ...]
        snapshot = publish(root, directory, parts, manifest)      # -> <root>/v000007/, complete

The rename of a finished directory to a name that does not exist yet is the commit; two writers cannot both do it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import CommitConflict, DataError, InfrastructureError
from pipeline.snapshots import MANIFEST, Snapshot, directory_name, find, latest, next_version

ROW_GROUP_ROWS = 65_536
GROUP_BYTES = 64 << 20
TEXT_BYTES = 32
GLANCE_ROWS = 4096
COMMIT_TRIES = 20
MAKE_TRIES = 1000
SECTIONS = {"files": "", "quarantine": "_quarantine", "profile": "_profile"}
"""Where the files of each of a manifest's lists lie: the data itself, and what readers pass over."""
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One finished file of a snapshot."""

    path: str
    """Relative to the snapshot."""
    staged: str
    """Relative to the attempt's directory, unlike any other try's: a late writer harms nobody."""
    rows: int
    bytes: int
    sha256: str
    id_min: Any = None
    id_max: Any = None


@contextmanager
def attempt(root: Path, run_key: str) -> Iterator[Path]:
    """A fresh directory for one try at a snapshot; gone afterwards, whatever happened."""
    directory = root / "_attempts" / run_key[:16] / uuid.uuid4().hex
    with storage_errors(directory):
        _make(directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        _remove_empty(directory.parent, directory.parent.parent)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into InfrastructureError naming the path."""
    try:
        yield
    except OSError as error:
        cure = "free some space, then run again" if error.errno == errno.ENOSPC else "check the folder, then run again"
        raise InfrastructureError(f"cannot write: {error.strerror or error}", str(path), cure) from error


def write(
    directory: Path, name: str, batches: Iterable[pa.RecordBatch], *, schema: pa.Schema, id_column: str = ""
) -> Part:
    """Write one Parquet file, durable and with page checksums, and read its footer back; note the range of ids."""
    staged = f"{uuid.uuid4().hex}.parquet"
    path = directory / staged
    low, high = [], []
    with storage_errors(path):
        groups = regrouped(batches, group_rows(schema))
        head = next(groups, schema.empty_table())
        with pq.ParquetWriter(path, schema, **_layout(schema, head)) as writer:
            for group in chain([head] if len(head) else [], groups):
                writer.write_table(group, row_group_size=len(group))
                if id_column:
                    extremes = pc.min_max(group.column(id_column)).as_py()
                    low.append(plain_id(extremes["min"]))
                    high.append(plain_id(extremes["max"]))
        _sync(path)
        rows = pq.read_metadata(path).num_rows
        ids = {"id_min": min(low, default=None), "id_max": max(high, default=None)}
        return Part(path=name, staged=staged, rows=rows, bytes=path.stat().st_size, sha256=sha256(path), **ids)


def plain_id(value: Any) -> Any:
    """An id as JSON can say it; bytes as their hexadecimal digits, which sort as they do."""
    return value.hex() if isinstance(value, bytes) else value


def regrouped(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The same rows in the same order, `rows` at a time, the last time fewer."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += len(batch)
        while count >= rows:
            table = pa.Table.from_batches(held)
            yield table.slice(0, rows)
            held, count = table.slice(rows).to_batches(), count - rows
    if count:
        yield pa.Table.from_batches(held)


def group_rows(schema: pa.Schema) -> int:
    """Rows of a row group: so many that it takes GROUP_BYTES uncompressed, ROW_GROUP_ROWS at most."""
    width = sum(_width(field.type) for field in schema)
    return max(min(ROW_GROUP_ROWS, GROUP_BYTES // max(width, 1)), 1)


def _width(kind: pa.DataType) -> int:
    """Bytes of a cell; of a text about."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _width(kind.value_type)
    if pa.types.is_struct(kind):
        return sum(_width(field.type) for field in kind)
    try:
        return -(-int(kind.bit_width) // 8)
    except ValueError:  # no fixed width
        return TEXT_BYTES


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """One of our Parquet files, page checksums verified on every read. Raises DataError if it is damaged."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"damaged: {reason}", str(path), "restore the file, or remove its snapshot and run again"
        ) from error


def standing(root: Path, run_key: str) -> Snapshot | None:
    """The newest snapshot, if this key made it; or an older one by this key, published anew as the newest.

    Going back to an earlier input or model so costs hard links, and `newest` always means: of the latest run.
    """
    newest = latest(root)
    if newest is not None and newest.key == run_key and newest.whole:
        return newest
    known = find(root, run_key)
    if known is None:
        return None
    with attempt(root, run_key) as directory:
        parts = [carried(known, facts, directory) for name in SECTIONS for facts in known.manifest.get(name, ())]
        return publish(root, directory, parts, known.manifest)


def carried(snapshot: Snapshot, facts: Mapping[str, Any], directory: Path) -> Part:
    """A file of an older snapshot as a part of this attempt's, by hard link; `facts` are its manifest's."""
    part = Part(staged=f"{uuid.uuid4().hex}.parquet", **facts)
    with storage_errors(directory):
        os.link(snapshot.directory / part.path, directory / part.staged)
    return part


def publish(root: Path, directory: Path, parts: Sequence[Part], manifest: Mapping[str, Any]) -> Snapshot:
    """Make the parts visible under the next version, at once; `manifest["run_key"]` says what they are.

    If another run with the same key has just come first, its snapshot is the answer. Raises CommitConflict when other
    runs keep taking the next version.
    """
    staged = directory / "snapshot"
    with storage_errors(staged):
        for part in parts:
            (staged / part.path).parent.mkdir(parents=True, exist_ok=True)
            os.rename(directory / part.staged, staged / part.path)
        for _ in range(COMMIT_TRIES):
            version = next_version(root)  # before `latest`: whoever commits after this line makes the rename fail
            newest = latest(root)
            if newest is not None and newest.key == manifest["run_key"] and newest.whole:
                return newest
            facts = {**manifest, "version": version, "previous": _name(newest)}
            if (snapshot := _commit(root, staged, parts, facts)) is not None:
                _point(root, snapshot)
                return snapshot
    raise CommitConflict(f"other runs took {COMMIT_TRIES} versions in a row", str(root), "run again when they are done")


def _name(snapshot: Snapshot | None) -> str | None:
    return snapshot.directory.name if snapshot else None


def _commit(root: Path, staged: Path, parts: Sequence[Part], manifest: Mapping[str, Any]) -> Snapshot | None:
    """Try the next version; None if somebody else took it in the meantime."""
    facts = {**manifest, **{name: [_facts(part) for part in parts if section(part) == name] for name in SECTIONS}}
    (staged / MANIFEST).write_text(json.dumps(facts, indent=1, sort_keys=True))
    for path in (staged / MANIFEST, staged):
        _sync(path)
    target = root / directory_name(manifest["version"])
    try:
        os.rename(staged, target)
    except OSError as error:
        if error.errno in _TAKEN:
            return None
        raise
    _sync(root)
    return Snapshot(target)


def section(part: Part) -> str:
    """Which of a manifest's lists the part belongs to."""
    folder = part.path.rpartition("/")[0]
    return next(name for name, below in SECTIONS.items() if below == folder)


def _facts(part: Part) -> dict[str, Any]:
    """The part as a manifest lists it."""
    return {name: value for name, value in asdict(part).items() if name != "staged"}


def _point(root: Path, snapshot: Snapshot) -> None:
    """Move `_latest.json`, a convenience: the manifests are the truth."""
    pointer = root / f"_latest.{uuid.uuid4().hex}"
    pointer.write_text(json.dumps({"snapshot": snapshot.directory.name, "version": snapshot.version}))
    os.replace(pointer, root / "_latest.json")


def verify_rows(expected: int, parts: Sequence[Part], where: Path) -> None:
    """Raise DataError unless the parts hold exactly the expected rows."""
    rows = sum(part.rows for part in parts)
    if rows != expected:
        raise DataError(f"{rows:,} rows written, {expected:,} expected; nothing was published", str(where))


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _layout(schema: pa.Schema, head: pa.Table) -> dict[str, Any]:
    """Parquet settings: floats as split byte streams, whole numbers as differences, texts that repeat by dictionary."""
    leaves = [leaf for field in schema for leaf in _leaves(field.name, field.type)]
    encodings = {path: code for path, kind in leaves if (code := _encoding(kind)) is not None}
    return {
        "compression": "zstd",
        "compression_level": 1,
        "column_encoding": encodings or None,
        "use_dictionary": [path for path, _ in leaves if path not in encodings and _repeats(head, path)] or False,
        "write_page_checksum": True,
        "write_page_index": True,
    }


def _repeats(head: pa.Table, name: str) -> bool:
    """Whether the column's first cells are worth a dictionary: half of them are there already."""
    if name not in head.schema.names or not len(head):
        return True
    glance = head.column(name)[:GLANCE_ROWS]
    return 2 * int(pc.count_distinct(glance).as_py()) <= len(glance)


def _encoding(kind: pa.DataType) -> str | None:
    """Of the numbers of a type in a page; None for a dictionary."""
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return "BYTE_STREAM_SPLIT"
    return "DELTA_BINARY_PACKED" if pa.types.is_integer(kind) else None


def _leaves(path: str, kind: pa.DataType) -> list[tuple[str, pa.DataType]]:
    if pa.types.is_struct(kind):
        return [leaf for field in kind for leaf in _leaves(f"{path}.{field.name}", field.type)]
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return _leaves(f"{path}.list.element", kind.value_type)
    return [(path, kind)]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make(directory: Path) -> None:
    """With its parents, which another try that ends may be taking away at this moment."""
    for _ in range(MAKE_TRIES):
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            directory.mkdir()
        except (FileNotFoundError, FileExistsError):
            continue
        return
    directory.mkdir(parents=True)


def _remove_empty(*directories: Path) -> None:
    for directory in directories:
        try:
            directory.rmdir()
        except OSError:
            return
