"""Folds inside a training set: forward-chaining for windows, stratified for unordered series."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, TimeSeriesSplit

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
_NUM_FOLDS = 3
_NUM_STRATIFIED = 10


def forward_chaining_folds(
    target: NDArray[np.int64], *, gap_windows: int, every_class_in_val: bool = True
) -> list[Fold]:
    """Return train and validation rows of up to three folds, each trained on its own past.

    Parameters
    ----------
    target
        Class indices in time order, shape (n,).
    gap_windows
        Windows left out between train and validation.
    every_class_in_val
        Whether a fold whose validation part lacks a class is left out, too; one whose train part
        lacks a class always is.

    Returns
    -------
    The folds that are left, in time order; none where n is small or the classes follow one another.
    """
    classes = set(target.tolist())
    if len(target) <= _NUM_FOLDS:
        return []
    blocks = TimeSeriesSplit(_NUM_FOLDS).split(target)
    folds = [(before[: max(0, len(before) - gap_windows)], val) for before, val in blocks]
    return [
        (train, val)
        for train, val in folds
        if set(target[train].tolist()) == classes
        and (not every_class_in_val or set(target[val].tolist()) == classes)
    ]


def stratified_folds(target: NDArray[np.int64], *, seed: int) -> list[Fold]:
    """Return shuffled folds with every class in each; none where a class has a single series.

    For series without an order in time only: on windows of one time line they would leak.
    """
    splits = min(_NUM_STRATIFIED, int(np.bincount(target).min()))
    if splits < 2:
        return []
    folds = StratifiedKFold(splits, shuffle=True, random_state=seed)
    return list(folds.split(np.zeros((len(target), 1)), target))
