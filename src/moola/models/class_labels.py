"""Class labels: any sortable labels as class indices, checked; how many are left to train on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
    known = np.isin(y, classes)
    if not known.all():
        raise BadInput(
            f"validation holds a label that training lacks, {y[int(np.argmin(known))]!r}",
            limit=f"one of {classes.tolist()}",
            remedy="Drop its windows, or train on that class too",
        )
    return np.searchsorted(classes, y).astype(np.int64)


def held_back(target: NDArray[np.int64], share: float) -> int:
    """Return how many windows are left to train on when the latest `share` is held back."""
    cut = len(target) - max(1, round(share * len(target)))
    left = len(np.unique(target[:cut]))
    if left < len(np.unique(target)):
        raise BadInput(
            f"val_split {share:g} leaves {left} of {len(np.unique(target))} classes to train on",
            limit="every class in the earlier part",
            remedy="Lower val_split",
        )
    return cut
