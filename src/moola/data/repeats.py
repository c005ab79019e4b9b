"""Blocks of bars that appear twice, and whether chance alone would make them.

At a coarse tick bars repeat honestly: a future that moves by one or two ticks a minute has few
different bars to choose from. So a block counts only if the series itself says that it could not
have come twice by chance: the expected number of such repeats, estimated from how often its bars
occur at all, must be small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)
_GRAMS = (2, 4, 8, 16)
_EXPECTED = 0.01  # chance repeats like a block, in the whole series, below which it is no chance
_CONTEXTS = 3  # places at different prices at which a run of shapes is seen before it is believed
_MAX_DECIMALS = 10


@dataclass(frozen=True, kw_only=True)
class RepeatedBlock:
    """Bars ``[first, first + num_bars)`` reappear, price for price, at ``[again, ...)``."""

    first: int
    again: int
    num_bars: int


class Tick:
    """The greatest common divisor of prices that are short decimals, found batch by batch."""

    def __init__(self) -> None:
        self._decimals: int | None = 0
        self._divisor = 0

    @property
    def size(self) -> float | None:
        """The tick so far; None where prices are no multiples of a decimal."""
        if self._decimals is None or not self._divisor:
            return None
        return float(self._divisor / 10**self._decimals)

    def add(self, prices: NDArray[np.float64]) -> None:
        """Take more prices into account, of any shape."""
        flat = prices.reshape(-1)
        while self._decimals is not None and len(flat):
            scale = 10.0**self._decimals
            whole = np.rint(flat * scale)
            if whole.max() >= 2**53:
                self._decimals = None
            elif (whole / scale == flat).all():
                divisor = int(np.gcd.reduce(whole.astype(np.int64)))
                self._divisor = int(np.gcd(self._divisor, divisor))
                return
            else:
                self._divisor *= 10
                more = self._decimals + 1
                self._decimals = more if more <= _MAX_DECIMALS else None


def find_repeated_blocks(ohlc: NDArray[np.float64], *, min_bars: int = 2) -> list[RepeatedBlock]:
    """Return stretches of bars that reappear later, price for price, and not by chance.

    Parameters
    ----------
    ohlc
        Open, high, low, close, shape (N, 4).
    min_bars
        Shortest block to return.

    Returns
    -------
    list of RepeatedBlock
        By first bar. A stretch in which every bar is flat (high = low) does not count: a market
        that does not move repeats itself honestly. Nor does one of which more than 0.01 are
        expected by chance in a series of this length and these bars.
    """
    if len(ohlc) < 2:
        return []
    bar = row_keys(ohlc)
    runs = _runs(bar, ohlc[:, 1] == ohlc[:, 2])
    runs = runs[:, runs[2] >= min_bars]
    if runs.shape[1]:
        runs = runs[:, _log_expected(ohlc, bar, runs) < np.log(_EXPECTED)]
    order = np.lexsort((runs[1], runs[0]))
    return [
        RepeatedBlock(first=f, again=f + g, num_bars=n) for f, g, n in runs[:, order].T.tolist()
    ]


def row_keys(rows: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return a 64-bit key of each row's bits, shape (n,); rows that differ rarely share one."""
    words = np.ascontiguousarray(rows, dtype=np.float64).view(np.uint64)
    key = np.zeros(len(words), dtype=np.uint64)
    for column in words.T:
        key = _mix(key, column)
    return key


