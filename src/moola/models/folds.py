"""Folds inside a training set: forward-chaining for windows, stratified for unordered series."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, TimeSeriesSplit

from moola.errors import BadInput

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
_NUM_FOLDS = 3
_NUM_STRATIFIED = 5


def forward_chaining_folds(target: NDArray[np.int64], *, gap_windows: int) -> list[Fold]:
    """Return train and validation rows of up to three folds, every class in both parts.

    Parameters
    ----------
    target
        Class indices in time order, shape (n,).
    gap_windows
        Windows left out between train and validation, at most n // 8.

    Raises
    ------
    BadInput
        If no fold is left.
    """
    classes = set(target.tolist())
    splits = min(_NUM_FOLDS, len(target) - 1)
    folds = TimeSeriesSplit(splits, gap=min(gap_windows, len(target) // 8)) if splits > 1 else None
    usable = [
        (train, val)
        for train, val in (folds.split(target) if folds else ())
        if set(target[train].tolist()) == set(target[val].tolist()) == classes
    ]
    if not usable:
        raise BadInput(
            f"{len(target)} windows leave no forward-chaining fold that holds every class",
            limit="more windows of each class",
            remedy="Add windows, or check that the classes do not follow one another in time",
        )
    return usable


def stratified_folds(target: NDArray[np.int64], *, seed: int) -> list[Fold]:
    """Return shuffled folds with every class in each; none where a class has a single series.

    For series without an order in time only: on windows of one time line they would leak.
    """
    splits = min(_NUM_STRATIFIED, int(np.bincount(target).min()))
    if splits < 2:
        return []
    folds = StratifiedKFold(splits, shuffle=True, random_state=seed)
    return list(folds.split(np.zeros((len(target), 1)), target))
