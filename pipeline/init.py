"""init: look at a whole table, and write the run's TOML: its format, its columns, a likelihood each.

What is found here is declared there, once; `ingest` never guesses again.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import sources
from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.schema import fits, type_name
from vae.config import LikelihoodName

SNIFFED_BYTES: Final = 1 << 20
NULL_TOKENS: Final = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "-")
DELIMITERS: Final = ",;\t|"
TEXT_TYPES: Final = (pa.int64(), pa.float64(), pa.bool_())
MAX_CATEGORIES: Final = 1000
COUNTED: Final = 1_000_000
LEADING_ZERO: Final = r"^[+-]?0\d"
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def init(uri: str, *, name: str) -> str:
    """The text of a run's TOML for this table. Raises DataError if it cannot be read or holds no rows."""
    data = _sniffed(Data(uri=uri))
    columns, rows = _surveyed(data)
    if rows == 0:
        raise DataError("no rows", uri)
    _choose_id(columns, rows)
    data = replace(data, nan_is_missing=any(column.nan for column in columns.values()))
    return _toml(name, data, list(columns.values()), rows)


@dataclass
class _Survey:
    """What is known of a column after some batches."""

    name: str
    type: pa.DataType | None = None
    nulls: int = 0
    distinct: set[Any] | None = field(default_factory=set)
    """None for vectors, and once there are more than COUNTED."""
    low: Any = None
    high: Any = None
    unique: bool = True
    nan: bool = False
    role: str = ""

    def add(self, array: pa.Array) -> None:
        array = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
        found, array = array.type, array.cast(pa.float32()) if pa.types.is_float16(array.type) else array
        present = array.drop_null()
        self.nulls += len(array) - len(present)
        if not len(present):
            return
        self.type = _narrowest(present, self.type) if pa.types.is_string(found) else found
        if pa.types.is_nested(array.type):
            self.distinct, self.unique = None, False
            return
        values = pc.unique(present).to_pylist()
        if self.distinct is not None:
            self.unique = self.unique and len(values) == len(present) and self.distinct.isdisjoint(values)
            self.distinct |= set(values)
            if len(self.distinct) > COUNTED:
                self.distinct = None
        self.nan = self.nan or (pa.types.is_floating(present.type) and pc.any(pc.is_nan(present)).as_py())
        self._range(present)

    def _range(self, present: pa.Array) -> None:
        if self.type is not None and (pa.types.is_integer(self.type) or pa.types.is_floating(self.type)):
            extremes = pc.min_max(present.cast(pa.float64(), safe=False)).as_py()
            self.low = min(extremes["min"], self.low if self.low is not None else extremes["min"])
            self.high = max(extremes["max"], self.high if self.high is not None else extremes["max"])

    @property
    def known(self) -> str | None:
        """The type's name in TOML, if it has one."""
        return type_name(self.type) if self.type is not None else None

    @property
    def constant(self) -> bool:
        return self.distinct is not None and len(self.distinct) == 1

    @property
    def likelihood(self) -> LikelihoodName | None:
        """The distribution to begin with; None for a column that cannot be modelled."""
        if self.known is None or self.constant:
            return None
        if self.known == "bool" or (self.distinct is not None and self.distinct <= {0, 1, "0", "1"}):
            return "bernoulli"
        if self.known == "string":
            few = self.distinct is not None and len(self.distinct) <= MAX_CATEGORIES
            return "categorical" if few else None
        return "gaussian"

    def line(self) -> str:
        """The column's line under [columns]."""
        settings: dict[str, Any] = {"type": self.known or str(self.type or "null")}
        if self.role == "id":
            settings["role"] = "id"
        elif self.likelihood is not None:
            settings["likelihood"] = self.likelihood
        else:
            settings["role"] = "passthrough" if self.known and not self.constant else "ignore"
        if (self.nulls or self.nan) and settings.get("role") != "id":
            settings["nullable"] = True
        body = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items())
        key = (
            self.name
            if _BARE.fullmatch(self.name)
            else json.dumps(self.name, ensure_ascii=False).replace("\x7f", "\\u007f")
        )
        return f"{key} = {{ {body} }}  # {self.remark()}"

    def remark(self) -> str:
        """What was seen, for the comment."""
        if self.type is None:
            return "no value at all"
        seen = [] if self.distinct is None else [f"{len(self.distinct):,} distinct"]
        if self.low is not None:
            seen.insert(0, f"{self.low:g} .. {self.high:g}")
        if self.nulls:
            seen.append(f"{self.nulls:,} missing")
        if self.constant:
            seen.append("constant")
        if self.known is None:
            seen.append("this type cannot be modelled")
        return ", ".join(seen) or "vectors"


def _narrowest(present: pa.Array, so_far: pa.DataType | None) -> pa.DataType:
    """The first of int64, float64, bool that holds all text seen so far; string otherwise."""
    begun = so_far is None
    if pc.any(pc.match_substring_regex(present, LEADING_ZERO)).as_py():
        return pa.string()  # 01234 is a code, not a number
    for kind in TEXT_TYPES:
        begun = begun or kind.equals(so_far)
        if begun and fits(present, kind):
            return kind
    return pa.string()


