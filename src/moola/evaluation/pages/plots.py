"""Plots: reliability diagram, confusion matrix, forest plot, without matplotlib's global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from moola.errors import BadInput
from moola.evaluation.calibration import CalibrationBins, calibration_bins
from moola.evaluation.predictions import clean_predictions

Side = Literal["left", "right"]
INK, SOFT, BLUE, RED, PALE = "#1f2933", "#8794a0", "#2b6cb0", "#b5432e", "#d5e3f0"
_DPI = 110


def reliability_figure(
    y: ArrayLike, proba: ArrayLike, title: str, *, per_class: bool = True
) -> Figure:
    """Draw the reliability diagrams of the most probable class and of each class.

    The shaded band is the 95 % range of a perfectly calibrated model at this n, windows taken as
    independent; the histogram below shows the distribution of the predictions.

    Parameters
    ----------
    y, proba
        Labels, shape (n,), and probabilities, shape (n, K).
    title
        Title above the plot.
    per_class
        Whether to draw a diagram for each class.

    Raises
    ------
    BadInput
        On predictions no metric should be computed from.
    """
    labels, matrix = clean_predictions(y, proba)
    num_classes = matrix.shape[1] if per_class else 0
    figure = blank_figure(2.6 * num_classes + 4.0, 4.4)
    ratios = [1.5] + [1.0] * num_classes
    grid = figure.add_gridspec(2, num_classes + 1, width_ratios=ratios, height_ratios=[4, 1])
    for column, class_index in enumerate([None, *range(num_classes)]):
        bins = calibration_bins(labels, matrix, class_index=class_index)
        axes = figure.add_subplot(grid[0, column])
        forecast = matrix.max(axis=1) if class_index is None else matrix[:, class_index]
        _draw_reliability(axes, bins, first=column == 0)
        _draw_histogram(figure.add_subplot(grid[1, column], sharex=axes), forecast)
    figure.suptitle(f"{title} (n = {labels.size})", fontsize=11, color=INK, x=0.01, ha="left")
    return with_fixed_layout(figure)


def confusion_figure(
    y: ArrayLike, proba: ArrayLike, class_names: Sequence[str], title: str
) -> Figure:
    """Draw the confusion matrix with counts, coloured by the share of the true class.

    Parameters
    ----------
    y, proba
        Labels, shape (n,), and probabilities, shape (n, K).
    class_names
        K names.
    title
        Title above the plot.

    Raises
    ------
    BadInput
        On predictions no metric should be computed from, or if there are not K names.
    """
    from sklearn.metrics import confusion_matrix

    labels, matrix = clean_predictions(y, proba)
    num_classes = matrix.shape[1]
    if len(class_names) != num_classes:
        raise BadInput(f"there are {len(class_names)} class names", limit=f"{num_classes}")
    counts = confusion_matrix(labels, matrix.argmax(axis=1), labels=range(num_classes))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.0 * num_classes + 1.9
    figure = blank_figure(side, side)
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    for row, column in np.ndindex(num_classes, num_classes):
        axes.text(
            column,
            row,
            f"{counts[row, column]}\n{share[row, column]:.0%}",
            ha="center",
            va="center",
            fontsize=10,
            color="white" if share[row, column] > 0.55 else INK,
        )
    ticks = range(num_classes)
    axes.set_xticks(ticks, [str(name) for name in class_names], fontsize=9)
    axes.set_yticks(
        ticks, [str(name) for name in class_names], fontsize=9, rotation=90, va="center"
    )
    axes.set_xlabel("answered", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    return with_fixed_layout(figure)


def forest_figure(
    intervals: Mapping[str, Mapping[str, float | None]],
    title: str,
    *,
    better: Side = "left",
    unit: str = "candidate less baseline",
) -> Figure:
    """Draw intervals below each other, with a line at no difference.

    Parameters
    ----------
    intervals
        ``{"estimate", "low", "high"}`` by label, from top to bottom. Without an estimate an entry
        is marked undefined; without ends it is a hollow point.
    title
        Title above the plot.
    better
        The side of 0 on which the candidate is better.
    unit
        Label of the axis.

    Raises
    ------
    BadInput
        If there are no intervals, or `better` is unknown.
    """
    if not intervals:
        raise BadInput("there are no intervals to draw", limit="at least one")
    if better not in get_args(Side):
        raise BadInput(f"better is {better!r}", limit="'left' or 'right'")
    figure = blank_figure(5.4, 0.34 * len(intervals) + 1.3)
    axes = figure.add_subplot()
    axes.axvline(0.0, color=SOFT, linewidth=1)
    for position, interval in enumerate(intervals.values()):
        _draw_interval(axes, position, interval, 1.0 if better == "right" else -1.0)
    axes.set_yticks(range(len(intervals)), list(intervals), fontsize=9)
    axes.set_ylim(len(intervals) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    side = "below" if better == "left" else "above"
    axes.set_xlabel(f"{unit}; {side} 0 the candidate is better", fontsize=8, color=INK)
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    return with_fixed_layout(figure)


def blank_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, with its own canvas."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def with_fixed_layout(figure: Figure) -> Figure:
    """Lay the figure out once; a new layout for each drawing would move everything by a pixel."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def figure_to_png(figure: Figure) -> bytes:
    """Return the figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def figure_to_array(figure: Figure) -> NDArray[np.uint8]:
    """Return the figure as RGB pixels, shape (height, width, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()
    return pixels


def _draw_reliability(axes: Any, bins: CalibrationBins, *, first: bool) -> None:
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--")
    axes.vlines(bins.predicted, bins.band_low, bins.band_high, color=PALE, linewidth=7)
    axes.plot(bins.predicted, bins.observed, color=BLUE, linewidth=1, alpha=0.6)
    inside = [
        low <= observed <= high
        for low, observed, high in zip(bins.band_low, bins.observed, bins.band_high, strict=True)
    ]
    colours = [BLUE if ok else RED for ok in inside]
    axes.scatter(bins.predicted, bins.observed, c=colours, s=22, zorder=3)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.02)
    axes.tick_params(labelsize=8, labelbottom=False)
    axes.spines[["top", "right"]].set_visible(False)
    name = "most probable class" if bins.class_index is None else f"class {bins.class_index}"
    axes.set_title(f"{name}\nECE {bins.ece:.3f}", fontsize=9, color=INK)
    if first:
        axes.set_ylabel("observed share", fontsize=9)


def _draw_histogram(axes: Any, forecast: NDArray[np.float64]) -> None:
    axes.hist(forecast, bins=np.linspace(0, 1, 21), color=SOFT)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1])
    axes.tick_params(labelsize=8)
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("predicted", fontsize=9)


def _draw_interval(
    axes: Any, position: int, interval: Mapping[str, float | None], sign: float
) -> None:
    estimate, low, high = (interval.get(key) for key in ("estimate", "low", "high"))
    if estimate is None:
        axes.text(0.0, position, " undefined", va="center", fontsize=8, color=SOFT)
        return
    if low is None or high is None:
        axes.plot(estimate, position, "o", markersize=6, mfc="none", mec=SOFT)
        return
    worst, best = sorted((sign * low, sign * high))
    colour = BLUE if worst > 0 else RED if best < 0 else INK
    axes.plot([low, high], [position, position], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot(estimate, position, "o", markersize=6, color=colour)
