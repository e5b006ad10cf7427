"""init: look at a whole table, and write the run's TOML: its format, its columns, a likelihood each.

What is found here is declared there, once; `ingest` never guesses again.
"""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from pipeline import toml
from pipeline.columns import ColumnConfig
from pipeline.config import Data
from pipeline.errors import DataError
from pipeline.survey import Survey, sniffed, surveyed


def init(uri: str, *, name: str) -> str:
    """The text of a run's TOML for this table. Raises DataError if it cannot be read or holds no rows."""
    data = sniffed(Data(uri=uri))
    survey = surveyed(data)
    if survey.rows == 0:
        raise DataError("no rows", uri)
    return _toml(name, replace(data, nan_is_missing=survey.nan), survey)


def default_name(uri: str) -> str:
    """A run's name from its table's."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(uri.removeprefix("sklearn:")).name.split(".")[0]).strip("-_")
    return stem or "table"


def _toml(name: str, data: Data, survey: Survey) -> str:
    defaults = asdict(Data(uri=data.uri))
    told = {key: value for key, value in asdict(data).items() if key == "uri" or value != defaults[key]}
    reading = "\n".join(f"{key} = {toml.value(value)}" for key, value in told.items())
    columns, remarks = survey.columns(), survey.remarks()
    lines = "\n".join(_line(name, column, remarks[name]) for name, column in columns.items())
    anonymous = "" if any(column.role == "id" for column in columns.values()) else ANONYMOUS
    return TEMPLATE.format(name=name, reading=reading, rows=f"{survey.rows:,}", columns=lines, anonymous=anonymous)


def _line(name: str, column: ColumnConfig, remark: str) -> str:
    """A column on one line: its categories are the contract's to list."""
    told = {name: value for name, value in column.told().items() if name != "categories"}
    body = ", ".join(f"{key} = {toml.value(value)}" for key, value in told.items())
    return f"{toml.key(name)} = {{ {body} }}  {toml.comment(remark)}"


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