def _surveyed(data: Data) -> tuple[dict[str, _Survey], int]:
    columns: dict[str, _Survey] = {}
    rows = 0
    for path in sources.files(data, workspace=Path("workspace").absolute()):
        for block in sources.blocks(path, data):
            rows += len(block.batch)
            for name in block.batch.schema.names:
                columns.setdefault(name, _Survey(name)).add(block.batch.column(name))
    return columns, rows


def _choose_id(columns: dict[str, _Survey], rows: int) -> None:
    """A column named like an id that names every row once becomes the id."""
    for column in columns.values():
        named = re.fullmatch(r"(.*_)?(id|uuid|key)", column.name.lower())
        unique = column.distinct is not None and column.unique and len(column.distinct) == rows
        if named and unique and column.known in ("string", "int64", "int32"):
            column.role = "id"
            return


def _sniffed(data: Data) -> Data:
    """How the first file's text is to be read; other formats describe themselves."""
    path = sources.files(data, workspace=Path("workspace").absolute())[0]
    if sources.format_of(path, data) not in ("csv", "tsv"):
        return data
    with pa.input_stream(str(path), compression="detect") as stream:
        text = stream.read(SNIFFED_BYTES).decode("utf-8-sig", errors="replace")
    if "\n" in text:
        text = text[: text.rindex("\n") + 1]
    delimiter = _delimiter(text, sources.format_of(path, data))
    csv.field_size_limit(max(csv.field_size_limit(), SNIFFED_BYTES))
    rows = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=delimiter) if row]
    if not rows:
        return data
    trim = any(cell != cell.strip() for row in rows for cell in row)
    header = _has_header(rows)
    names = () if header else tuple(f"column_{number}" for number in range(1, len(rows[0]) + 1))
    data = replace(data, delimiter=delimiter, header=header, names=names, trim=trim)
    return replace(data, null_tokens=_null_tokens(data, path))


def _delimiter(text: str, kind: str) -> str:
    if kind == "tsv":
        return "\t"
    try:
        return csv.Sniffer().sniff(text[:65_536], DELIMITERS).delimiter
    except csv.Error:
        return ","


def _has_header(rows: list[list[str]]) -> bool:
    """Names are all there, all different, and no numbers."""
    first = [cell.strip() for cell in rows[0]]
    return all(first) and len(set(first)) == len(first) and not any(map(_is_number, first))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _null_tokens(data: Data, path: Path) -> tuple[str, ...]:
    """The usual words for `missing` that occur as whole cells."""
    plain = replace(data, null_tokens=())
    seen: set[str] = set()
    for block in sources.blocks(path, plain):
        for column in block.batch.columns:
            found = pc.unique(column.filter(pc.is_in(column, pa.array(NULL_TOKENS)))).to_pylist()
            seen.update(found)
    return tuple(token for token in NULL_TOKENS if token in seen or token == "")


def default_name(uri: str) -> str:
    """A run's name from its table's."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(uri.removeprefix("sklearn:")).name.split(".")[0]).strip("-_")
    return stem or "table"


def _toml(name: str, data: Data, columns: list[_Survey], rows: int) -> str:
    defaults = asdict(Data(uri=data.uri))
    told = {key: value for key, value in asdict(data).items() if key == "uri" or value != defaults[key]}
    reading = "\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in told.items())
    lines = "\n".join(column.line() for column in columns)
    anonymous = "" if any(column.role == "id" for column in columns) else ANONYMOUS
    return TEMPLATE.format(name=name, reading=reading, rows=f"{rows:,}", columns=lines, anonymous=anonymous)


ANONYMOUS: Final = """# No column names the rows; `row_id`, the running number, will. If one does, give it role = "id".
"""
TEMPLATE: Final = """\
# latentpipe run FILE        does everything below; latentpipe plan FILE shows what that is.
name = "{name}"  # names the dataset, the model and the latents
workspace = "workspace"  # everything is written here

[data]
{reading}
# on_bad_row = "quarantine"  # set rows aside that break the contract, instead of stopping
# quarantine_limit = 0.01    # ... up to this share

[columns]                    # as found in all {rows} rows
# likelihood  gaussian, student_t, mixture: real values | log_normal: positive | poisson, negative_binomial: counts
#             bernoulli: two values | categorical: categories | ordinal: ranks | see README.md for all twelve
# role        passthrough: copied beside the latents, not modelled | ignore: dropped | id: names the row
{anonymous}{columns}

[model]
latent = 8                   # dimensions of the latent code
hidden = [128, 128]          # the encoder's hidden layers; the decoder mirrors them

[train]
epochs = 50
patience = 10                # stop after so many epochs without a better validation bound
batch_rows = 256
learning_rate = 1e-3
num_workers = 2              # Ray Train workers
# use_gpu = true             # one GPU per worker

# [objective]                # the ELBO, unless:
# bound = "iwae"             # importance-weighted, tighter
# draws = 5
# noise = "masking"          # denoising
# noise_level = 0.25

[encode]
num_workers = 2              # Ray Data actors

[report]
# colour_by = ""             # column that colours the scatter plot
"""
