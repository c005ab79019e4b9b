"""Labels: what happens in the bars after a window, and the last bar each label looks at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from moola.config.data import PAST_LABELS, WindowRecipe
from moola.data.bars import Bars
from moola.errors import DataError

CLASS_NAMES = {
    "expansion": ("consolidation", "expansion"),
    "expansion_direction": ("consolidation", "retracement", "expansion"),
    "expansion_expected": ("consolidation", "expansion"),
    "expansion_past": ("consolidation", "expansion"),
    "expansion_rank": ("narrow", "usual", "wide"),
    "triple_barrier": ("neither", "lower", "upper"),
}
_CHUNK_WINDOWS = 8192
_RANGE_OF_WALK = np.sqrt(8.0 / np.pi)  # expected range of Brownian motion (Feller 1951)
_GARMAN_KLASS = 2.0 * np.log(2.0) - 1.0


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Class of each window, shape (n,), int64, and the row of the last bar it looks at."""

    y: NDArray[np.int64]
    end: NDArray[np.int64]


def class_names(recipe: WindowRecipe) -> tuple[str, ...]:
    """Return the names of the classes 0, 1, ...; empty for an unlabelled set."""
    return CLASS_NAMES.get(recipe.label, recipe.class_names)


def label_windows(bars: Bars, starts: NDArray[np.int64], recipe: WindowRecipe) -> Labels:
    """Label windows by the rule that `recipe.label` names.

    ``expansion``: 1 if the highest high less the lowest low of the next H bars exceeds the median
    of that range over all H-bar stretches inside the window, else 0. ``expansion_direction``
    splits 1 into 2 (the larger excursion from the last close has the sign of the window's trend)
    and 1 (it has not). ``triple_barrier``: see `triple_barrier`.

    On a random walk the first three are predictable: their threshold is estimated from the window,
    and its error can be seen in the window. Of the rules without that, which all take ranges as
    logarithms of highest high over lowest low: ``expansion_expected`` is 1 if the next H bars range
    wider than a random walk of the window's volatility would on average (`expected_ranges`);
    ``expansion_past`` if they range wider than the median H-bar stretch of the `past_bars` bars
    before the window; ``expansion_rank`` is 0, 1 or 2 for the lowest, middle and highest third of
    those stretches. The last two are held against bars that the window does not hold, so nothing
    in the window tells the threshold's error.

    Raises DataError for a recipe whose labels are not made by a rule.
    """
    if recipe.label == "triple_barrier":
        return triple_barrier(bars, starts, recipe)
    if recipe.label not in CLASS_NAMES:
        raise DataError(
            f"label {recipe.label!r} is not a rule", limit=f"one of {', '.join(CLASS_NAMES)}"
        )
    end = starts + recipe.window_bars + recipe.horizon_bars - 1
    if recipe.label == "expansion_expected":
        ahead = _log_ranges(bars, recipe.horizon_bars)[starts + recipe.window_bars]
        return Labels(y=(ahead > expected_ranges(bars, starts, recipe)).astype(np.int64), end=end)
    if recipe.label in PAST_LABELS:
        return Labels(y=_against_past(bars, starts, recipe), end=end)
    expands = _expands(bars, starts, recipe)
    if recipe.label == "expansion":
        return Labels(y=expands.astype(np.int64), end=end)
    along = _runs_along_trend(bars, starts, recipe)
    return Labels(y=np.where(expands, np.where(along, 2, 1), 0).astype(np.int64), end=end)


def triple_barrier(bars: Bars, starts: NDArray[np.int64], recipe: WindowRecipe) -> Labels:
    """Label windows by which barrier the next H bars touch first.

    The barriers are ``C * (1 - w)`` and ``C * (1 + w)``, where C is the window's last close
    and w is ``barrier_width`` times the standard deviation of the window's relative
    close-to-close changes times sqrt(H). The class is 1 if a low reaches the lower one first, 2
    if a high reaches the upper one first, 0 if neither does in H bars. One bar that reaches both
    counts as lower. A window whose closes never change has no volatility to scale by: class 0.
    The label ends at the bar that touched, or H bars after the window.

    Source: M. Lopez de Prado, *Advances in Financial Machine Learning*, Wiley 2018, section 3.4.
    """
    T, H = recipe.window_bars, recipe.horizon_bars
    close = bars.ohlc[:, 3]
    change = sliding_window_view(close[1:] / close[:-1] - 1.0, T - 1)
    high, low = (sliding_window_view(bars.ohlc[:, c], H) for c in (1, 2))
    y, end = np.zeros_like(starts), starts + T + H - 1
    for part in _chunks(len(starts)):
        begin = starts[part]
        last = close[begin + T - 1, None]
        width = (recipe.barrier_width * np.sqrt(H) * change[begin].std(axis=1))[:, None]
        up = (high[begin + T] >= last * (1.0 + width)) & (width > 0)
        down = (low[begin + T] <= last * (1.0 - width)) & (width > 0)
        touched = up | down
        bar = np.where(touched.any(axis=1), touched.argmax(axis=1), H - 1)
        row = np.arange(len(begin))
        y[part] = np.where(down[row, bar], 1, np.where(up[row, bar], 2, 0))
        end[part] = begin + T + bar
    return Labels(y=y.astype(np.int64), end=end)


