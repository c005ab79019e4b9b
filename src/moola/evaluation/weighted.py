"""The metrics of many resamples at once, from the count of each window in each resample.

The formulas are those of scikit-learn with ``sample_weight``; tests check that they agree. One call
of scikit-learn per resample would take a second per hundred.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moola.evaluation.binning import (
    CalibrationErrors,
    Scheme,
    assign_bins,
    default_num_bins,
    errors_from_sums,
)
from moola.evaluation.predictions import brier_per_window, log_loss_per_window

_CHUNK_ELEMENTS = 400_000
Floats = NDArray[np.float64]


def weighted_metrics(labels: NDArray[np.intp], matrix: Floats, counts: Floats) -> dict[str, Floats]:
    """Return every metric of `moola.evaluation.metrics.compute_metrics` for each resample.

    Parameters
    ----------
    labels
        Class indices, shape (n,).
    matrix
        Probabilities, shape (n, K), rows summing to 1.
    counts
        Count of each window, shape (R, n).

    Returns
    -------
    dict
        Arrays of shape (R,); NaN if undefined in that resample. The calibration errors use the
        bins of the full sample.
    """
    confusion = _confusion(labels, matrix, counts)
    values = _from_confusion(confusion)
    values |= rank_metrics(labels, matrix, counts)
    total = counts.sum(axis=1)
    values["brier"] = counts @ brier_per_window(labels, matrix) / total
    values["log_loss"] = counts @ log_loss_per_window(labels, matrix) / total
    return values | calibration_metrics(labels, matrix, counts)


def rank_metrics(labels: NDArray[np.intp], matrix: Floats, counts: Floats) -> dict[str, Floats]:
    """Return macro one-against-rest ``pr_auc`` and ``roc_auc``, shape (R,), NaN if undefined."""
    step = max(1, _CHUNK_ELEMENTS // labels.size)
    parts = []
    for start in range(0, counts.shape[0], step):
        chunk = counts[start : start + step]
        areas = [_rank_one(matrix[:, k], labels == k, chunk) for k in range(matrix.shape[1])]
        parts.append(np.mean(areas, axis=0))
    joined = np.concatenate(parts, axis=1)
    return {"pr_auc": joined[0], "roc_auc": joined[1]}


def calibration_metrics(
    labels: NDArray[np.intp], matrix: Floats, counts: Floats
) -> dict[str, Floats]:
    """Return ``ece``, ``ece_equal_width_10`` and ``mce``, shape (R,)."""
    confidence = matrix.max(axis=1)
    correct = (matrix.argmax(axis=1) == labels).astype(np.float64)

    def errors(num_bins: int, scheme: Scheme) -> CalibrationErrors:
        bins, _ = assign_bins(confidence, num_bins=num_bins, scheme=scheme)
        member = np.eye(int(bins.max()) + 1)[bins]
        return errors_from_sums(
            counts @ member,
            counts @ (member * correct[:, None]),
            counts @ (member * confidence[:, None]),
        )

    mass, width = errors(default_num_bins(labels.size), "equal_mass"), errors(10, "equal_width")
    return {"ece": mass.debiased, "ece_equal_width_10": width.plugin, "mce": mass.maximum}


def _confusion(labels: NDArray[np.intp], matrix: Floats, counts: Floats) -> Floats:
    num_classes = matrix.shape[1]
    cell = labels * num_classes + matrix.argmax(axis=1)
    flat = counts @ np.eye(num_classes**2)[cell]
    return flat.reshape(-1, num_classes, num_classes)


def _from_confusion(confusion: Floats) -> dict[str, Floats]:
    total = confusion.sum(axis=(1, 2))
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    hit = np.einsum("rkk->rk", confusion)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hit / support
        f1 = np.where(support > 0, 2.0 * hit / (support + predicted), np.nan)
        covariance = hit.sum(axis=1) * total - (support * predicted).sum(axis=1)
        scale = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (support**2).sum(axis=1))
        mcc = np.where(scale > 0, covariance / np.sqrt(scale), np.nan)
    values = {
        "accuracy": hit.sum(axis=1) / total,
        "balanced_accuracy": recall.mean(axis=1),
        "f1_weighted": np.nansum(f1 * support, axis=1) / total,
        "mcc": mcc,
    }
    for k in range(confusion.shape[1]):
        values[f"f1_class_{k}"] = f1[:, k]
        values[f"recall_class_{k}"] = recall[:, k]
    return values


def _rank_one(score: Floats, event: NDArray[np.bool_], counts: Floats) -> tuple[Floats, Floats]:
    """Return average precision and ROC-AUC of one class for each row of `counts`; ties share."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), score.size - 1)
    weights = counts[:, order]
    hits = np.cumsum(weights * event[order], axis=1)[:, last]
    total = np.cumsum(weights, axis=1)[:, last]
    positives, negatives = hits[:, -1], total[:, -1] - hits[:, -1]
    step = np.diff(hits, axis=1, prepend=0.0)
    misses = total - hits
    miss_step = np.diff(misses, axis=1, prepend=0.0)
    undefined = (positives == 0) | (negatives == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(total > 0, hits / total, 0.0)
        average = (step * precision).sum(axis=1) / positives
        below = negatives[:, None] - misses + miss_step / 2.0
        area = (step * below).sum(axis=1) / (positives * negatives)
    return np.where(undefined, np.nan, average), np.where(undefined, np.nan, area)
