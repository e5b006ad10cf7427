"""JSON lines: an object on each line; cut at any line end.

Windows in which every line is an object, and every cell of the type that is wanted, are parsed by pyarrow. The others
are read line by line: numbers and truth values as their text, lists as lists of text, a key that is not there as null.
What is no object, or names a key twice, is set aside like a ragged row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa
from pyarrow import json as arrow_json

from pipeline.config import Data
from pipeline.schema.kinds import is_list
from pipeline.sources.bits import after, where, within
from pipeline.sources.file import Block, File, Piece
from pipeline.sources.limits import check_names
from pipeline.sources.parser import SHOWN, converts_alike
from pipeline.sources.quoting import Scan
from pipeline.sources.text import Slice, text
from pipeline.sources.windows import Windows, cut

__all__ = ["blocks", "cut", "names"]
HEAD_BYTES: Final = 64 << 10
OPEN, CLOSE = b"{}"
Types = Mapping[str, pa.DataType]


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


def names(source: pa.NativeFile, file: File, data: Data) -> list[str]:
    """The keys of the first lines."""
    keys: list[str] = []
    for head, _ in Windows(text=text(source, file, data), data=data).all(HEAD_BYTES):
        keys = _by_line(head, None, 0).batch.schema.names
        break
    return keys


def blocks(source: pa.NativeFile, piece: Piece, data: Data, *, types: Types | None) -> Iterator[Block]:
    """The rows of a piece. Without `types`, the columns are the keys of the window's lines."""
    rest, rows = text(source, piece.file, data), 0
    if piece.stop is not None:
        rest = Slice(source, piece.file, start=max(piece.start, rest.at), stop=piece.stop)
    for window, found in Windows(text=rest, data=data).all():
        block = (_at_once(window, types, found) if types else None) or _by_line(window, types, rows)
        if types is None and found.rows > len(block.ragged):
            check_names(block.batch.schema.names, piece.file, data)
        rows += len(block)
        yield block


def _at_once(window: pa.Buffer, types: Types, found: Scan) -> Block | None:
    """The rows of the wanted types, by pyarrow; None if a line is not an object, or a cell not of its type."""
    if not _is_object_a_line(found):
        return None
    schema = pa.schema([(name, _readable(kind)) for name, kind in types.items()])
    read = arrow_json.ReadOptions(use_threads=False, block_size=window.size + 1)
    parse = arrow_json.ParseOptions(
        explicit_schema=schema, newlines_in_values=False, unexpected_field_behavior="ignore"
    )
    try:
        batches = arrow_json.read_json(pa.BufferReader(window), read, parse).to_batches()
    except pa.ArrowInvalid:
        return None
    return Block(batches[0]) if len(batches) == 1 and len(batches[0]) == found.rows else None


def _is_object_a_line(found: Scan) -> bool:
    """Whether every line begins with `{` and ends with `}`. Then as many objects as lines are one each."""
    begins = after(found.ends, first=True) & ~found.ends & ~where(found.text, OPEN)
    ends = found.record_ends & ~after(where(found.text, CLOSE), first=False)
    last_byte = found.text[found.end - 1 : found.end].tobytes()
    return not within(begins, len(found.text)).any() and not ends.any() and last_byte in (b"}", b"\n", b"\r")


def _readable(kind: pa.DataType) -> pa.DataType:
    """The type to have pyarrow read, which `pipeline.schema` makes the wanted one of."""
    if is_list(kind):
        return pa.list_(_readable(kind.value_type))
    return kind if converts_alike(kind) else pa.string()


def _by_line(window: pa.Buffer, types: Types | None, first: int) -> Block:
    """Every line alone: rows as text and, set aside, what is none."""
    lines = [line for line in window.to_pybytes().decode().replace("\r", "\n").split("\n") if line]
    rows, ragged = list[dict[str, Any]](), list[tuple[int, str]]()
    for number, line in enumerate(lines, start=first):
        try:
            rows.append(_row(line))
        except (ValueError, RecursionError):
            ragged.append((number, line[:SHOWN]))
    wanted: Mapping[str, pa.DataType | None] = (
        dict.fromkeys(key for row in rows for key in row) if types is None else types
    )
    columns = {name: _column([row.get(name) for row in rows], kind) for name, kind in wanted.items()}
    return Block(pa.RecordBatch.from_pydict(columns), tuple(ragged))


def _row(line: str) -> dict[str, Any]:
    """Its cells: null, text, or flat lists. Raises ValueError or RecursionError for what is no object."""
    row = json.loads(
        line, parse_int=_Number, parse_float=_Number, parse_constant=_Number, object_pairs_hook=_unambiguous
    )
    if not isinstance(row, dict):
        raise ValueError("not an object")
    if "\\u" in line:
        _shown(row).encode()  # half a surrogate pair is no text
    return {key: cell if isinstance(cell, str) or _is_flat(cell) else _plain(cell) for key, cell in row.items()}


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _is_flat(cell: Any) -> bool:
    return isinstance(cell, list) and not any(isinstance(it, list | dict) for it in cell)


def _column(cells: list[Any], kind: pa.DataType | None) -> pa.Array:
    """Text; or lists of text, if such are wanted, or nothing is and there is nothing else."""
    if kind is None:
        vectors = any(isinstance(it, list) for it in cells) and not any(isinstance(it, str) for it in cells)
    else:
        vectors = is_list(kind)
    if not vectors:
        return pa.array([_shown(it) if isinstance(it, list) else it for it in cells], pa.string())
    wrong = 2 if getattr(kind, "list_size", 0) == 1 else 1  # the length of what stands for a cell that is no list
    cells = [[it] * wrong if isinstance(it, str) else it for it in cells]
    return pa.array([cell and list(map(_plain, cell)) for cell in cells], pa.list_(pa.string()))


def _plain(cell: Any) -> str | None:
    """Text as it is, all else as JSON."""
    return cell if cell is None or isinstance(cell, str) else _shown(cell)


def _shown(cell: Any) -> str:
    """As JSON, numbers as they were written."""
    if isinstance(cell, _Number):
        return str(cell)
    if isinstance(cell, dict):
        return "{" + ", ".join(f"{_shown(key)}: {_shown(it)}" for key, it in cell.items()) + "}"
    if isinstance(cell, list):
        return "[" + ", ".join(map(_shown, cell)) + "]"
    return json.dumps(cell, ensure_ascii=False)
