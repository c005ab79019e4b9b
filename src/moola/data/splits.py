"""Splits: forward in time only, purged by the end of the label's horizon.

A window is *purged* from the earlier part when its label's horizon (plus the embargo) reaches the
first bar of the next part, so that no bar is seen on both sides. Purged windows are listed, and
train + val + test + purged covers the set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moola.config.data import SplitRecipe
from moola.data.split_files import (
    PARTS,
    Split,
    WalkForward,
    read_indices,
    read_split_file,
    refuse_shuffled,
    write_split,
)
from moola.data.windows import WindowTimes
from moola.errors import DataError

__all__ = [
    "PARTS",
    "Split",
    "WalkForward",
    "forward_chain",
    "from_indices",
    "purge",
    "read_indices",
    "read_split_file",
    "refuse_shuffled",
    "walk_forward",
    "write_split",
]
_NONE: NDArray[np.int64] = np.empty(0, dtype=np.int64)


def purge(
    times: WindowTimes, earlier: NDArray[np.int64], later: NDArray[np.int64], embargo_bars: int = 0
) -> NDArray[np.int64]:
    """Return those of `earlier` whose label ends before `later` begins, less the embargo.

    Parameters
    ----------
    times
        Bars of every window of the set.
    earlier, later
        Windows of two parts, shape (m,) and (k,), int64; an empty `later` purges nothing.
    embargo_bars
        Bars that must lie between the end of a label and the first bar of `later`.

    Returns
    -------
    ndarray
        Shape (j,), int64, j at most m, in the order given.
    """
    if not len(later):
        return earlier
    return earlier[times.label_end[earlier] + embargo_bars < times.first[later].min()]


def forward_chain(name: str, recipe: SplitRecipe, times: WindowTimes, labeled_sha256: str) -> Split:
    """Cut train, val and test by share of windows, in time order, and purge at both borders.

    Raises DataError if a part is left without windows.
    """
    n = len(times)
    border = np.round(
        np.array([recipe.train_fraction, recipe.train_fraction + recipe.val_fraction]) * n
    ).astype(int)
    train, val, test = np.split(np.arange(n, dtype=np.int64), border)
    val = purge(times, val, test, recipe.embargo_bars)
    parts = {"train": purge(times, train, val, recipe.embargo_bars), "val": val, "test": test}
    return _checked(name, recipe, labeled_sha256, parts=parts, universe=np.arange(n))


def walk_forward(
    name: str, recipe: SplitRecipe, times: WindowTimes, labeled_sha256: str
) -> WalkForward:
    """Cut everything before the test part into folds, forward in time.

    The windows before the test part are cut into ``num_folds + 1`` blocks; fold k validates on
    block k + 1 and trains on blocks 1 to k (expanding) or on the last ``train_blocks`` of them
    (rolling), purged. Raises DataError if a part is left without windows.
    """
    n = len(times)
    border = round((recipe.train_fraction + recipe.val_fraction) * n)
    test = np.arange(border, n, dtype=np.int64)
    development = purge(times, np.arange(border, dtype=np.int64), test, recipe.embargo_bars)
    blocks = np.array_split(development, recipe.num_folds + 1)
    folds = []
    for k in range(1, recipe.num_folds + 1):
        oldest = 0 if recipe.train_blocks is None else max(0, k - recipe.train_blocks)
        before = np.concatenate(blocks[oldest:k])
        train = purge(times, before, blocks[k], recipe.embargo_bars)
        folds.append(
            _checked(
                f"{name}/fold{k}",
                recipe,
                labeled_sha256,
                parts={"train": train, "val": blocks[k]},
                universe=np.union1d(before, blocks[k]),
            )
        )
    if not len(test):
        _refuse_empty(name, "test")
    return WalkForward(
        name=name,
        labeled=recipe.labeled,
        labeled_sha256=labeled_sha256,
        folds=tuple(folds),
        test=test,
    )


def from_indices(
    name: str,
    labeled: str,
    labeled_sha256: str,
    times: WindowTimes,
    *,
    train: NDArray[np.int64],
    val: NDArray[np.int64],
    test: NDArray[np.int64],
    embargo_bars: int = 0,
) -> Split:
    """Make a split of given indices: forward in time or refused, then purged.

    Parameters
    ----------
    name
        Of the split.
    labeled, labeled_sha256
        The set it divides, and its digest.
    times
        Bars of every window of the set.
    train, val, test
        Windows of each part, shape (m,), int64.
    embargo_bars
        Bars between the end of a label and the next part, see `purge`.

    Returns
    -------
    Split
        Its train and val purged; what was left out is listed.

    Raises
    ------
    DataError
        If an index does not exist or a part is left without windows.
    AuditError
        If the indices are shuffled or interleaved.
    """
    parts = {"train": train, "val": val, "test": test}
    for part, rows in parts.items():
        if len(rows) and (rows.min() < 0 or rows.max() >= len(times)):
            raise DataError(
                f"{part} of split {name!r} names windows {rows.min()} to {rows.max()}",
                limit=f"0 to {len(times) - 1}",
            )
    recipe = SplitRecipe(labeled=labeled, embargo_bars=embargo_bars)
    split = _checked(name, recipe, labeled_sha256, parts=parts, universe=np.arange(len(times)))
    refuse_shuffled(split)
    parts["val"] = purge(times, val, test, embargo_bars)
    parts["train"] = purge(times, train, parts["val"], embargo_bars)
    return _checked(name, recipe, labeled_sha256, parts=parts, universe=np.arange(len(times)))


def _checked(
    name: str,
    recipe: SplitRecipe,
    labeled_sha256: str,
    *,
    parts: dict[str, NDArray[np.int64]],
    universe: NDArray[np.int64],
) -> Split:
    for part, rows in parts.items():
        if not len(rows):
            _refuse_empty(name, part)
    indices = np.concatenate(list(parts.values()))
    return Split(
        name=name,
        labeled=recipe.labeled,
        labeled_sha256=labeled_sha256,
        strategy=recipe.strategy,
        train=parts["train"],
        val=parts["val"],
        test=parts.get("test", _NONE),
        purged=np.setdiff1d(universe, indices).astype(np.int64),
        embargo_bars=recipe.embargo_bars,
    )


def _refuse_empty(name: str, part: str) -> None:
    raise DataError(
        f"split {name!r} leaves no {part} windows",
        remedy="Take fewer folds, a shorter embargo or more bars",
    )
