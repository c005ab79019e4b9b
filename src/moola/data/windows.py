"""Windows: which stretches of bars may be used, where they begin, and how a model sees one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from moola.config.data import WindowRecipe, parse_utc
from moola.data.bars import Bars, gap_mask, repeated_mask
from moola.data.left_out import GAPS, OUTSIDE, REPEATED, LeftOut
from moola.errors import BadInput, DataError


@dataclass(frozen=True, kw_only=True)
class WindowTimes:
    """Bars of each window as row numbers of its source, shape (n,), int64.

    `first` and `last` are the window's own bars, `label_end` the last bar its label looks at.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    label_end: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)

    def gap_windows(self, rows: NDArray[np.int64]) -> int:
        """Return how many of `rows` a window and its label reach into, itself included.

        Leaving out as many between two parts of the ascending `rows` keeps them off shared bars.
        """
        after = np.searchsorted(self.first[rows], self.label_end[rows], side="right")
        return int((after - np.arange(len(rows))).max(initial=0))

    def horizons_apart(self, rows: NDArray[np.int64]) -> bool:
        """Return whether each label of the ascending `rows` is known when the next window ends."""
        return bool((self.label_end[rows[:-1]] <= self.last[rows[1:]]).all())


def window_starts(bars: Bars, recipe: WindowRecipe) -> NDArray[np.int64]:
    """Return the row of each window's first bar, shape (n,) (see `choose_starts`)."""
    return choose_starts(bars, recipe)[0]


def choose_starts(bars: Bars, recipe: WindowRecipe) -> tuple[NDArray[np.int64], LeftOut]:
    """Return the row of each window's first bar, in time order, shape (n,), and what is left out.

    A window, its label horizon included, lies whole between `recipe.start` and `recipe.end`,
    touches no repeated block and, unless `recipe.cross_gaps`, spans no gap. Where its label is held
    against bars before it, as many lie before it; these may lie before `recipe.start`. Raises
    DataError, saying why, if no window is left.
    """
    span = recipe.window_bars + recipe.label_bars
    first = max(_row_at(bars, recipe.start, 0), recipe.bars_before)
    last = _row_at(bars, recipe.end, len(bars))
    starts = np.arange(first, last - span + 1, recipe.step_bars, dtype=np.int64)
    if not len(starts):
        raise _too_few(bars, recipe, last - first + min(first, recipe.bars_before))
    fit, left_out = may_be_used(bars, recipe, starts, starts + span)
    if not fit.any():
        raise DataError(
            f"no window of {span} bars fits into {bars.name} ({len(bars)} bars): all "
            f"{left_out.possible:,} are left out for {left_out.reasons_in_words}",
            remedy=left_out.remedy,
        )
    return starts[fit], left_out


def _too_few(bars: Bars, recipe: WindowRecipe, num: int) -> DataError:
    span = recipe.window_bars + recipe.label_bars + recipe.bars_before
    before = f", {recipe.bars_before} before it" * bool(recipe.bars_before)
    bounded = f", of which {max(num, 0)} lie between start and end" if num < len(bars) else ""
    return DataError(
        f"no window of {span} bars fits into {bars.name} ({len(bars)} bars{bounded})",
        limit=f"{span} bars or more: {recipe.window_bars} of the window, {recipe.label_bars} ahead"
        + before,
        remedy="Take more bars, or shorten window_bars" + " or widen start and end" * bool(bounded),
    )


def may_be_used(
    bars: Bars, recipe: WindowRecipe, begin: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], LeftOut]:
    """Return whether each stretch of bars ``[begin, end)`` keeps the rules, and what is left out.

    The first has shape (n,).
    """
    faults = {
        OUTSIDE: (begin < _row_at(bars, recipe.start, 0))
        | (end > _row_at(bars, recipe.end, len(bars)))
    }
    if recipe.exclude_repeated:
        faults[REPEATED] = _count(repeated_mask(bars), begin, end) > 0
    if not recipe.cross_gaps:
        faults[GAPS] = _count(gap_mask(bars, recipe.gap_bars), begin + 1, end) > 0
    fit, reasons = np.ones(len(begin), dtype=bool), {}
    for reason, fault in faults.items():
        reasons[reason] = int((fault & fit).sum())
        fit &= ~fault
    return fit, LeftOut(possible=len(begin), reasons=reasons)


