"""Duplicates: the same bars under another time, another id or another price level."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moola.data.windows import normalise

_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)
_MAX_COPIES = 32


@dataclass(frozen=True, kw_only=True)
class ShiftedCopy:
    """Bars ``a_bar ..`` of window `a` reappear as bars ``b_bar ..`` of window `b`.

    `num_bars` bars agree in shape; `correlation` is that of their close-to-close changes.
    """

    a: int
    b: int
    a_bar: int
    b_bar: int
    num_bars: int
    correlation: float


def bar_pair_keys(X_NTC: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return a 64-bit key of every two neighbouring bars, shape (n, T - 1).

    Two bars that agree in all eight prices do not meet by chance; pairs in which both bars are
    flat get key 0 and mean nothing.
    """
    X = np.ascontiguousarray(X_NTC, dtype=np.float32)
    words = X.view(np.uint64)  # (n, T, 2)
    bar = words[..., 0] * _ODD[0] ^ (words[..., 1] * _ODD[1])
    bar ^= bar >> np.uint64(29)
    key = bar[:, :-1] * _ODD[0] ^ (bar[:, 1:] * _ODD[1] + np.uint64(0x165667B19E3779F9))
    flat = X[..., 1] == X[..., 2]
    key[flat[:, :-1] & flat[:, 1:]] = 0
    return np.asarray(key)


def same_windows(
    X_NTC: NDArray[np.float32], parts: dict[str, NDArray[np.int64]], *, step: float | None = None
) -> list[tuple[str, int, str, int]]:
    """Return windows that are in two parts, as (part, window, other part, window).

    Parameters
    ----------
    X_NTC
        Windows of the set, shape (n, T, 4), in price units.
    parts
        Windows by part.
    step
        None: equal to the bit. Else windows are normalised and rounded to it first, so
        that copies at another price level (another quote currency, a split) are found too.

    Returns
    -------
    list of tuple
        Empty where no window is in two parts.
    """
    first_by_bytes: dict[bytes, tuple[str, int]] = {}
    clashes: list[tuple[str, int, str, int]] = []
    for part, rows in parts.items():
        for begin in range(0, len(rows), 4096):
            block = rows[begin : begin + 4096]
            X = np.asarray(X_NTC[block], dtype=np.float32)
            if step is not None:
                X = np.rint(normalise(X) / np.float32(step))
                X += np.float32(0.0)  # -0 becomes 0
            for row, window in zip(block.tolist(), X, strict=True):
                key = hashlib.blake2b(np.ascontiguousarray(window).data, digest_size=16).digest()
                other = first_by_bytes.setdefault(key, (part, row))
                if other[0] != part:
                    clashes.append((*other, part, row))
    return clashes


def shifted_copies(
    X_NTC: NDArray[np.float32],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    *,
    min_bars: int = 12,
    min_correlation: float = 0.999,
) -> list[ShiftedCopy]:
    """Return stretches of windows `a` that reappear, shifted or rescaled, in windows `b`.

    Two neighbouring bars are described by six ratios free of price level and scale, rounded to
    hundredths; alignments on which enough pairs agree are confirmed by the correlation of their
    close-to-close changes. Each window of `b` is reported once, with its longest copy.

    Parameters
    ----------
    X_NTC
        Windows of the set, shape (n, T, 4), in price units.
    a, b
        Windows to compare, as rows of `X_NTC`; the two must not share bars honestly.
    min_bars
        Shortest stretch that counts.
    min_correlation
        Least correlation of the close-to-close changes of the stretch.

    Returns
    -------
    list of ShiftedCopy
        At most one a window of `b`.
    """
    if not len(a) or not len(b):
        return []
    keys_a, keys_b = _shape_keys(X_NTC[a]), _shape_keys(X_NTC[b])
    keys_of_a, where = _index(keys_a)
    if not len(keys_of_a):
        return []
    copies: list[ShiftedCopy] = []
    for row, keys in enumerate(keys_b):
        slot = np.minimum(np.searchsorted(keys_of_a, keys), len(keys_of_a) - 1)
        hits = np.flatnonzero((keys_of_a[slot] == keys) & (keys != 0))
        if len(hits) < min_bars // 2:
            continue
        cells = [where[slot[h]] for h in hits.tolist()]
        bar_b = np.repeat(hits, [len(c) for c in cells])
        row_a, bar_a = np.divmod(np.concatenate(cells), keys_a.shape[1])
        for other, lag, first, num in _longest(row_a, bar_b - bar_a, bar_b, min_bars=min_bars):
            begin = first - lag
            r = _correlation(
                X_NTC[a[other], begin : begin + num], X_NTC[b[row], first : first + num]
            )
            if r >= min_correlation:
                copies.append(
                    ShiftedCopy(
                        a=int(a[other]), b=int(b[row]), a_bar=begin, b_bar=first,
                        num_bars=num, correlation=r,
                    )
                )  # fmt: skip
                break
    return copies


