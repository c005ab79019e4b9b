"""Class labels: any sortable labels as class indices, checked; how many are left to train on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moola.config.base import check_count, check_range
from moola.errors import BadInput


def checked_labels(X: NDArray, y: NDArray) -> tuple[NDArray, NDArray[np.int64]]:
    """Return the classes in sorted order, shape (K,), and each window's class index, shape (n,).

    Parameters
    ----------
    X
        As long as `y`; not looked at otherwise.
    y
        Any sortable labels.

    Returns
    -------
    tuple
        Classes, shape (K,), and class indices, shape (n,), int64.

    Raises
    ------
    BadInput
        If there is not one label a window, one is NaN, or there are fewer than two classes.
    """
    if y.shape != (len(X),):
        raise BadInput(
            f"y has shape {y.shape}",
            limit=f"({len(X)},), one label a window",
            remedy="Give as many labels as windows",
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise BadInput(
            "y holds NaN or infinity", limit="finite labels", remedy="Drop windows without a label"
        )
    classes, target = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise BadInput(
            f"y holds 1 class, {classes.tolist()[0]!r}",
            limit="at least 2 classes",
            remedy="Train on windows of every class",
        )
    return classes, target.astype(np.int64)


def known_labels(y: NDArray, classes: NDArray, num_windows: int) -> NDArray[np.int64]:
    """Return the class index of each validation label, or raise BadInput for one not trained on."""
    y = np.asarray(y)
    if y.shape != (num_windows,):
        raise BadInput(
            f"validation has {num_windows} windows and labels of shape {y.shape}",
            limit=f"({num_windows},), one label a window",
            remedy="Give as many labels as windows",
        )
    is_class = np.isin(y, classes)
    if not is_class.all():
        raise BadInput(
            f"validation holds a label that training lacks, {y[int(np.argmin(is_class))]!r}",
            limit=f"one of {classes.tolist()}",
            remedy="Drop its windows, or train on that class too",
        )
    return np.searchsorted(classes, y).astype(np.int64)


def held_back(
    target: NDArray[np.int64], share: float, *, gap_windows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on and the latest ones, which are held back.

    Parameters
    ----------
    target
        Class indices in time order, shape (n,).
    share
        To hold back, above 0 and below 1; at least one window.
    gap_windows
        Windows left out in between.

    Returns
    -------
    Rows to train on and rows held back, both sorted.

    Raises
    ------
    BadInput
        If a number is out of range, or the rows to train on lack a class.
    """
    check_range("val_split", share, low=0, high=1, open_low=True, open_high=True)
    check_count("gap_windows", gap_windows, low=0)
    rows = np.arange(len(target))
    border = len(target) - max(1, round(share * len(target)))
    train = rows[: max(0, border - gap_windows)]
    remaining, total = len(np.unique(target[train])), len(np.unique(target))
    if remaining < total:
        raise BadInput(
            f"val_split {share:g} and a gap of {gap_windows} windows leave {remaining} of {total} "
            "classes to train on",
            limit="every class in the earlier part",
            remedy="Lower val_split or gap_windows, or train on more windows",
        )
    return train, rows[border:]
