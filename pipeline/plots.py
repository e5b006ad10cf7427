"""The report's plots: each a matplotlib figure from plain numbers, with the number that matters in its title."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure

INK, BLUE, RED, GREY = "#222222", "#2b6cb0", "#c0392b", "#b8c0cc"
WORST: Final = 10
CATEGORIES: Final = 12
Numbers = npt.NDArray[Any]


def loss_curves(history: Sequence[Mapping[str, float]], best_epoch: int, score: str) -> Figure:
    """Validation reconstruction and KL by epoch, apart, and the score that the best epoch is chosen by."""
    epochs = [it["epoch"] for it in history]
    figure, (left, right) = _panels(2)
    left.plot(epochs, [-it["log_likelihood"] for it in history], color=BLUE, label="validation -log p(x|z)")
    left.plot(epochs, [-it["score"] for it in history], color=INK, label=f"validation -{score}")
    right.plot(epochs, [it["kl"] for it in history], color=RED, label="validation KL")
    for axes in (left, right):
        axes.axvline(best_epoch, color=GREY, zorder=0, label=f"best epoch, {best_epoch}")
        axes.set(xlabel="epoch", ylabel="nats per row")
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"Best validation {score} {max(it['score'] for it in history):.3f} nats per row", fontsize=10)
    return figure


def pace(rows_per_s: Mapping[int, float], wait_share: Mapping[int, float]) -> Figure:
    """Throughput of training, and the share of its time that it waited for rows, by epoch."""
    figure, (left, right) = _panels(2)
    left.plot(list(rows_per_s), list(rows_per_s.values()), color=BLUE, marker=".")
    left.set(ylabel="rows per second", ylim=(0, None))
    left.yaxis.set_major_formatter("{x:,.0f}")
    right.plot(list(wait_share), [100 * share for share in wait_share.values()], color=RED, marker=".")
    right.set(ylabel="% of the time in wait for rows", ylim=(0, max(1.0, 105 * max(wait_share.values()))))
    for axes in (left, right):
        axes.set(xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    middle, waited = np.median(list(rows_per_s.values())), np.mean(list(wait_share.values()))
    figure.suptitle(
        f"Training at {middle:,.0f} rows per second (median), {waited:.1%} of the time in wait", fontsize=10
    )
    return figure


def latent_use(kl: Sequence[float], variance: Sequence[float], active: int) -> Figure:
    """KL per latent dimension, sorted; dimensions in use are coloured."""
    order = np.argsort(kl)[::-1]
    figure, (axes,) = _panels(1)
    colours = [BLUE if variance[i] > 0.01 else GREY for i in order]
    axes.bar(range(len(kl)), np.asarray(kl)[order], color=colours)
    axes.set_xticks(range(len(kl)), [str(i) for i in order], fontsize=7)
    axes.set(xlabel="latent dimension, by KL", ylabel="KL, nats per row")
    figure.suptitle(f"{active} of {len(kl)} latent dimensions active (blue)", fontsize=10)
    return figure


def scatter(coords: Numbers, names: Sequence[str], colours: Sequence[Any] | None, label: str, *, of: int) -> Figure:
    """The first two coordinates, named, of some of `of` latents, coloured by a column."""
    figure, (axes,) = _panels(1)
    second = coords[:, 1] if coords.shape[1] > 1 else np.zeros(len(coords))
    _points(axes, coords[:, 0], second, colours, label)
    axes.set(xlabel=names[0], ylabel=names[1] if len(names) > 1 else "")
    by = f", by {label}" if colours is not None else ""
    shown = f"{of:,}" if len(coords) == of else f"{len(coords):,} of {of:,}"
    figure.suptitle(f"{shown} latents{by}", fontsize=10)
    return figure


def image_grid(originals: Numbers, reconstructions: Numbers, name: str) -> Figure:
    """Images `[row, height, width]` above their reconstructions."""
    figure, panels = _panels(2 * len(originals), rows=2, size=(1.0 * len(originals), 2.5))
    low, high = float(originals.min()), float(originals.max())
    for axes, image in zip(panels, [*originals, *reconstructions], strict=True):
        axes.imshow(image, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
        axes.set_axis_off()
    error = float(np.sqrt(((originals - reconstructions) ** 2).mean()))
    figure.suptitle(f"{name}: originals above, reconstructions below (RMSE {error:.3g} in its own units)", fontsize=10)
    return figure


def column_errors(errors: Mapping[str, float], spread: Mapping[str, float]) -> Figure:
    """Reconstruction error of the worst columns, as a share of what a constant guess would give."""
    relative = {name: error / spread[name] for name, error in errors.items()}
    worst = sorted(relative, key=lambda name: relative[name])[-WORST:]
    figure, (axes,) = _panels(1)
    axes.barh(worst, [relative[name] for name in worst], color=BLUE)
    axes.axvline(1, color=RED, linewidth=1)
    axes.set(xlabel="error / error of the best constant guess (red: no better)", xlim=(0, None))
    axes.tick_params(axis="y", labelsize=8)
    figure.suptitle(f"Reconstruction on test rows, the worst {len(worst)} of {len(errors)} columns", fontsize=10)
    return figure


def comparison(standings: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Every figure that any model has, as bars; the best of each is coloured."""
    panels: dict[str, tuple[str, Callable[[Sequence[float]], float]]] = {
        "nll": ("held-out NLL, nats per row", min),
        "reconstruction": ("reconstruction error / constant guess", min),
        "linear": ("label from codes, linear", max),
        "knn": ("label from codes, kNN", max),
        "two_sample": ("telling samples from data (0.5 is best)", _most_even),
        "seconds": ("training, s", min),
    }
    shown = {it: panels[it] for it in panels if any(row[it] is not None for row in standings)}
    figure, all_axes = _panels(len(shown), rows=-(-len(shown) // 3), size=(12, 3.4 * -(-len(shown) // 3)))
    for axes, (it, (label, best)) in zip(all_axes, shown.items(), strict=False):
        there = [row for row in standings if row[it] is not None][::-1]
        values = [float(row[it]) for row in there]
        colours = [BLUE if value == best(values) else GREY for value in values]
        names = [row["model"] + (" (at most)" if it == "nll" and "exact" not in row["nll_is"] else "") for row in there]
        bars = axes.barh(names, values, color=colours)
        axes.bar_label(bars, [f"{value:,.3g}" for value in values], fontsize=7, padding=2)
        axes.set_title(label, fontsize=9)
        axes.margins(x=0.15)
        axes.tick_params(axis="y", labelsize=8)
    for axes in all_axes[len(shown) :]:
        axes.set_axis_off()
    figure.suptitle(f"{title} (blue: best)", fontsize=9)
    return figure


def _most_even(shares: Sequence[float]) -> float:
    return min(shares, key=lambda share: abs(share - 0.5))


def _points(axes: Any, x: Numbers, y: Numbers, colours: Sequence[Any] | None, label: str) -> None:
    size = {"s": 5, "alpha": 0.7, "linewidths": 0}
    if colours is None:
        axes.scatter(x, y, color=BLUE, **size)
        return
    cells = np.array(["missing" if it is None else str(it) for it in colours])
    kinds, counts = np.unique(cells, return_counts=True)
    if len(kinds) > CATEGORIES and all(isinstance(it, int | float | None) for it in colours):
        numbers = np.array([np.nan if it is None else float(it) for it in colours])
        axes.figure.colorbar(axes.scatter(x, y, c=numbers, cmap="viridis", **size), ax=axes, label=label)
        return
    common = sorted(kinds[np.argsort(counts)[::-1][:CATEGORIES]])
    colour = {kind: _colour(i, len(common)) for i, kind in enumerate(common)}
    axes.scatter(x, y, color=[colour.get(cell, GREY) for cell in cells], **size)
    for kind in common:
        axes.scatter([], [], color=colour[kind], label=kind[:24], **size)
    axes.legend(frameon=False, fontsize=7, markerscale=3, title=label, title_fontsize=8, loc="best")


def _colour(index: int, of: int) -> Any:
    return colormaps["tab10"](index) if of <= 10 else colormaps["tab20"](index)


def _panels(count: int, *, rows: int = 1, size: tuple[float, float] | None = None) -> tuple[Figure, list[Any]]:
    columns = -(-count // rows)
    figure = Figure(figsize=size or (4.6 * columns + 1, 3.9), layout="constrained", dpi=110)
    return figure, list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
