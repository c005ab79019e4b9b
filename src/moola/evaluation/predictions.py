"""Predictions: validation, cleaning, and the loss of each window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moola.errors import BadInput

_ROW_SUM_TOLERANCE_FLOAT32 = 1e-4
_ROW_SUM_TOLERANCE = 1e-6
_ROUNDING = 1e-12
_MAP_NAMES = "Map class names to indices with the set's meta.json"
DIVERGED = "A model that returns NaN has diverged: look at its training run"


def validate_predictions(y: ArrayLike, proba: ArrayLike) -> None:
    """Reject labels and probabilities from which no metric should be computed.

    Parameters
    ----------
    y
        Class indices, shape (n,).
    proba
        Probabilities, shape (n, K), K at least 2. Rows must sum to 1 within 1e-6 (1e-4 if the
        array is float32 or float16).

    Raises
    ------
    BadInput
        On a wrong shape, n = 0, NaN or infinity, a negative value, a row that does not sum to 1, or
        a label that is not an integer in 0..K-1.
    """
    labels, matrix = np.asarray(y), np.asarray(proba)
    _check_shapes(labels, matrix)
    if not np.issubdtype(matrix.dtype, np.floating):
        raise BadInput(f"probabilities have dtype {matrix.dtype}", limit="floating point")
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise BadInput(
            f"probabilities of window {row} are {matrix[row].tolist()}",
            limit="finite numbers",
            remedy=DIVERGED,
        )
    if (matrix < 0).any():
        raise BadInput(
            f"the smallest probability is {matrix.min():g}",
            limit="at least 0",
            remedy="Pass softmax outputs, not logits or scores",
        )
    single = matrix.dtype.itemsize < 8
    tolerance = _ROW_SUM_TOLERANCE_FLOAT32 if single else _ROW_SUM_TOLERANCE
    gap = np.abs(matrix.sum(axis=1, dtype=np.float64) - 1.0)
    if gap.max() > tolerance:
        row = int(gap.argmax())
        raise BadInput(
            f"probabilities of window {row} sum to {matrix[row].sum():.6g}",
            limit=f"1 within {tolerance:g}",
            remedy="Pass softmax outputs, not logits or scores",
        )
    _check_labels(labels, matrix.shape[1])


def clean_predictions(
    y: ArrayLike, proba: ArrayLike
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Validate and return labels as integers and probabilities as float64 rows summing to 1.

    Rows that already sum to 1, up to rounding, are unchanged: rescaling would break tied scores.
    """
    validate_predictions(y, proba)
    matrix = np.asarray(proba, dtype=np.float64)
    total = matrix.sum(axis=1, keepdims=True)
    exact = np.abs(total - 1.0) <= _ROUNDING
    return np.asarray(y).astype(np.intp), matrix / np.where(exact, 1.0, total)


def clean_probabilities(proba: ArrayLike) -> NDArray[np.float64]:
    """Validate probabilities without labels, and clean them as `clean_predictions` does."""
    matrix = np.asarray(proba)
    rows = matrix.shape[0] if matrix.ndim else 0
    return clean_predictions(np.zeros(rows, dtype=int), matrix)[1]


def mean_proba(probas: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Return the mean probabilities of several models or seeds on the same windows, (n, K).

    Parameters
    ----------
    probas
        Shape (n, K) each; at least one.

    Raises
    ------
    BadInput
        If there are none, or their shapes differ, or a value is not finite.
    """
    arrays = [np.asarray(proba, dtype=np.float64) for proba in probas]
    if not arrays:
        raise BadInput("there are no predictions to average", limit="at least one (n, K)")
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise BadInput(
            f"the predictions have shapes {sorted(shapes)}",
            limit="one shape",
            remedy="Predict the same windows with every model",
        )
    mean: NDArray[np.float64] = np.mean(arrays, axis=0)
    if not np.isfinite(mean).all():
        raise BadInput(
            "the predictions hold NaN or infinity", limit="finite numbers", remedy=DIVERGED
        )
    return mean


def _check_shapes(labels: NDArray[Any], matrix: NDArray[Any]) -> None:
    if labels.ndim != 1 or matrix.ndim != 2 or matrix.shape[1] < 2:
        raise BadInput(
            f"labels have shape {labels.shape}, probabilities {matrix.shape}",
            limit="(n,) and (n, K) with K at least 2",
        )
    if labels.shape[0] != matrix.shape[0]:
        raise BadInput(
            f"there are {labels.shape[0]} labels and {matrix.shape[0]} rows of probabilities",
            limit="one row for each label",
        )
    if labels.size == 0:
        raise BadInput("there are 0 windows", limit="at least 1")


def _check_labels(labels: NDArray[Any], num_classes: int) -> None:
    if not np.issubdtype(labels.dtype, np.integer) and not np.issubdtype(labels.dtype, np.floating):
        raise BadInput(
            f"labels have dtype {labels.dtype}", limit="whole numbers", remedy=_MAP_NAMES
        )
    bad = ~((labels >= 0) & (labels < num_classes) & (labels == np.floor(labels)))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise BadInput(
            f"the label of window {row} is {labels[row]}",
            limit=f"a class index in 0..{num_classes - 1}",
            remedy=_MAP_NAMES,
        )


def log_loss_per_window(
    labels: NDArray[np.intp], matrix: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return -ln of the true class's probability, nats, shape (n,), clipped as scikit-learn does.

    A probability of 0 for the true class costs about 36 nats instead of infinity.
    """
    eps = np.finfo(np.float64).eps
    chosen = matrix[np.arange(labels.size), labels]
    return -np.log(np.clip(chosen, eps, 1.0 - eps))


def brier_per_window(labels: NDArray[np.intp], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared distance between probabilities and the one-hot label, shape (n,)."""
    target = np.eye(matrix.shape[1])[labels]
    return ((matrix - target) ** 2).sum(axis=1)
