"""A sketch of a market's past by which its bars are known again under any name.

A look at locked test windows uses up *bars*, not a name. The same bars may come back in a longer
file, under another name, in other units or as longer bars, so a digest of the file knows none of
these. The sketch keeps what all of them share: for some minutes, hours, days and weeks (UTC), the
logarithms of high, low and close relative to the open. Which of them are kept is decided by the
calendar alone, so that two files of one market keep the same ones.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from moola.data.store.sets import WindowSet


# Name, length in seconds, length of the stretch that a choice is made from (seconds), choices in
# each, and most of them kept (the newest): about 8 kB for ten years of hourly bars.
_DAY = 86_400
_LEVELS = (
    ("minute", 60, _DAY, 2, 256),
    ("hour", 3_600, 28 * _DAY, 4, 512),
    ("day", _DAY, 364 * _DAY, 12, 256),
    ("week", 7 * _DAY, 2 * 364 * _DAY, 8, 128),
)
_CELL = np.dtype([("level", "u1"), ("cell", "<i4"), ("shape", "<f2", (3,))])
_SCALE = 1024.0  # a half-precision number is coarse below 6e-5, about the range of a quiet minute
_TOLERANCE = 0.02  # of a cell's range: rounding to ticks, or an adjustment of a few per cent
_ROUNDING = 2e-7  # relative error of prices kept as float32
_MIN_SHARE = 0.5
MAX_CHARS = 16_000


def market_sketch(time: NDArray[np.datetime64], ohlc: NDArray[np.floating]) -> str:
    """Return a sketch of a series of bars, as text.

    Parameters
    ----------
    time
        Opening times, UTC, rising, shape (N,).
    ohlc
        Prices, shape (N, 4).

    Returns
    -------
    str
        Base64 of the cells kept, at most `MAX_CHARS` characters; empty where nothing moves.
    """
    seconds = time.astype("datetime64[s]").astype(np.int64)
    step = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
    prices = np.asarray(ohlc, dtype=np.float64)
    parts = [
        _sketch_level(level, seconds, prices)
        for level in range(len(_LEVELS))
        if step <= _LEVELS[level][1]
    ]
    cells = np.concatenate(parts) if parts else np.empty(0, dtype=_CELL)
    return base64.b64encode(cells.tobytes()).decode()


def sketch_of_windows(windows: WindowSet) -> str:
    """Return the sketch of the bars that windows show, where their source is not at hand."""
    first, last = (windows.clock[:, i].astype("datetime64[us]").astype(np.int64) for i in (0, 1))
    num_bars = windows.X_ohlc.shape[1]
    time = first[:, None] + ((last - first)[:, None] * np.arange(num_bars)) // max(num_bars - 1, 1)
    _, once = np.unique(time.reshape(-1), return_index=True)
    ohlc = np.asarray(windows.X_ohlc).reshape(-1, 4)[once]
    return market_sketch(time.reshape(-1)[once].astype("datetime64[us]"), ohlc)


def same_market(one: str, other: str) -> bool | None:
    """Return whether two sketches are of one market.

    They are if, of the cells both keep, at least half agree on any of the four lengths. A cell
    agrees if high, low and close relative to its open differ by at most 2 % of its range, so that
    other units, ticks and vendors of nearly equal prices change nothing. Unrelated markets agree
    in about one cell of ten thousand.

    Returns
    -------
    bool or None
        None where nothing can be compared: no common cell, or a text that is no sketch.
    """
    first, second = _cells(one), _cells(other)
    if first is None or second is None:
        return None
    shares = list(_shares(first, second))
    if not shares:
        return None
    return max(shares) >= _MIN_SHARE


def _sketch_level(
    level: int, seconds: NDArray[np.int64], ohlc: NDArray[np.float64]
) -> NDArray[np.void]:
    _, length, stretch, choices, most = _LEVELS[level]
    monday = 4 * _DAY if length == 7 * _DAY else 0  # 1970-01-01 was a Thursday
    cell = (seconds - monday) // length
    starts = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]])
    opened, closed = ohlc[starts, 0], ohlc[np.r_[starts[1:], len(cell)] - 1, 3]
    high = np.maximum.reduceat(ohlc[:, 1], starts)
    low = np.minimum.reduceat(ohlc[:, 2], starts)
    moves = high > low  # a cell without a trade is alike in every market
    numbers = cell[starts][moves]
    shape = np.log(np.column_stack([high, low, closed])[moves] / opened[moves, None]) * _SCALE
    keep = _chosen(level, numbers, stretch // length, choices)[-most:]
    cells = np.empty(len(keep), dtype=_CELL)
    cells["level"], cells["cell"] = level, numbers[keep]
    with np.errstate(over="ignore"):
        cells["shape"] = shape[keep]
    return cells


def _chosen(level: int, numbers: NDArray[np.int64], per_stretch: int, most: int) -> list[int]:
    """Return which cells are kept: in each stretch the ones with the smallest digest."""
    digests = [
        hashlib.blake2b(f"{level}:{n}".encode(), digest_size=8).digest() for n in numbers.tolist()
    ]
    stretches = numbers // per_stretch
    bounds = np.flatnonzero(np.r_[True, stretches[1:] != stretches[:-1]]).tolist()
    chosen: list[int] = []
    for start, end in zip(bounds, [*bounds[1:], len(numbers)], strict=True):
        chosen += sorted(sorted(range(start, end), key=digests.__getitem__)[:most])
    return chosen


def _cells(sketch: str) -> NDArray[np.void] | None:
    try:
        raw = base64.b64decode(sketch, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(sketch) > MAX_CHARS or len(raw) % _CELL.itemsize:
        return None
    return np.frombuffer(raw, dtype=_CELL)


def _shares(first: NDArray[np.void], second: NDArray[np.void]) -> Iterator[float]:
    for level in range(len(_LEVELS)):
        a, b = (cells[cells["level"] == level] for cells in (first, second))
        _, i, j = np.intersect1d(a["cell"], b["cell"], return_indices=True)
        if len(i) == 0:
            continue
        one, two = (x["shape"].astype(np.float64) for x in (a[i], b[j]))
        span = np.maximum(one[:, 0] - one[:, 1], two[:, 0] - two[:, 1])
        agree = np.abs(one - two) <= _TOLERANCE * span[:, None] + _ROUNDING * _SCALE
        yield float(agree.all(axis=1).mean())
