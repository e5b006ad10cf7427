"""The run's configuration: every key with a default, bounds and a meaning.

The same dataclasses validate a TOML file (`runfile`) and a Prefect flow's parameters, and document the flow's form.
"""

from pipeline.config.codes import EVIDENCE, Drift, Encode, Reduce, Report
from pipeline.config.models import Compare, Range, Train, Tune
from pipeline.config.places import Cluster, Storage, Tracking
from pipeline.config.rows import Data, Ingest
from pipeline.config.run import RESERVED, ROW_ID, RunConfig, Settings

__all__ = [
    "EVIDENCE",
    "RESERVED",
    "ROW_ID",
    "Cluster",
    "Compare",
    "Data",
    "Drift",
    "Encode",
    "Ingest",
    "Range",
    "Reduce",
    "Report",
    "RunConfig",
    "Settings",
    "Storage",
    "Tracking",
    "Train",
    "Tune",
]