def _index(keys: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], list[NDArray[np.int64]]]:
    """Sorted distinct keys that are neither empty nor common, and the cells of `keys` with each.

    A key common to many windows is a shape that markets repeat (or one bar pair seen by many
    overlapping windows): the first cells name the copy as well as all of them.
    """
    flat = keys.reshape(-1)
    order = np.argsort(flat, kind="stable")
    distinct, first = np.unique(flat[order], return_index=True)
    cells = [c[:_MAX_COPIES] for c in np.split(order, first[1:])]
    keep = np.flatnonzero(distinct != 0)
    return distinct[keep], [cells[k] for k in keep.tolist()]


def _longest(
    row_a: NDArray[np.int64], lag: NDArray[np.int64], bar_b: NDArray[np.int64], *, min_bars: int
) -> list[tuple[int, int, int, int]]:
    """Return up to four alignments as (row of a, lag, first bar of b, bars), best first."""
    alignments, member, counts = np.unique(
        np.column_stack([row_a, lag]), axis=0, return_inverse=True, return_counts=True
    )
    longest = []
    for pick in np.argsort(-counts, kind="stable")[:4].tolist():
        bars = bar_b[member.reshape(-1) == pick]
        first, num_bars = int(bars.min()), int(bars.max() - bars.min()) + 2
        if num_bars >= min_bars and counts[pick] >= max(min_bars // 2, num_bars / 3):
            longest.append((int(alignments[pick, 0]), int(alignments[pick, 1]), first, num_bars))
    return longest


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Correlation of the close-to-close changes of two stretches; 0 where one does not change."""
    change_a, change_b = (np.diff(x[:, 3].astype(np.float64)) for x in (a, b))
    if change_a.std() == 0 or change_b.std() == 0:
        return 0.0
    return float(np.corrcoef(change_a, change_b)[0, 1])


def _shape_keys(X_NTC: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Key of the shape of every two neighbouring bars, shape (n, T - 1); 0 means nothing."""
    keys = np.zeros((len(X_NTC), X_NTC.shape[1] - 1), dtype=np.uint64)
    for begin in range(0, len(X_NTC), 4096):
        X = np.asarray(X_NTC[begin : begin + 4096], dtype=np.float64)
        size = X[..., 1] - X[..., 2]
        total = size[:, :-1] + size[:, 1:]
        scale = np.where(total > 0, total, 1.0)
        base = X[:, :-1, 3]
        ratios = [(X[:, 1:, c] - base) / scale for c in range(4)]
        ratios += [(X[:, :-1, c] - base) / scale for c in (0, 2)]
        key = np.zeros(total.shape, dtype=np.uint64)
        for ratio in ratios:
            step = np.clip(np.rint(ratio * 100.0), -(2**30), 2**30).astype(np.int64)
            key = (key ^ step.view(np.uint64)) * _ODD[0]
            key ^= key >> np.uint64(31)
        meaningful = (size[:, :-1] > 0) & (size[:, 1:] > 0)
        keys[begin : begin + len(X)] = np.where(meaningful, key | np.uint64(1), np.uint64(0))
    return keys
