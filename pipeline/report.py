"""report: what a run found, as one self-contained HTML page; its plots as PNG and its figures as JSON beside it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from pipeline import drift, latents, plots
from pipeline.config import RunConfig
from pipeline.disk import storage_errors
from pipeline.features import Features
from pipeline.progress import Stage
from pipeline.records import Encoded, Reduced, Reported
from pipeline.snapshots import Snapshot
from pipeline.stores.remote import Location, located
from pipeline.tracking import server
from pipeline.training.worker import STORY
from vae.evaluate import Evaluation

POINTS: Final = 20_000
IMAGES: Final = 10
LISTED: Final = 40
"""Of what is watched, in a table."""
STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;max-width:960px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.1em;margin-top:2em}img{max-width:100%}
table{border-collapse:collapse}td,th{padding:.15em 1em .15em 0;text-align:left;vertical-align:top}
td{font-variant-numeric:tabular-nums;overflow-wrap:anywhere}th{font-weight:600;color:#555}code{font-size:.9em}
"""


def report(config: RunConfig, encoded: Encoded, reduced: Reduced) -> Reported:
    """Write the page for these latents: the model's figures, its training, its latents and its reconstructions."""
    with Stage("report") as stage:
        source = Snapshot.at(encoded.snapshot)
        model = source.manifest["model"]
        files = config.root / "models" / model["digest"][:16]
        story = json.loads((files / STORY).read_text())
        evaluation = story["evaluation"]
        directory = config.root / "reports" / source.manifest["run_key"][:16]
        with storage_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            figures = {
                "training": plots.loss_curves(
                    story["history"], story["best_epoch"], config.objective.score(config.model)
                ),
                **_pace(config, model["mlflow_run"]),
                "latent-use": plots.latent_use(
                    evaluation["kl_per_latent"], evaluation["variance_per_latent"], evaluation["active_units"]
                ),
                "latents": _scatter(config, encoded, reduced),
                **_reconstructions(config, source, files, evaluation),
            }
            images = [_save(figure, directory / f"{name}.png") for name, figure in figures.items()]
            table = _figures(encoded, reduced, story, source)
            (directory / "figures.json").write_text(json.dumps({"figures": table, "evaluation": evaluation}, indent=1))
            page = directory / "index.html"
            page.write_text(_page(config.name, table, evaluation, images, _signals(source)), encoding="utf-8")
        server.log_files(config, model["mlflow_run"], directory, folder="report")
        stage.update(str(page))
        return Reported(page=str(page), plots=tuple(map(str, images)), figures=table)


def _pace(config: RunConfig, run_id: str) -> dict[str, Figure]:
    """How fast the training was, by its MLflow run; nothing where that does not say."""
    rows, waits = (server.history(config, run_id, name) for name in ("rows_per_s", "wait_share"))
    return {"pace": plots.pace(rows, waits)} if rows and waits else {}


def _reducer(reduced: Reduced) -> str:
    """Which plots this page's compares with."""
    if reduced.applied:
        return f"the {reduced.method} fitted on {reduced.fitted_on}: comparable with its plots"
    return f"a {reduced.method} fitted on these latents: the model's first, or asked for; compares with no older plot"


def _signals(source: Snapshot) -> str:
    """Every watched thing, what moved first."""
    found = (source.manifest.get("drift") or {"signals": []})["signals"]
    rows = [
        (f"{it['of']}: {it['name']}", it["what"], f"{it['value']:.4g}", f"{it['threshold']:.4g}", "moved" * it["moved"])
        for it in found[:LISTED]
    ]
    if not rows:
        return ""
    told = (
        "Against the training rows: distances in mean distances of theirs from the median, or shares of cells. Below "
        "the threshold lies what chance does, and what is too small to matter."
    )
    more = f"<p>{len(found) - LISTED:,} more, nearer to nought.</p>" if len(found) > LISTED else ""
    return f"<h2>Drift</h2><p>{told}</p>{_table([('', 'what', 'value', 'threshold', ''), *rows])}{more}"


def _figures(encoded: Encoded, reduced: Reduced, story: Mapping[str, Any], source: Snapshot) -> dict[str, str]:
    judged = Evaluation.from_plain(story["evaluation"])
    return {
        "model": encoded.model,
        "rows to train, validate, test": ", ".join(f"{rows:,}" for rows in story["rows"].values()),
        "best epoch": f"{story['best_epoch']} of {story['epoch']}",
        **_nats(judged),
        "active latent dimensions": f"{judged.active_units} of {encoded.latent}",
        "verdict": judged.verdict,
        "rows encoded": f"{encoded.rows:,}",
        "latents": encoded.snapshot,
        "latents, bytes": f"{encoded.bytes:,} in {encoded.files} files",
        "coordinates": reduced.snapshot,
        "coordinates by": _reducer(reduced),
        "variance on the first components": ", ".join(f"{share:.1%}" for share in reduced.explained),
        "drift": drift.told(source.manifest.get("drift")),
    }


def _nats(judged: Evaluation) -> dict[str, str]:
    """What the test rows cost, nats per row."""
    fit = {"reconstruction, E log p(x|z)": f"{judged.log_likelihood:.4f}"}
    if judged.compatibility is not None:
        worst = max(judged.compatibility, key=judged.compatibility.__getitem__)
        fit["encoder-decoder compatibility gap"] = f"{judged.compatibility[worst]:.3f} at worst ({worst}); 0 is best"
    if judged.elbo is None:
        return fit
    found = {"test ELBO, nats per row": f"{judged.elbo:.4f}", **fit, "KL(q(z|x) || p(z))": f"{judged.kl:.4f}"}
    if judged.nll is not None:
        drawn = f"{judged.importance_samples} importance samples, seed {judged.seed}"
        found["test NLL, -log p(x)"] = f"{judged.nll:.4f} by {drawn}"
    if judged.mutual_information is not None:
        parts = f"at least {judged.mutual_information:.3f} + at most {judged.prior_gap:.3f}"
        found["KL = information of the codes + gap to the prior"] = f"{parts}, by {judged.informed_rows:,} rows"
    if judged.gain is not None:
        found[f"nats per row over {judged.rival}"] = f"{judged.gain:.4f}"
    return found