def _mix(key: NDArray[np.uint64], word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return keys of a key and what follows it; the order of the two matters."""
    key = ((key * _ODD[1] + _ODD[0]) ^ word) * _ODD[0]
    key ^= key >> np.uint64(29)
    key = key * _ODD[1]
    return np.asarray(key ^ (key >> np.uint64(32)))


def _runs(bar: NDArray[np.uint64], flat: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return maximal stretches of equal bars as (first, lag, bars), shape (3, m).

    Neighbouring occurrences of the same 2, 4, 8 and 16 bars are joined where they follow each
    other at one lag. Longer keys find what shorter ones lose where a pair of bars is common.
    """
    runs = []
    key, still = bar, flat
    for size in _GRAMS:
        half = size // 2
        if len(key) <= half:
            break
        key, still = _mix(key[:-half], key[half:]), still[:-half] & still[half:]
        position = _twice(key, np.flatnonzero(~still))
        if not len(position):
            break  # what is longer does not appear twice either
        order = position[np.argsort(key[position], kind="stable")]
        same = key[order][1:] == key[order][:-1]
        first, lag = order[:-1][same], (order[1:] - order[:-1])[same]
        runs.append(_joined(first, lag, size))
    if not runs:
        return np.empty((3, 0), dtype=np.int64)
    return np.unique(np.concatenate(runs, axis=1), axis=1)


def _twice(key: NDArray[np.uint64], position: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those positions whose key is at another of them too, ascending."""
    ordered = np.sort(key[position])
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(again):
        return position[:0]
    slot = np.minimum(np.searchsorted(again, key[position]), len(again) - 1)
    return position[again[slot] == key[position]]


def _joined(first: NDArray[np.int64], lag: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    order = np.lexsort((first, lag))
    first, lag = first[order], lag[order]
    begins = np.r_[True, (np.diff(lag) != 0) | (np.diff(first) != 1)]
    begin = np.flatnonzero(begins)
    length = np.diff(np.r_[begin, len(first)])
    return np.vstack([first[begin], lag[begin], length + size - 1])


def _log_expected(
    ohlc: NDArray[np.float64], bar: NDArray[np.uint64], runs: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the logarithm of how many repeats like each run chance makes, shape (m,).

    A run of n bars that begins at bar i repeats if another bar has the same open and the same
    shape, and the n - 1 bars after it have the same shapes again. Shapes are what a bar does from
    the close before, in ticks; how often one follows another is counted in the series itself, the
    two copies left out.
    """
    n = len(ohlc)
    shapes = _shapes(ohlc)
    opens = _occurrences(_key(ohlc[:, 0]))
    start = (np.maximum(opens - 2, 0) + 1) / n * _share(shapes[1:], n)
    after = _share_after(shapes, bar, n)
    # a price that is drawn back to a peg: the same bars come again, each after many others
    common = np.r_[False, _contexts(bar[1:], bar[:-1]) >= _CONTEXTS]
    start[common] = np.maximum(start, _occurrences(bar) / n)[common]
    after[common] = np.maximum(after, _occurrences(bar) / (opens + 2))[common]
    start, total = np.log(start), np.cumsum(np.log(after))
    first, _, num = runs
    return np.asarray(
        2 * np.log(n) - np.log(2) + start[first] + total[first + num - 1] - total[first]
    )


def _shapes(ohlc: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return what each bar does, in ticks: gap, wick above, wick below, body; shape (4, N)."""
    tick = Tick()
    tick.add(ohlc)
    size = tick.size or 1e-9 * float(np.median(ohlc[:, 3]))
    open_, high, low, close = np.rint(np.minimum(ohlc / size, 2.0**60)).astype(np.int64).T
    gap = open_ - np.r_[open_[0], close[:-1]]
    above, below = high - np.maximum(open_, close), np.minimum(open_, close) - low
    return np.vstack([gap, above, below, close - open_])


def _share(shapes: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Return the share of bars that have each bar's shape, its two copies left out, shape (N,).

    A shape that no other bar has is as rare as its parts together, or once in the series.
    """
    elsewhere = np.maximum(_occurrences(_joint(shapes)) - 2, 0)
    parts = [(np.maximum(_occurrences(part) - 2, 0) + 1) / n for part in shapes]
    return np.where(elsewhere > 0, elsewhere / n, np.minimum(np.prod(parts, axis=0), 1 / n))


def _share_after(shapes: NDArray[np.int64], bar: NDArray[np.uint64], n: int) -> NDArray[np.float64]:
    """Return how often each bar's shape follows the shapes before it, shape (N,).

    The largest of three shares: among all bars, after the shape before, and after the two before.
    The latter count where they have been seen at several prices: else what is seen may be the very
    block that appears twice. A flat bar after a flat one is certain.
    """
    share, before = _share(shapes, n), _joint(shapes)
    history, count = before, _occurrences(before)
    for lag in (1, 2):
        longer = history.copy()
        longer[lag:] = _mix(history[lag - 1 : -1] if lag > 1 else before[:-1], before[lag:])
        again = _occurrences(longer)
        follows = np.zeros(n)
        follows[lag:] = again[lag:] / (count[lag - 1 : -1] + 2)
        share = np.where(_contexts(longer, bar) >= _CONTEXTS, np.maximum(share, follows), share)
        history, count = longer, again
    flat = (shapes[1] == 0) & (shapes[2] == 0) & (shapes[3] == 0)
    share[1:][flat[1:] & flat[:-1] & (shapes[0][1:] == 0)] = 1.0
    return share


def _joint(shapes: NDArray[np.int64]) -> NDArray[np.uint64]:
    return row_keys(np.ascontiguousarray(shapes.T).view(np.float64))


def _key(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(values).view(np.uint64)


def _occurrences(key: NDArray) -> NDArray[np.int64]:
    """Return how often each value occurs, for each of them, shape (N,)."""
    _, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse])


def _contexts(key: NDArray[np.uint64], bar: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return at how many different bars each key occurs, for each of them, shape (N,)."""
    _, once = np.unique(_mix(key, bar), return_index=True)
    _, inverse = np.unique(key, return_inverse=True)
    return np.asarray(np.bincount(inverse[once])[inverse])
