"""Moments of a window that a market has and a careless augmentation loses, free of price level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOMENTS: dict[str, str] = {
    "return_spread": "standard deviation of returns, in mean bar ranges",
    "return_tails": "fourth root of the mean fourth power of returns, in standard deviations",
    "return_autocorrelation": "lag-1 autocorrelation of returns",
    "size_autocorrelation": "lag-1 autocorrelation of absolute returns",
    "gap_size": "mean distance of an open from the close before, in mean bar ranges",
    "range_spread": "standard deviation of bar ranges, in mean bar ranges",
    "body_size": "mean distance of open and close, in mean bar ranges",
    "range_to_return": "correlation of a bar's range with the size of its return",
}
MOMENT_NAMES = tuple(MOMENTS)


def window_moments(X_NTC: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the moments of each window.

    Parameters
    ----------
    X_NTC
        OHLC windows in price units, shape (n, T, 4), T >= 3, positive. Returns are differences of
        logarithms of neighbouring closes, a bar's range that of its high and low.

    Returns
    -------
    ndarray of shape (n, 8), in the order of ``MOMENT_NAMES``; what is not defined (a moment of
    bars or closes that are all alike) is 0.
    """
    log = np.log(np.asarray(X_NTC, dtype=np.float64))
    open_, high, low, close = np.moveaxis(log, 2, 0)
    reach = high - low
    mean_range = reach.mean(axis=1)
    returns = np.diff(close, axis=1)
    size = np.abs(returns)
    centred = returns - returns.mean(axis=1, keepdims=True)
    spread = returns.std(axis=1)
    columns = [
        _share(spread, mean_range),
        _share(np.mean(centred**4, axis=1) ** 0.25, spread),
        _correlation(returns[:, :-1], returns[:, 1:]),
        _correlation(size[:, :-1], size[:, 1:]),
        _share(np.abs(open_[:, 1:] - close[:, :-1]).mean(axis=1), mean_range),
        _share(reach.std(axis=1), mean_range),
        _share(np.abs(close - open_).mean(axis=1), mean_range),
        _correlation(reach[:, 1:], size),
    ]
    return np.column_stack(columns)


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    return _share((a * b).sum(axis=1), np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1)))
