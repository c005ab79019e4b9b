"""The windows with the largest disagreement of two models, and their candlestick plots."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from moola.errors import BadInput
from moola.evaluation.pages.plots import BLUE, INK, RED, SOFT, blank_figure


def most_disagreed(
    first: ArrayLike, second: ArrayLike, *, num: int, apart: int
) -> NDArray[np.int64]:
    """Return the windows on which two models differ most, in descending order.

    Parameters
    ----------
    first, second
        Probabilities of the same windows in time order, shape (n, K).
    num
        Maximum number of windows.
    apart
        Minimum distance of two returned windows, since neighbours show the same bars.

    Raises
    ------
    BadInput
        If the shapes differ, or `num` or `apart` is below 1.
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != two.shape or one.ndim != 2:
        raise BadInput(f"probabilities have shapes {one.shape} and {two.shape}", limit="one (n, K)")
    if num < 1 or apart < 1:
        raise BadInput(f"num is {num}, apart is {apart}", limit="both at least 1")
    distance = 0.5 * np.abs(one - two).sum(axis=1)
    chosen: list[int] = []
    for row in np.argsort(-distance, kind="stable"):
        if all(abs(int(row) - other) >= apart for other in chosen):
            chosen.append(int(row))
        if len(chosen) == num:
            break
    return np.asarray(chosen, dtype=np.int64)


def candles_figure(window_TC: ArrayLike, title: str) -> Figure:
    """Draw one OHLC window as candles: body from open to close, wick from low to high.

    Parameters
    ----------
    window_TC
        Shape (T, 4), any units.
    title
        Title above the plot.

    Raises
    ------
    BadInput
        If the window's shape is not (T, 4).
    """
    bars = np.asarray(window_TC, dtype=float)
    if bars.ndim != 2 or bars.shape[1] != 4:
        raise BadInput(f"the window has shape {bars.shape}", limit="(T, 4): open, high, low, close")
    open_, high, low, close = bars.T
    figure = blank_figure(4.2, 2.4)
    axes = figure.add_subplot()
    x = np.arange(len(bars))
    colours = np.where(close >= open_, BLUE, RED)
    axes.vlines(x, low, high, color=SOFT, linewidth=0.8)
    flat = 0.002 * (high.max() - low.min())
    axes.bar(
        x,
        np.maximum(np.abs(close - open_), flat),
        bottom=np.minimum(open_, close),
        width=0.7,
        color=colours,
    )
    axes.set_xlim(-1, len(bars))
    axes.set_xticks([])
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    return figure
