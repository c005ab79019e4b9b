"""The 20 features of a window: free of price level and scale, made of the window's own bars only.

Most compare two non-negative amounts, a and b, by their *contrast* ``(a - b) / (a + b)``, which is
tanh of half the log ratio: symmetric, inside [-1, 1], 0 where both are 0. Sums, products and
comparisons alone are used (no logarithms), so that equal bars give equal bits on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

_CHUNK_WINDOWS = 1024  # fastest of 128 to 4,096: intermediate arrays fit a core's cache

FEATURES: dict[str, str] = {
    "range_6": "range of the last 6 bars against the median 6-bar range of the window",
    "range_6_before": "range of the 6 bars before those, against the same median",
    "range_12": "range of the last 12 bars against the median 12-bar range",
    "range_24": "range of the last 24 bars against the median 24-bar range",
    "range_6_lag_24": "range of the 6 bars that began 24 bars before the window's end (on "
    "hourly bars: the coming hours, one day ago) against the median 6-bar range",
    "range_6_lag_48": "the same, 48 bars before the end",
    "range_6_lag_72": "the same, 72 bars before the end",
    "range_6_lag_96": "the same, 96 bars before the end",
    "bar_range_1": "high less low of the last bar against the mean of the window",
    "bar_range_3": "mean high less low of the last 3 bars against the mean of the window",
    "bar_range_24": "mean high less low of the last 24 bars against the mean of the window",
    "abs_return_6": "mean absolute close-to-close change of the last 6 bars against the window's",
    "volatility_24": "standard deviation of the last 24 close-to-close changes against that of "
    "the window's",
    "range_rank": "share of the window's 6-bar ranges below the last one, mapped to [-1, 1]",
    "range_dispersion": "contrast of the upper and the lower quartile of the 6-bar ranges",
    "abs_return_autocorrelation": "lag-1 autocorrelation of absolute close-to-close changes",
    "efficiency_24": "net change over the last 24 bars divided by the path length",
    "efficiency": "net change over the window divided by the path length",
    "close_position": "place of the last close in the window's range, -1 at the low, 1 at the high",
    "body_share_6": "share of the last 6 bars' high-low ranges that their bodies fill, in [-1, 1]",
}
FEATURE_NAMES = tuple(FEATURES)


def features20(X_NTC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the 20 features of each window.

    Parameters
    ----------
    X_NTC
        OHLC windows in price units, shape (n, T, 4), T >= 2, as `check_windows` lets them pass:
        NaN is not looked for here. Spans longer than the window are cut to it.

    Returns
    -------
    ndarray of shape (n, 20), float32, every value in [-1, 1], in the order of ``FEATURE_NAMES``.
    """
    X = np.asarray(X_NTC)
    out = np.empty((len(X), len(FEATURES)), dtype=np.float32)
    for begin in range(0, len(X), _CHUNK_WINDOWS):
        chunk = X[begin : begin + _CHUNK_WINDOWS]
        X_CNT = np.ascontiguousarray(np.moveaxis(chunk, 2, 0), dtype=np.float64)
        out[begin : begin + len(chunk)] = np.column_stack(
            [*_range_features(X_CNT), *_shape_features(X_CNT)]
        )
    return out


def contrast(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (a - b) / (a + b) for non-negative a and b, 0 where both are 0."""
    total = a + b
    return np.divide(a - b, total, out=np.zeros_like(total), where=total > 0)


def rolling_range(high: NDArray, low: NDArray, span: int) -> NDArray[np.float64]:
    """Range of every `span` neighbouring bars, shape (n, T - span + 1), by doubling."""
    return next(_rolling_ranges(high, low, (span,)))


def _rolling_ranges(
    high: NDArray, low: NDArray, spans: Iterable[int]
) -> Iterator[NDArray[np.float64]]:
    """Yield the ranges of several spans, shortest first: each begins where the last one ended."""
    width = 1
    for span in spans:
        while width < span:
            step = min(width, span - width)
            high = np.maximum(high[:, :-step], high[:, step:])
            low = np.minimum(low[:, :-step], low[:, step:])
            width += step
        yield np.asarray(high - low)


def _range_features(X_CNT: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    _, high, low, close = X_CNT
    T = high.shape[1]
    six = min(6, T)
    ranges, *wider = _rolling_ranges(high, low, (six, min(12, T), min(24, T)))
    lower, median, upper = np.percentile(ranges, [25, 50, 75], axis=1)
    pairs = [(ranges[:, -1], median), (ranges[:, max(-1 - six, -ranges.shape[1])], median)]
    for wide in wider:
        pairs.append((wide[:, -1], np.median(wide, axis=1)))
    for lag in (24, 48, 72, 96):
        begin = min(max(T - lag, 0), ranges.shape[1] - 1)
        pairs.append((ranges[:, begin], median))
    bar = high - low
    mean_bar = bar.mean(axis=1)
    pairs += [(bar[:, -span:].mean(axis=1), mean_bar) for span in (1, 3, 24)]
    change = np.diff(close, axis=1)
    size = np.abs(change)
    pairs.append((size[:, -6:].mean(axis=1), size.mean(axis=1)))
    pairs.append((change[:, -24:].std(axis=1), change.std(axis=1)))
    pairs.append((upper, lower))
    first, second = np.stack(pairs, axis=1)
    *columns, dispersion = contrast(first, second)
    below = (ranges[:, :-1] < ranges[:, -1:]).mean(axis=1) if ranges.shape[1] > 1 else 0.5
    rank = np.broadcast_to(2.0 * np.asarray(below) - 1.0, (len(close),))
    return [*columns, rank, dispersion]


def _shape_features(X_CNT: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    open_, high, low, close = X_CNT
    change = np.diff(close, axis=1)
    size = np.abs(change)
    centred = size - size.mean(axis=1, keepdims=True)
    power = (centred**2).sum(axis=1)
    lagged = (centred[:, 1:] * centred[:, :-1]).sum(axis=1)
    top, bottom = high.max(axis=1), low.min(axis=1)
    body = np.abs(close - open_)[:, -6:].sum(axis=1)
    return [
        _ratio(lagged, power, 0.0),
        _ratio(change[:, -24:].sum(axis=1), size[:, -24:].sum(axis=1), 0.0),
        _ratio(change.sum(axis=1), size.sum(axis=1), 0.0),
        2.0 * _ratio(close[:, -1] - bottom, top - bottom, 0.5) - 1.0,
        2.0 * _ratio(body, (high - low)[:, -6:].sum(axis=1), 0.5) - 1.0,
    ]


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64], default: float) -> NDArray[np.float64]:
    return np.divide(a, b, out=np.full_like(b, default), where=b > 0)