def _scatter(config: RunConfig, encoded: Encoded, reduced: Reduced) -> Figure:
    """At most POINTS rows, evenly spaced; latents and coordinates lie in the same files in the same order."""
    step = -(-encoded.rows // POINTS)
    coordinates = Snapshot.at(reduced.snapshot)
    coords = np.concatenate([_every(path, "coords", step) for path in coordinates.files])
    colours = _colours(config, encoded, step)
    return plots.scatter(coords, _axes(reduced), colours, config.report.colour_by, of=encoded.rows)


def _axes(reduced: Reduced) -> list[str]:
    """What the coordinates are called."""
    if reduced.method == "umap":
        return [f"UMAP {number + 1}" for number in range(reduced.dims)]
    return [f"PC {number + 1} ({share:.0%})" for number, share in enumerate(reduced.explained)]


def _every(path: Location, column: str, step: int) -> npt.NDArray[np.float32]:
    vectors = latents.open_file(path).to_table(columns=[column]).column(0).combine_chunks()
    matrix: npt.NDArray[np.float32] = vectors.flatten().to_numpy().reshape(len(vectors), -1)[::step]
    return matrix


def _colours(config: RunConfig, encoded: Encoded, step: int) -> list[Any] | None:
    name = config.report.colour_by
    if not name:
        return None
    source = Snapshot.at(encoded.snapshot)
    files = source.files
    if name not in source.manifest["passthrough"]:
        files = _originals(source)
    column = [name] if files == source.files else [name, source.manifest["id"]]
    tables = [latents.open_file(path).to_table(columns=column) for path in files]
    ordered = (it.sort_by(source.manifest["id"]) if len(column) == 2 else it for it in tables)
    return [cell for table in ordered for cell in table.column(name).to_pylist()[::step]]


def _originals(source: Snapshot) -> list[Location]:
    """The dataset's files, of the same names and rows as the latents'."""
    dataset = located(source.manifest["input"]["snapshot"])
    return [dataset / path.name for path in source.files]


def _reconstructions(
    config: RunConfig, source: Snapshot, model: Path, evaluation: Mapping[str, Any]
) -> dict[str, Figure]:
    """A grid for each image column; error bars for the other columns, where there are any."""
    found: dict[str, Figure] = {}
    images = {name: it for name, it in config.role("feature").items() if it.shape and it.shape[2:] in ((), (1,), (3,))}
    if "recon" in latents.read(source.directory).schema.names:
        for name, column in images.items():
            found[f"reconstruction-{len(found)}"] = _grid(source, name, column.shape)
    spread = {it.name: it.spread for it in Features.load(model).columns if it.name not in images}
    all_errors = evaluation["error_per_column"]
    errors = {name: all_errors[name] for name in spread if spread[name] > 0 and all_errors[name] is not None}
    if errors:
        found["reconstruction-errors"] = plots.column_errors(errors, spread)
    return found


def _grid(source: Snapshot, name: str, shape: Sequence[int]) -> Figure:
    id_column, latents_file = source.manifest["id"], source.files[0]
    coded = latents.open_file(latents_file).head(IMAGES, columns=[id_column, "recon"])
    original = latents.open_file(_originals(source)[0]).to_table(columns=[id_column, name])
    order = pc.index_in(coded.column(id_column), original.column(id_column))
    recon = pc.struct_field(coded.column("recon"), name)
    return plots.image_grid(_images(original.column(name).take(order), shape), _images(recon, shape), name)


def _images(column: pa.ChunkedArray, shape: Sequence[int]) -> npt.NDArray[np.float64]:
    flat = column.combine_chunks().flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
    images: npt.NDArray[np.float64] = flat.reshape(-1, *(shape[:2] if shape[2:] == (1,) else shape))
    return images


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path


def _page(
    name: str, table: Mapping[str, str], evaluation: Mapping[str, Any], files: Sequence[Path], signals: str
) -> str:
    """The page; `signals` is HTML."""
    images = "".join(f'<p><img alt="{html.escape(it.stem)}" src="{data_uri(it)}"></p>' for it in files)
    nats = evaluation["log_likelihood_per_column"]
    columns = [
        (name, "nothing observed" if error is None else f"{error:.4g}", f"{nats[name]:.4f}")
        for name, error in evaluation["error_per_column"].items()
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(name)}: latents</title>"
        f"<style>{STYLE}</style><h1>{html.escape(name)}: latent codes</h1>{_table(table.items())}"
        f"<h2>Plots</h2>{images}{signals}<h2>Columns, on test rows</h2>"
        "<p>Reconstruction error (RMSE in its units, or the share of wrong cells); log p(x|z), nats per row.</p>"
        f"{_table(columns)}</html>"
    )


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows of a name and cells; all text is escaped."""
    cells = (f"<tr><th>{html.escape(name)}" + "".join(f"<td>{html.escape(it)}" for it in rest) for name, *rest in rows)
    return f"<table>{''.join(cells)}</table>"


def data_uri(path: Path) -> str:
    """A PNG, inlined."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
