"""Labels: what happens in the bars after a window."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from moola.config.data import WindowRecipe
from moola.data.bars import Bars

CLASS_NAMES = {
    "expansion": ("consolidation", "expansion"),
    "expansion_direction": ("consolidation", "retracement", "expansion"),
}


def make_labels(
    bars: Bars, starts: NDArray[np.int64], recipe: WindowRecipe
) -> NDArray[np.int64]:
    """Return the label of each window, shape (n,), by the rule that `recipe.label` names."""
    expands = _expands(bars, starts, recipe)
    if recipe.label == "expansion":
        return expands.astype(np.int64)
    along = _runs_along_trend(bars, starts, recipe)
    return np.where(expands, np.where(along, 2, 1), 0).astype(np.int64)


def stretch_ranges(bars: Bars, num_bars: int) -> NDArray[np.float64]:
    """Return highest high less lowest low of every `num_bars` bars, shape (N - num_bars + 1,)."""
    high = sliding_window_view(bars.ohlc[:, 1], num_bars).max(axis=1)
    low = sliding_window_view(bars.ohlc[:, 2], num_bars).min(axis=1)
    return np.asarray(high - low)


def _expands(bars: Bars, starts: NDArray[np.int64], recipe: WindowRecipe) -> NDArray[np.bool_]:
    """Whether the next H bars range wider than the median H-bar stretch inside the window."""
    T, H = recipe.window_bars, recipe.horizon_bars
    ranges = stretch_ranges(bars, H)
    inside = sliding_window_view(ranges, T - H + 1)[starts]
    return np.asarray(ranges[starts + T] > np.median(inside, axis=1))


def _runs_along_trend(
    bars: Bars, starts: NDArray[np.int64], recipe: WindowRecipe
) -> NDArray[np.bool_]:
    """Whether the larger excursion of the horizon has the sign of the window's trend (0 is up)."""
    T, H = recipe.window_bars, recipe.horizon_bars
    close = bars.ohlc[:, 3]
    ahead_high = sliding_window_view(bars.ohlc[:, 1], H).max(axis=1)[starts + T]
    ahead_low = sliding_window_view(bars.ohlc[:, 2], H).min(axis=1)[starts + T]
    last = close[starts + T - 1]
    goes_up = (ahead_high - last) >= (last - ahead_low)
    return np.asarray(goes_up == (last >= close[starts]))
