"""Two models of any kind on the same rows: the paired difference of their losses, by interval.

A row is whatever a model answers: a customer, a day, a window. Rows may be independent, fall into
clusters (several rows of one customer) or follow each other in time; each needs an interval of its
own, because rows that depend on each other say less than as many independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t

from moola.errors import BadInput
from moola.evaluation.compare_result import Delta
from moola.evaluation.dependence import effective_sample_size, persistence
from moola.evaluation.mean_interval import constant_confidence, mean_interval
from moola.evaluation.resampling import (
    BootstrapInterval,
    check_confidence,
    no_interval,
    quantile_of_width,
    side_width,
)

Losses = NDArray[np.float64]

LEAST_ROWS = 10
LEAST_CLUSTERS = 10
_LEAST_PROBABILITY = 1e-15
_PINBALL = 0.5


def log_loss(y: NDArray, answer: NDArray) -> Losses:
    """Return minus the logarithm of the probability of each row's class; `answer` (n, K)."""
    true = answer[np.arange(len(y)), y.astype(np.int64)]
    return np.asarray(-np.log(np.maximum(true, _LEAST_PROBABILITY)))


def brier(y: NDArray, answer: NDArray) -> Losses:
    """Return the squared distance of the probabilities, shape (n, K), from the row's class."""
    target = np.zeros_like(answer)
    target[np.arange(len(y)), y.astype(np.int64)] = 1.0
    return np.asarray(((answer - target) ** 2).sum(axis=1))


def error_rate(y: NDArray, answer: NDArray) -> Losses:
    """Return 1 where the most probable class, of probabilities (n, K), is not the row's."""
    return np.asarray((answer.argmax(axis=1) != y).astype(np.float64))


def absolute_error(y: NDArray, answer: NDArray) -> Losses:
    """Return the absolute error of each row; `answer` (n,)."""
    return np.abs(answer - y)


def squared_error(y: NDArray, answer: NDArray) -> Losses:
    """Return the squared error of each row; `answer` (n,)."""
    return np.asarray((answer - y) ** 2)


def pinball(y: NDArray, answer: NDArray) -> Losses:
    """Return the pinball loss of the median, half the absolute error; `answer` (n,)."""
    return _PINBALL * np.abs(answer - y)


# Every metric as a loss of each row, so that below 0 the candidate is better whatever the metric.
LOSSES: Mapping[str, Callable[[NDArray, NDArray], Losses]] = {
    "log_loss": log_loss,
    "brier": brier,
    "accuracy": error_rate,
    "mae": absolute_error,
    "mse": squared_error,
    "pinball": pinball,
}


def loss_difference(
    candidate: ArrayLike,
    rival: ArrayLike,
    *,
    metric: str,
    margin: float = 0.0,
    clusters: ArrayLike | None = None,
    in_time: bool = False,
    confidence: float = 0.95,
) -> Delta:
    """Return the mean difference of two models' losses on the same rows, with its interval.

    Parameters
    ----------
    candidate, rival
        Loss of each row, shape (n,), finite.
    metric
        Name of the loss, for the result.
    margin
        Largest negligible difference, at least 0.
    clusters
        Which rows belong together, shape (n,): the interval is then that of the clusters' sums
        (cluster-robust, Student's t; Liang and Zeger 1986). None: rows are independent.
    in_time
        Rows are in time order, and how long they remember is measured on them
        (`moola.evaluation.mean_interval`).
    confidence
        Two-sided, in (0, 1).

    Returns
    -------
    Delta
        Below 0 the candidate is better. Both sides of the interval reach farther where the
        differences are skewed, as those of an overconfident model are.

    Raises
    ------
    BadInput
        If shapes differ, a loss is not finite, there are fewer than 10 rows, the margin is
        negative, or clusters are named beside time.
    """
    check_confidence(confidence)
    difference = _checked(candidate, "candidate") - _checked(rival, "rival")
    if not margin >= 0:
        raise BadInput(f"margin is {margin!r}", limit="a number of at least 0")
    if clusters is not None and in_time:
        raise BadInput(
            "clusters are named beside time",
            limit="one of both",
            remedy="Take the mean of each cluster first, or leave the clusters out",
        )
    if in_time:
        interval = _in_time(difference, confidence)
    else:
        interval = _of_clusters(difference, _numbered(clusters, len(difference)), confidence)
    return _conclusion(metric, interval, margin)


