"""Records of delimited text as rows, by pyarrow. Only declared tokens are null.

Cells are converted to the types that are wanted where that can only give what `pipeline.schema` makes of the text. A
window in which a cell cannot be converted, or might come out another way, is read as text, for the schema to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from pipeline.config import Data
from pipeline.sources.file import Block
from pipeline.sources.text import BOM
from pipeline.sources.windows import most_bytes

SHOWN: Final = 200
"""Characters of a ragged row."""


class Parser:
    """Reads records of one file, whose columns are known."""

    def __init__(
        self, names: Sequence[str], data: Data, *, delimiter: str, types: Mapping[str, pa.DataType] | None
    ) -> None:
        """With `types`, columns that they do not name are left out."""
        self.names, self.data, self.delimiter = names, data, delimiter
        self.wanted = [name for name in names if types is None or name in types] or names
        alike = {name: kind for name, kind in (types or {}).items() if converts_alike(kind)}
        self.as_text = self._convert({})
        self.typed = self._convert(alike) if alike.keys() & set(self.wanted) else None
        self.read = csv.ReadOptions(column_names=names, use_threads=False, block_size=most_bytes(data) + 1)

    def parsed(self, window: pa.Buffer, *, first: int, padded: bool) -> Block:
        """The rows of a window, of which `first` precede it in the piece; `padded`: there are blanks around cells."""
        if window.slice(0, min(len(BOM), window.size)).to_pybytes() == BOM:
            window = pa.py_buffer(b"\n" + window.to_pybytes())  # pyarrow leaves one out that begins a text
        if self.typed is not None and not padded:
            try:
                return self._parsed(window, self.typed, first)
            except pa.ArrowInvalid:
                pass  # some cell is not what it should be: as text it can be named
        return self._parsed(window, self.as_text, first)

    def _parsed(self, window: pa.Buffer, convert: csv.ConvertOptions, first: int) -> Block:
        ragged = list[tuple[int, str]]()
        table = csv.read_csv(pa.BufferReader(window), self.read, self._parse(ragged, first), convert)
        (batch,) = table.to_batches() or [_empty(table.schema)]
        return Block(self._trimmed(batch), tuple(ragged))

    def _convert(self, types: Mapping[str, pa.DataType]) -> csv.ConvertOptions:
        return csv.ConvertOptions(
            column_types={name: types.get(name, pa.string()) for name in self.wanted},
            include_columns=self.wanted,
            null_values=self.data.null_tokens,
            strings_can_be_null=True,
            decimal_point=self.data.decimal,
            check_utf8=False,  # done, byte by byte, before
        )

    def _parse(self, ragged: list[tuple[int, str]], first: int) -> csv.ParseOptions:
        """Rows with too many or too few cells are set aside, with their position."""

        def set_aside(row: csv.InvalidRow) -> str:
            ragged.append((first + row.number - 1, row.text[:SHOWN]))
            return "skip"

        return csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=set_aside)

    def _trimmed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not self.data.trim:
            return batch
        tokens = pa.array(self.data.null_tokens, pa.string())
        columns = [_stripped(it, tokens) if pa.types.is_string(it.type) else it for it in batch.columns]
        return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)


def converts_alike(kind: pa.DataType) -> bool:
    """Whether pyarrow converts unpadded text to it as `pipeline.schema` does, or not at all."""
    is_a = pa.types
    return bool(is_a.is_integer(kind) or is_a.is_float32(kind) or is_a.is_float64(kind) or is_a.is_boolean(kind))


def _stripped(column: pa.Array, tokens: pa.Array) -> pa.Array:
    text = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(text, tokens), pa.scalar(None, pa.string()), text)
