"""Metrics of probabilistic class predictions, with block-bootstrap intervals.

Throughout, `y` holds class indices 0..K-1, shape (n,), and `proba` class probabilities, shape
(n, K), in the time order of the windows. A metric that is undefined on these windows (a class does
not occur) is None, never 0 or NaN; `undefined_reasons` says why.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moola.evaluation.binning import assign_bins, bin_sums
from moola.evaluation.calibration import calibration_bands
from moola.evaluation.dependence import measured_block, persistence
from moola.evaluation.predictions import (
    brier_per_window,
    clean_predictions,
    log_loss_per_window,
)
from moola.evaluation.resampling import BootstrapInterval, interval_from_draws, resample_counts
from moola.evaluation.weighted import calibration_metrics, weighted_metrics

IntervalKind = Literal["interval", "null band"]
NULL_BAND: IntervalKind = "null band"
_NON_NEGATIVE = ("brier", "log_loss")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes
    ----------
    estimate
        The metric on the windows; None if undefined.
    low, high
        Ends of the interval; None with a `reason` if undefined.
    confidence
        Two-sided, in (0, 1).
    num_undefined
        Resamples left out because the metric was undefined in them.
    reason
        Why something is None; None otherwise.
    kind
        ``interval``; or ``null band`` for ECE and MCE: from 0 to the upper quantile of a perfectly
        calibrated model's error. It says nothing about where the true error lies.
    """

    estimate: float | None
    low: float | None
    high: float | None
    confidence: float
    num_undefined: int = 0
    reason: str | None = None
    kind: IntervalKind = "interval"

    def to_dict(self) -> dict[str, Any]:
        """Return plain, JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class BrierDecomposition:
    """Parts of the Brier score: ``reliability - resolution + uncertainty + within_bin``.

    Attributes
    ----------
    reliability
        Squared miscalibration; lower is better.
    resolution
        Squared deviation of the bins' observed rates from the overall rate; higher is better.
    uncertainty
        Variance of the labels; a property of the windows, not of the model.
    within_bin
        Remainder of the binning (variance less covariance within bins); 0 if all predictions in
        a bin are equal.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bin: float


def compute_metrics(y: ArrayLike, proba: ArrayLike) -> dict[str, float | None]:
    """Compute every metric Moola reports.

    Parameters
    ----------
    y
        Class indices, shape (n,).
    proba
        Probabilities, shape (n, K). float32 rows are rescaled to sum to 1.

    Returns
    -------
    dict
        ``accuracy``, ``balanced_accuracy``, ``f1_weighted``, ``f1_class_<k>``,
        ``recall_class_<k>``, ``pr_auc`` (macro mean over classes of one-against-rest average
        precision), ``roc_auc`` (macro, one against rest), ``brier`` (sum over classes of squared
        differences, mean over windows, range 0 to 2: for two classes twice the one-class form;
        Brier 1950), ``log_loss`` (nats), ``mcc``, ``ece`` (top-label, equal-mass bins, debiased),
        ``ece_equal_width_10`` (top-label, ten bins of equal width, not debiased), ``mce`` (worst
        equal-mass bin, not debiased). None if undefined.

    Raises
    ------
    BadInput
        As `moola.evaluation.predictions.validate_predictions`.
    """
    labels, matrix = clean_predictions(y, proba)
    values = _defined_metrics(labels, matrix)
    for name in undefined_reasons(labels, matrix):
        values[name] = None
    return values


def undefined_reasons(y: ArrayLike, proba: ArrayLike) -> dict[str, str]:
    """Return the reason for each undefined metric, by name; empty if all are defined."""
    labels, matrix = clean_predictions(y, proba)
    num_classes = matrix.shape[1]
    absent = [k for k in range(num_classes) if not (labels == k).any()]
    reasons: dict[str, str] = {}
    for k in absent:
        text = f"class {k} does not occur in the {labels.size} windows"
        for name in ("balanced_accuracy", "pr_auc", "roc_auc"):
            reasons.setdefault(name, text)
        reasons[f"f1_class_{k}"] = reasons[f"recall_class_{k}"] = text
    predicted = np.unique(matrix.argmax(axis=1))
    if predicted.size == 1:
        reasons["mcc"] = f"only class {predicted[0]} is ever predicted"
    elif len(absent) == num_classes - 1:
        reasons["mcc"] = f"only class {labels[0]} occurs"
    return reasons


