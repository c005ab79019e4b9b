"""Surrogates: windows of a random market that has the bars of the real one, in no order.

On a random walk some labels are predictable all the same: a threshold that is estimated from the
window has an error, and the window shows it. What a label's own arithmetic gives away is learned
here, where there is nothing else to learn: stretches of bars are drawn with replacement out of
stretches of the real bars, and labels and features are computed by the recipe itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moola.config.data import WindowRecipe
from moola.data.bars import Bars
from moola.data.features import rolling_range
from moola.data.labels import bar_variance, label_windows
from moola.data.windows import view_windows
from moola.errors import DataError

_FIRST_PRICE = 100.0


@dataclass(frozen=True, kw_only=True)
class Surrogates:
    """Windows in price units, shape (n, T, 4), float32, and their labels, shape (n,), int64."""

    X_ohlc: NDArray[np.float32]
    y: NDArray[np.int64]


def why_no_surrogates(recipe: WindowRecipe) -> str | None:
    """Return why labels cannot be made again on other bars; None where they can."""
    if recipe.label == "file":
        return "its labels come from a file, and no rule makes them again on other bars"
    return None


def surrogate_windows(
    bars: Bars, recipe: WindowRecipe, *, num_windows: int, seed: int
) -> Surrogates:
    """Draw windows of bars whose order is broken and whose marginal distribution is kept.

    Each window comes from a stretch of the real bars as long as what its label looks at, chosen at
    random: bars of the stretch (gap from the close before, high, low and close relative to the
    open) are drawn with replacement and chained. That is the stationary bootstrap of Politis and
    Romano (1994) with blocks of one bar, stretch by stretch: longer blocks would keep a part of the
    volatility's memory, which is knowledge of the market, and one draw over all bars would mix calm
    and wild years in one window.

    Parameters
    ----------
    bars
        The source, without what the candidate must not see.
    recipe
        Says windows and label.
    num_windows
        n.
    seed
        Of the draws.

    Returns
    -------
    Surrogates
        Windows that share no bars.

    Raises
    ------
    DataError
        If the label is made by no rule, or the bars are fewer than one stretch.
    """
    reason = why_no_surrogates(recipe)
    if reason or not recipe.num_classes:
        raise DataError(f"there are no surrogates of {bars.name}: {reason or 'it has no labels'}")
    span = recipe.bars_before + recipe.window_bars + recipe.horizon_bars
    if len(bars) <= span:
        raise DataError(f"{bars.name} has {len(bars)} bars", limit=f"more than {span}")
    rng = np.random.default_rng(seed)
    shape = _bar_shapes(bars)
    begin = rng.integers(0, len(shape) - span + 1, num_windows)
    drawn = shape[begin[:, None] + rng.integers(0, span, (num_windows, span))]
    chained = Bars(
        name=bars.name,
        time=np.datetime64("2000-01-01", "us") + np.arange(num_windows * span) * 3_600_000_000,
        ohlc=_chain(drawn).reshape(-1, 4),
        sha256="",
    )
    starts = np.arange(num_windows, dtype=np.int64) * span + recipe.bars_before
    y = label_windows(chained, starts, recipe).y
    X = view_windows(chained.ohlc.astype(np.float32), recipe.window_bars)[starts]
    return Surrogates(X_ohlc=np.ascontiguousarray(X), y=y)


def scale_ratios(windows: NDArray[np.floating], horizon_bars: int) -> NDArray[np.float64]:
    """Compare measures of a window's volatility with that of all its prices.

    In these ratios the error of a threshold shows that is estimated from the window.

    Parameters
    ----------
    windows
        Shape (n, T, 4).
    horizon_bars
        H.

    Returns
    -------
    ndarray
        Shape (n, 4): logarithms of the median H-bar range, the standard deviation and the mean size
        of close-to-close changes, and the mean bar range, each over the volatility of Garman and
        Klass (1980); 0 where one of both is 0.
    """
    logs = np.log(np.asarray(windows, dtype=np.float64))
    _, high, low, close = np.moveaxis(logs, 2, 0)
    change = np.diff(close, axis=1)
    sigma = np.sqrt(bar_variance(logs)[:, 1:].mean(axis=1))
    ranges = rolling_range(high, low, min(horizon_bars, logs.shape[1]))
    measures = [
        np.median(ranges, axis=1) / np.sqrt(horizon_bars),
        change.std(axis=1),
        np.abs(change).mean(axis=1),
        (high - low).mean(axis=1),
    ]
    ratio = [np.where((m > 0) & (sigma > 0), m, 1.0) for m in measures]
    over = [np.where((m > 0) & (sigma > 0), sigma, 1.0) for m in measures]
    return np.log(np.stack(ratio, axis=1) / np.stack(over, axis=1))


def _bar_shapes(bars: Bars) -> NDArray[np.float64]:
    """Log open over the close before, and log high, low, close over open; shape (N - 1, 4)."""
    open_, high, low, close = np.log(bars.ohlc).T
    shape = np.stack([np.r_[0.0, open_[1:] - close[:-1]], high - open_, low - open_, close - open_])
    return np.ascontiguousarray(shape.T[1:])


def _chain(shape: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chain bars to prices, each stretch from the same first price; shape (n, span, 4)."""
    gap, high, low, close = np.moveaxis(shape, 2, 0)
    last = np.cumsum(gap + close, axis=1)
    open_ = last - close
    logs = np.stack([open_, open_ + high, open_ + low, open_ + close], axis=2)
    logs -= logs[:, :1, :1]
    return np.asarray(_FIRST_PRICE * np.exp(logs))