def cut_windows(bars: Bars, starts: NDArray[np.int64], window_bars: int) -> NDArray[np.float32]:
    """Return the windows in price units, shape (n, T, 4), float32."""
    return np.ascontiguousarray(view_windows(bars.ohlc.astype(np.float32), window_bars)[starts])


def view_windows(ohlc: NDArray[np.float32], window_bars: int) -> NDArray[np.float32]:
    """Return every window of a bar array as a read-only view, shape (N - T + 1, T, 4).

    Nothing is copied: neighbouring windows share their memory.
    """
    view = sliding_window_view(np.ascontiguousarray(ohlc), window_bars, axis=0)
    return view.transpose(0, 2, 1)


def check_windows(
    X_NTC: NDArray, *, window_bars: int | None = None, first: int = 0
) -> NDArray[np.float32]:
    """Return OHLC windows as float32, shape (n, T, 4), or raise BadInput naming the first fault.

    Windows are counted from `first`: a chunk of a file names those of the file.
    """
    X = np.asarray(X_NTC)
    if X.ndim != 3 or X.shape[2] != 4 or X.dtype.kind not in "fiu":
        raise BadInput(
            f"windows have shape {X.shape} and type {X.dtype}",
            limit="numbers of shape (n, T, 4): open, high, low, close",
            remedy="Put time on the second axis, prices on the third",
        )
    if not X.size:
        raise BadInput(
            "the batch holds no window", limit="at least 1", remedy="Leave out empty batches"
        )
    if window_bars is not None and X.shape[1] != window_bars:
        raise BadInput(
            f"windows have {X.shape[1]} bars",
            limit=f"{window_bars} bars, as in training",
            remedy="Cut them as the training windows were",
        )
    with np.errstate(over="ignore"):
        X = X.astype(np.float32, copy=False)
    if not (X.min() > 0 and X.max() < np.inf):  # NaN is neither
        bad = ~(np.isfinite(X) & (X > 0)).all(axis=(1, 2))
        raise BadInput(
            f"window {first + int(np.argmax(bad))} holds a price that is NaN, infinite or not "
            "positive",
            limit="finite prices above 0",
            remedy="Fill or drop the bar before windows are cut",
        )
    open_, high, low, close = (X[..., k] for k in range(4))
    broken = (high < np.maximum(open_, close)) | (low > np.minimum(open_, close))
    if broken.any():
        bad = broken.any(axis=1)
        raise BadInput(
            f"window {first + int(np.argmax(bad))} has a bar whose high or low does not enclose "
            "its prices",
            limit="low <= open, close <= high",
            remedy="Check the order of the columns",
        )
    return X


def normalise(X_NTC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return windows free of price level and volatility, shape (n, T, 4), float32.

    Each price is taken relative to the window's last close and divided by the window's mean bar
    range, ``(P / C_T - 1) / mean((high - low) / C_T)``, scaled by 1 / sqrt(T) so that a random walk
    has values of order one. Only the window's own bars enter; they must be finite. A window without
    any range (every bar flat) is divided by one ten-thousandth of the price instead of 0.
    """
    X = np.asarray(X_NTC, dtype=np.float64)
    close = X[:, -1:, 3:4]
    scale = ((X[..., 1] - X[..., 2]).mean(axis=1)[:, None, None] / close) * np.sqrt(X.shape[1])
    return ((X / close - 1.0) / np.maximum(scale, 1e-4)).astype(np.float32)


def _row_at(bars: Bars, time: str | None, default: int) -> int:
    parsed = parse_utc(time)
    if parsed is None:
        return default
    return int(np.searchsorted(bars.time, np.datetime64(parsed.replace(tzinfo=None), "us")))


def _count(
    mask: NDArray[np.bool_], begin: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.int64]:
    total = np.r_[0, np.cumsum(mask)]
    return np.asarray(total[end] - total[begin])
