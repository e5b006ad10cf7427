"""explain: where a row of a snapshot comes from, link by link, back to the row of the source.

    output file <- unit <- model, its run and its preprocessing <- dataset <- source file and row

Only the files are opened whose range of ids can hold the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.parts import opened, plain_id
from pipeline.schema.table import REDACTED
from pipeline.snapshots import Snapshot
from pipeline.stores.remote import Location
from pipeline.trust import ids, shelf, source, units
from pipeline.trust.ids import Place
from pipeline.trust.layout import id_column, secrets
from pipeline.trust.origin import source as origin
from pipeline.trust.origin import stated
from pipeline.trust.source import Facts, cells

PREPROCESSING: Final = "features.json"
PLAIN: Final = ("recon", "model_version")
"""Columns of latents that the chain does not repeat."""
WORST: Final = 3
CUT: Final = 60
CHARACTERS: Final = 160


def explain(location: str | Location, text: str) -> Facts:
    """The chain of the row with this id, as plain facts.

    Raises DataError if there is no snapshot, or no such row: with the ids next to it, or the type that ids are of.
    """
    snapshot = shelf.resolved(location)
    name, kind = _id_field(snapshot)
    if not name:
        raise DataError("its rows have no ids", str(snapshot.directory), "explain a row of latents, or of a dataset")
    wanted = ids.typed(text, kind)
    chain: Facts = {"id": plain_id(wanted), "snapshot": str(snapshot.directory)}
    if _followed(chain, snapshot, name, wanted):
        return chain
    raise DataError(
        f"no row with {name} = {plain_id(wanted)}{_near(snapshot, name, wanted)}",
        str(snapshot.directory),
        f"ids are {kind}",
    )


def lines(chain: Facts) -> list[str]:
    """The chain for a person, the newest link first."""
    return [line for name, link in chain.items() for line in _line(name, link)]


def _followed(chain: Facts, snapshot: Snapshot, name: str, id: Any) -> bool:
    """Note what this snapshot knows of the row, then what those before it know; whether any does."""
    kind = snapshot.manifest["kind"]
    place = _place(snapshot, name, id)
    aside = None if place else _set_aside(snapshot, id)
    if place is not None:
        chain[kind] = {"snapshot": str(snapshot.directory), **_output(snapshot, name, place)}
    elif aside is not None:
        chain["set aside"] = {"snapshot": str(snapshot.directory), **aside}
    if kind == "latents":
        chain |= _made(snapshot, place)
    if kind == "dataset":
        if place is not None:
            chain["source"] = source.found(snapshot, place.file, name, id)
        return place is not None or aside is not None
    before = origin(snapshot)
    if before is None:
        if told := stated(snapshot):
            chain["before"] = f"{told[0]} is gone, or another stands there"
        return place is not None or aside is not None
    known = _followed(chain, before, name, id)
    if known and place is None and aside is None and before.manifest["kind"] in chain:
        aside_too = "or set aside there under ***" if name in (_hidden(snapshot) or ()) else "nor set aside there"
        chain[kind] = f"not in {snapshot.directory}, {aside_too}, though its input has it: `latentpipe verify`"
    return known or place is not None or aside is not None


def _near(snapshot: Snapshot, name: str, id: Any) -> str:
    """The ids next to it, unless they are secret."""
    if name in (_hidden(snapshot) or ()):
        return ""
    near = ids.nearest(snapshot.data, snapshot.manifest["files"], name, id)
    return f"; the next {'is' if len(near) == 1 else 'are'} {' and '.join(map(str, near))}"


def _hidden(snapshot: Snapshot) -> frozenset[str] | None:
    """The columns that it or a snapshot before it calls secret; None if none of them says which are."""
    said: list[frozenset[str] | None] = []
    found: Snapshot | None = snapshot
    while found is not None:
        said.append(secrets(found.manifest))
        found = origin(found)
    known = [it for it in said if it is not None]
    return frozenset().union(*known) if known else None


def _id_field(snapshot: Snapshot) -> tuple[str, pa.DataType]:
    with opened(snapshot.files[0]) as file:
        name = id_column(snapshot.manifest, file.schema_arrow)
        return name, file.schema_arrow.field(name).type if name else pa.null()


def _place(snapshot: Snapshot, name: str, id: Any) -> Place | None:
    parts = ids.can_hold(snapshot.manifest["files"], id)
    places = (it for part in parts for it in ids.rows(snapshot.data / part["path"], name, [id]))
    return next(places, None)


def _set_aside(snapshot: Snapshot, id: Any) -> Facts | None:
    """The quarantine's row of this id, which it holds as text."""
    text = str(plain_id(id))
    wanted = pa.array([text, text[:CUT]])  # a dataset's quarantine cuts it
    for part in snapshot.manifest.get("quarantine", ()):
        with opened(snapshot.data / part["path"]) as file:
            for batch in file.iter_batches():
                if (row := pc.index(pc.is_in(batch.column("id"), value_set=wanted), True).as_py()) >= 0:
                    return {"file": part["path"], **source.plain(batch.slice(row, 1).to_pylist()[0])}
    return None