def metric_intervals(
    y: ArrayLike,
    proba: ArrayLike,
    *,
    block_length: int,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Compute every metric with an interval, ECE and MCE with a null band.

    Parameters
    ----------
    y, proba
        As `compute_metrics`, in time order.
    block_length
        Windows that share bars, see `moola.evaluation.compare.paired_comparison`; blocks are longer
        if the losses depend on each other for longer.
    num_resamples
        Bootstrap resamples.
    confidence
        Two-sided, in (0, 1).
    seed
        Seed of the resampling.

    Returns
    -------
    dict
        `Interval` for each metric. The interval is ``estimate ± t * se``, with the bootstrap
        standard error and the small-sample correction of
        `moola.evaluation.resampling.interval_from_draws`, clipped to the metric's range. For the
        calibration errors see `moola.evaluation.calibration.calibration_bands`.

    Raises
    ------
    BadInput
        As `moola.evaluation.predictions.validate_predictions`, or if n is below 10.
    """
    labels, matrix = clean_predictions(y, proba)
    losses = log_loss_per_window(labels, matrix)
    block_length = max(block_length, measured_block(persistence(losses), labels.size))
    counts = resample_counts(
        labels.size, block_length=block_length, num_resamples=num_resamples, seed=seed
    )
    draws = weighted_metrics(labels, matrix, counts)
    bands = calibration_bands(labels, matrix, confidence=confidence, seed=seed)
    reasons = undefined_reasons(labels, matrix)
    intervals = {}
    for name, estimate in compute_metrics(labels, matrix).items():
        if estimate is None:
            intervals[name] = Interval(
                estimate=None, low=None, high=None, confidence=confidence, reason=reasons[name]
            )
            continue
        if name in bands:
            intervals[name] = Interval(
                estimate=estimate, low=0.0, high=bands[name], confidence=confidence, kind=NULL_BAND
            )
            continue
        interval = interval_from_draws(
            estimate,
            draws[name],
            num_windows=labels.size,
            block_length=block_length,
            confidence=confidence,
        )
        intervals[name] = _clipped(name, interval, confidence)
    return intervals


def brier_decomposition(
    y: ArrayLike, proba: ArrayLike, *, num_bins: int = 10
) -> BrierDecomposition:
    """Split the multi-class Brier score, summed over classes, into Murphy's (1973) parts.

    The probability of each class is put into equal-mass bins. With the remainder of the binning
    (Stephenson, Coelho and Jolliffe 2008) the parts add up to ``brier`` exactly.

    Parameters
    ----------
    y, proba
        As `compute_metrics`.
    num_bins
        Equal-mass bins per class; ties may leave fewer.

    Raises
    ------
    BadInput
        As `moola.evaluation.predictions.validate_predictions`, or if `num_bins` is below 1.
    """
    labels, matrix = clean_predictions(y, proba)
    reliability = resolution = uncertainty = 0.0
    for k in range(matrix.shape[1]):
        event = (labels == k).astype(np.float64)
        bins, _ = assign_bins(matrix[:, k], num_bins=num_bins)
        count, observed, predicted = bin_sums(bins, event, matrix[:, k])
        count[count == 0] = np.nan
        rate, forecast = observed / count, predicted / count
        share = count / labels.size
        reliability += float(np.nansum(share * (forecast - rate) ** 2))
        resolution += float(np.nansum(share * (rate - event.mean()) ** 2))
        uncertainty += float(event.mean() * (1.0 - event.mean()))
    brier = float(brier_per_window(labels, matrix).mean())
    return BrierDecomposition(
        reliability=reliability,
        resolution=resolution,
        uncertainty=uncertainty,
        within_bin=brier - (reliability - resolution + uncertainty),
    )


def _defined_metrics(
    labels: NDArray[np.intp], matrix: NDArray[np.float64]
) -> dict[str, float | None]:
    from sklearn import metrics as sk

    classes = list(range(matrix.shape[1]))
    predicted = matrix.argmax(axis=1)
    _, recall, f1, support = sk.precision_recall_fscore_support(
        labels, predicted, labels=classes, average=None, zero_division=0
    )
    target = np.eye(len(classes))[labels]
    both = ((target.min(axis=0) == 0) & (target.max(axis=0) == 1)).all()
    values: dict[str, float | None] = {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(np.mean(recall)),
        "f1_weighted": float(np.average(f1, weights=support)),
    }
    values |= {f"f1_class_{k}": float(f1[k]) for k in classes}
    values |= {f"recall_class_{k}": float(recall[k]) for k in classes}
    values["pr_auc"] = float(sk.average_precision_score(target, matrix)) if both else None
    values["roc_auc"] = float(sk.roc_auc_score(target, matrix)) if both else None
    values["brier"] = float(brier_per_window(labels, matrix).mean())
    values["log_loss"] = float(log_loss_per_window(labels, matrix).mean())
    values["mcc"] = float(sk.matthews_corrcoef(labels, predicted))
    calibration = calibration_metrics(labels, matrix, np.ones((1, labels.size)))
    return values | {name: float(value[0]) for name, value in calibration.items()}


def _clipped(name: str, interval: BootstrapInterval, confidence: float) -> Interval:
    low, high = interval.low, interval.high
    if low is not None and high is not None:
        bottom = -1.0 if name == "mcc" else 0.0
        top = 2.0 if name == "brier" else np.inf if name in _NON_NEGATIVE else 1.0
        low, high = max(low, bottom), min(high, top)
    return Interval(
        estimate=interval.estimate,
        low=low,
        high=high,
        confidence=confidence,
        num_undefined=interval.num_undefined,
        reason=interval.reason,
    )