def expected_ranges(
    bars: Bars, starts: NDArray[np.int64], recipe: WindowRecipe
) -> NDArray[np.float64]:
    """Return the log range that a random walk of each window's volatility has in H bars on average.

    The volatility is that of all prices of the window's bars, gaps from close to open included
    (Garman and Klass 1980): an estimate that uses all the window says of its own volatility leaves
    little from which its error could be told, while a median of a few ranges leaves much.

    Returns
    -------
    ndarray
        ``sqrt(8 / pi) * sigma * sqrt(H)``, shape (n,) (W. Feller, 1951).
    """
    variance = bar_variance(np.log(bars.ohlc))
    variance[0] = 0.0
    total = np.concatenate([[0.0], np.cumsum(variance)])
    T = recipe.window_bars
    mean = np.maximum(total[starts + T] - total[starts + 1], 0.0) / (T - 1)
    return np.asarray(_RANGE_OF_WALK * np.sqrt(mean * recipe.horizon_bars))


def bar_variance(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each bar's estimate of the variance of a change, shape (..., T).

    Of log prices, shape (..., T, 4); the first bar lacks the gap from the close before it. By
    Garman and Klass (1980), from open, high, low and close.
    """
    open_, high, low, close = np.moveaxis(logs, -1, 0)
    variance = 0.5 * (high - low) ** 2 - _GARMAN_KLASS * (close - open_) ** 2
    variance[..., 1:] += (open_[..., 1:] - close[..., :-1]) ** 2
    return np.asarray(variance)


def stretch_ranges(bars: Bars, num_bars: int) -> NDArray[np.float64]:
    """Return highest high less lowest low of every `num_bars` bars, shape (N - num_bars + 1,)."""
    high = sliding_window_view(bars.ohlc[:, 1], num_bars).max(axis=1)
    low = sliding_window_view(bars.ohlc[:, 2], num_bars).min(axis=1)
    return np.asarray(high - low)


def _expands(bars: Bars, starts: NDArray[np.int64], recipe: WindowRecipe) -> NDArray[np.bool_]:
    """Whether the next H bars range wider than the median H-bar stretch inside the window."""
    T, H = recipe.window_bars, recipe.horizon_bars
    ranges = stretch_ranges(bars, H)
    inside = sliding_window_view(ranges, T - H + 1)
    out = np.empty(len(starts), dtype=bool)
    for part in _chunks(len(starts)):
        begin = starts[part]
        median = np.median(inside[begin], axis=1, overwrite_input=True)
        out[part] = ranges[begin + T] > median
    return out


def _log_ranges(bars: Bars, num_bars: int) -> NDArray[np.float64]:
    """Log of highest high over lowest low of every `num_bars` bars, shape (N - num_bars + 1,)."""
    logs = Bars(name=bars.name, time=bars.time, ohlc=np.log(bars.ohlc), sha256=bars.sha256)
    return stretch_ranges(logs, num_bars)


def _against_past(bars: Bars, starts: NDArray[np.int64], recipe: WindowRecipe) -> NDArray[np.int64]:
    """How many quantiles of the ranges before the window the range after it exceeds."""
    T, H, past = recipe.window_bars, recipe.horizon_bars, recipe.past_bars
    share = [0.5] if recipe.label == "expansion_past" else [1 / 3, 2 / 3]
    ranges = _log_ranges(bars, H)
    before = sliding_window_view(ranges, past - H + 1)
    y = np.empty(len(starts), dtype=np.int64)
    for part in _chunks(len(starts), _CHUNK_WINDOWS // 8):
        begin = starts[part]
        limits = np.quantile(before[begin - past], share, axis=1)
        y[part] = (ranges[begin + T] > limits).sum(axis=0)
    return y


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


def _chunks(num_windows: int, size: int = _CHUNK_WINDOWS) -> Iterator[slice]:
    for begin in range(0, num_windows, size):
        yield slice(begin, min(begin + size, num_windows))