def _output(snapshot: Snapshot, name: str, place: Place) -> Facts:
    """Where the row lies, and its cells; if nobody says which columns are secret, none that came with the input."""
    hidden = _hidden(snapshot)
    untold = snapshot.manifest.get("passthrough", {}) if hidden is None else ()
    shown = [it for it in place.table.schema.names if it not in (name, *PLAIN, *untold)]
    found = cells(place.table, shown, {it: {"secret": True} for it in hidden or ()})
    for evidence in ("recon_error", "imputed"):
        if isinstance(by_column := found.get(evidence), dict):
            found[evidence] = {it: REDACTED if it in (hidden or ()) else value for it, value in by_column.items()}
    if isinstance(errors := found.pop("recon_error", None), dict):
        found["recon_error"] = _largest(errors)
    return {"file": place.file, "row": place.row, "row_group": place.group, "cells": found}


def _largest(errors: dict[str, Any]) -> dict[str, Any]:
    known = {name: it for name, it in errors.items() if isinstance(it, int | float)}
    return dict(sorted(known.items(), key=lambda it: -it[1])[:WORST])


def _made(snapshot: Snapshot, place: Place | None) -> Facts:
    """The unit that a row of latents was made by, and the model."""
    facts, made = snapshot.manifest, {}
    for unit in facts.get("units", ()):
        if place is not None and place.file in unit["files"]:
            made["unit"] = {"number": unit["number"], "identity": unit["identity"], "inputs": [*units.inputs(unit)]}
    model = {name: facts["model"][name] for name in ("name", "version", "digest", "mlflow_run", "training_key")}
    preprocessing = {"file": PREPROCESSING, "sha256": facts["model"]["files"].get(PREPROCESSING)}
    return {**made, "model": model, "preprocessing": preprocessing}


def _line(name: str, link: Any) -> Iterator[str]:
    """One line for a link, and one more for each fact that is a structure of its own."""
    if not isinstance(link, dict):
        yield f"{name:<14} {link}"
        return
    below = {key: value for key, value in link.items() if isinstance(value, dict | list)}
    plain = [f"{key} {value}" for key, value in link.items() if key not in below and value is not None]
    yield f"{name:<14} {', '.join(plain)}"
    for key, value in below.items():
        items = value.items() if isinstance(value, dict) else ((key, it) for it in value)
        yield from (f"{'':<14}   {item}: {_short(it)}" for item, it in items)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        text = f"[{', '.join(map(_short, value))}]"
    elif isinstance(value, dict):
        text = ", ".join(f"{name} {_short(it)}" for name, it in value.items() if it is not None)
    else:
        text = str(value)
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} ..."
