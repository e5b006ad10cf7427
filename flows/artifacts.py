"""What a run leaves on its page in the Prefect UI: a table of figures, the plots, a link to the snapshot."""

from __future__ import annotations

from pathlib import Path

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from pipeline.config import RunConfig
from pipeline.records import Encoded, Reported
from pipeline.report import data_uri
from pipeline.stores.remote import uri


def publish(config: RunConfig, encoded: Encoded, reported: Reported) -> None:
    """Create the three artefacts of a report. Small plots are inlined: a UI elsewhere cannot read our disk."""
    key = config.name.lower().replace("_", "-").replace(".", "-")
    rows = [{"figure": name, "value": value} for name, value in reported.figures.items()]
    create_table_artifact(table=rows, key=f"{key}-figures", description=f"Figures of {encoded.model}")
    plots = "\n\n".join(f"![{Path(path).stem}]({data_uri(Path(path))})" for path in reported.plots)
    create_markdown_artifact(markdown=plots, key=f"{key}-plots", description=f"Plots of {encoded.model}")
    link = uri(encoded.snapshot)
    create_link_artifact(link=link, key=f"{key}-latents", description=f"{encoded.rows:,} latents by {encoded.model}")
