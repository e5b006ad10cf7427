"""agree: the columns that a run is held to: those it declares or, where it declares none, its dataset's contract.

The first run without columns infers them from all rows of the source and writes the contract; later ones keep it.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Final

from pipeline import contract
from pipeline.config import RunConfig
from pipeline.disk import storage_errors
from pipeline.progress import Stage
from pipeline.survey import modelled, surveyed

FILE: Final = "contract.toml"


def agree(config: RunConfig) -> RunConfig:
    """The run with its columns. Raises DataError if none are declared and one that is found is of no use as it is."""
    if config.columns:
        return config
    path = config.root / "datasets" / config.name / FILE
    if not path.exists():
        with Stage("contract") as stage:
            survey = surveyed(config.data, workspace=config.root)
            columns = modelled(survey.columns(), where=config.data.uri)
            _put(path, contract.text(config.name, columns, survey.remarks()))
            stage.update(f"written to {path}")
    return replace(config, columns=contract.read(path))


def _put(path: Path, text: str) -> None:
    """Write the file unless another run has just done so."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