def _checked(losses: ArrayLike, whose: str) -> Losses:
    values = np.asarray(losses, dtype=np.float64)
    if values.ndim != 1 or len(values) < LEAST_ROWS:
        raise BadInput(
            f"the {whose}'s losses have shape {values.shape}",
            limit=f"(n,), n at least {LEAST_ROWS}",
            remedy="Compare on more rows",
        )
    if not np.isfinite(values).all():
        raise BadInput(
            f"{int((~np.isfinite(values)).sum())} of the {whose}'s {len(values)} losses are not "
            "finite",
            limit="finite losses",
            remedy="Look at these rows' answers: a model that answers NaN cannot be compared",
        )
    return values


def _numbered(clusters: ArrayLike | None, n: int) -> NDArray[np.int64]:
    """Return each row's cluster as a number from 0."""
    if clusters is None:
        return np.arange(n)
    names = np.asarray(clusters)
    if names.shape != (n,):
        raise BadInput(f"clusters have shape {names.shape}", limit=f"({n},), one of each row")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _in_time(values: Losses, confidence: float) -> BootstrapInterval:
    """Return the interval of the mean of rows in time order.

    The great losses of an overconfident model come together where rows remember, and a sample that
    happens to hold none shows no skewness to correct for: the fewer independent rows it is worth,
    the smaller the error probability, as against a constant in the gates.
    """
    worth = effective_sample_size(values.size, persistence(values))
    stricter = constant_confidence(confidence, worth, 2, LEAST_CLUSTERS)
    return mean_interval(
        values, block_length=1, horizons_apart=True, confidence=stricter, skewed=True
    )


def _of_clusters(
    values: Losses, cluster: NDArray[np.int64], confidence: float
) -> BootstrapInterval:
    """Return the interval of the mean; rows of different clusters are independent."""
    n, estimate = values.size, float(values.mean())
    if float(np.ptp(values)) <= 1e-12 * max(1.0, abs(estimate)):
        return no_interval(estimate, 0, "the differences do not vary")
    sizes = np.bincount(cluster).astype(np.float64)
    worth = float(sizes.sum() ** 2 / (sizes**2).sum())  # clusters of equal size that say as much
    if worth < LEAST_CLUSTERS:
        return no_interval(
            estimate, 0, f"{len(sizes)} clusters are worth {worth:.1f} of equal size; at least "
            f"{LEAST_CLUSTERS} are needed",
        )  # fmt: skip
    sums = np.bincount(cluster, weights=values - estimate)
    power = float(sums @ sums)
    error = math.sqrt(len(sizes) / (len(sizes) - 1) * power) / n
    law = t(df=worth - 1.0)
    quantile = float(law.ppf(0.5 + confidence / 2.0))
    skewness = float((sums**3).sum()) / power**1.5
    towards = math.copysign(1.0, -estimate) * skewness
    return BootstrapInterval(
        estimate=estimate,
        low=estimate - side_width(quantile, -skewness) * error,
        high=estimate + side_width(quantile, skewness) * error,
        standard_error=error,
        p_value=float(2.0 * law.sf(quantile_of_width(abs(estimate) / error, towards))),
        minimum_detectable=(quantile + float(norm.ppf(0.8))) * error,
        num_undefined=0,
        reason=None,
    )


def _conclusion(metric: str, interval: BootstrapInterval, margin: float) -> Delta:
    low = -math.inf if interval.low is None else interval.low
    high = math.inf if interval.high is None else interval.high
    return Delta(
        metric=metric,
        estimate=interval.estimate,
        low=interval.low,
        high=interval.high,
        p_value=interval.p_value,
        minimum_detectable=interval.minimum_detectable,
        power={},
        margin=margin,
        higher_is_better=False,
        superior=high < 0,
        inferior=low > 0,
        non_inferior=high < margin,
        equivalent=-margin < low and high < margin,
        reason=interval.reason,
    )
