"""What a latents file holds, and who made it: what a worker is told beside its unit."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import latents
from pipeline.config import Encode
from pipeline.encoding.units import Unit
from pipeline.stores.remote import Location


@dataclass(frozen=True, kw_only=True)
class Output:
    """Plain enough to travel to an actor."""

    directory: Location
    model: str
    model_name: str
    model_digest: str
    id_column: str
    id_secret: bool
    passthrough: tuple[str, ...]
    settings: Encode
    watched: int
    """Rows to encode in all, of which some are watched for drift; 0: none is."""

    def metadata(self, unit: Unit) -> dict[str, str]:
        """Of a file: what the manifest says at length. The same unit is the same file, whichever run made it."""
        facts = {"contract": latents.CONTRACT, "model": self.model_name, "model_digest": self.model_digest}
        return {f"latentpipe.{name}": str(value) for name, value in {**facts, "unit": unit.identity}.items()}
