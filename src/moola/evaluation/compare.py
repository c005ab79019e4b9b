"""Paired comparison of two models on the same windows.

Every difference is **candidate minus baseline**. For log-loss, Brier score and ECE a negative
difference favours the candidate, for accuracy and PR-AUC a positive one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moola.errors import BadInput
from moola.evaluation.compare_result import Delta, PairedComparison
from moola.evaluation.dependence import measured_block, persistence
from moola.evaluation.mean_interval import mean_interval
from moola.evaluation.predictions import (
    brier_per_window,
    clean_predictions,
    log_loss_per_window,
)
from moola.evaluation.resampling import (
    MIN_EFFECTIVE_WINDOWS,
    MIN_WINDOWS,
    BootstrapInterval,
    effective_windows,
    interval_from_draws,
    resample_counts,
)
from moola.evaluation.weighted import calibration_metrics, rank_metrics

DEFAULT_MARGINS: Mapping[str, float] = {
    "log_loss": 0.02,
    "brier": 0.02,
    "accuracy": 0.02,
    "pr_auc": 0.02,
    "ece": 0.02,
}
HIGHER_IS_BETTER = {
    "log_loss": False,
    "brier": False,
    "accuracy": True,
    "pr_auc": True,
    "ece": False,
}
EFFECTS: Mapping[str, tuple[float, ...]] = {
    "log_loss": (0.01, 0.02, 0.05, 0.1),
    "accuracy": (0.02, 0.05, 0.1),
}
_SAME = 1e-6
_LOSSES = ("log_loss", "brier")


def block_length_from_overlap(
    *, window_bars: int, horizon_bars: int, step_bars: int, num_windows: int
) -> int:
    """Return the block length, in windows, for evenly spaced windows.

    Two windows whose starts are k steps apart share bars (label horizon included) while
    ``k * step_bars < window_bars + horizon_bars``. The block is the smallest k without shared
    bars, at least the cube root of `num_windows` (the usual rate, for dependence beyond the
    overlap, such as that of volatility) and at most `num_windows`.

    Parameters
    ----------
    window_bars, horizon_bars
        Bars per window, and bars of its label's horizon.
    step_bars
        Bars between the starts of neighbouring windows.
    num_windows
        n.

    Raises
    ------
    BadInput
        If a number is below 1 (`horizon_bars`: below 0).
    """
    limits = {"window_bars": (window_bars, 1), "horizon_bars": (horizon_bars, 0)}
    limits |= {"step_bars": (step_bars, 1), "num_windows": (num_windows, 1)}
    for name, (value, low) in limits.items():
        if value < low:
            raise BadInput(f"{name} is {value}", limit=f"at least {low}")
    overlap = math.ceil((window_bars + horizon_bars) / step_bars)
    return min(num_windows, max(overlap, round(num_windows ** (1 / 3))))


def paired_comparison(
    y: ArrayLike,
    proba_candidate: ArrayLike,
    proba_baseline: ArrayLike,
    *,
    block_length: int,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    margin: float | Mapping[str, float] | None = None,
    seed: int = 0,
    min_effective_windows: float = MIN_EFFECTIVE_WINDOWS,
    skewed: bool = False,
    horizons_apart: bool = False,
) -> PairedComparison:
    """Compare two models on the same windows; differences are candidate minus baseline.

    Parameters
    ----------
    y
        Class indices, shape (n,), in time order.
    proba_candidate, proba_baseline
        Probabilities, shape (n, K), of the same windows in the same order; average several seeds
        first (`moola.evaluation.predictions.mean_proba`).
    block_length
        Windows that share bars: `moola.data.windows.WindowTimes.gap_windows` of the rows judged, or
        `block_length_from_overlap` where they are evenly spaced. The dependence of the differences
        is measured as well (`moola.evaluation.dependence`); the longer block is used.
    num_resamples, seed
        Circular block bootstrap, both models resampled together; for the intervals of PR-AUC and
        ECE. Those of means come from `moola.evaluation.mean_interval`.
    confidence
        Two-sided, in (0, 1).
    margin
        Largest negligible difference: one number for every metric, or by metric; None:
        `DEFAULT_MARGINS`.
    min_effective_windows
        No interval is given if n / block_length is smaller.
    skewed
        Correct the intervals of log-loss and Brier score for skewness. For a constant baseline:
        differences between two models are nearly symmetric, and the correction would only cost
        power.
    horizons_apart
        Every label is known before the next window is predicted, see
        `moola.data.windows.WindowTimes.horizons_apart`. Log-loss, Brier score and accuracy then
        get an interval however many windows share bars.

    Raises
    ------
    BadInput
        On predictions no metric should be computed from, different shapes, only one class in
        `y`, n below 10, or a margin that is negative or of an unknown metric.
    """
    labels, candidate, baseline = _checked_pair(y, proba_candidate, proba_baseline)
    margins = _margins(margin)
    windows = window_differences(labels, candidate, baseline)
    persisting = persistence(windows["log_loss"])
    block = max(block_length, *(measured_block_of(windows[name]) for name in _LOSSES))
    counts = resample_counts(
        labels.size, block_length=block, num_resamples=num_resamples, seed=seed
    )
    deltas = {}
    for name, values in windows.items():
        interval = mean_interval(
            values,
            block_length=block_length,
            horizons_apart=horizons_apart,
            confidence=confidence,
            min_effective_windows=min_effective_windows,
            skewed=skewed and name in _LOSSES,
            effects=EFFECTS.get(name, ()),
        )
        deltas[name] = delta_of(name, interval, margins[name])
    for name, (estimate, draws) in _differences(labels, candidate, baseline, counts).items():
        resampled = None
        if estimate is not None:
            resampled = interval_from_draws(
                estimate,
                draws,
                num_windows=labels.size,
                block_length=block,
                confidence=confidence,
                min_effective_windows=min_effective_windows,
            )
        deltas[name] = delta_of(name, resampled, margins[name])
    answers = candidate.argmax(axis=1), baseline.argmax(axis=1)
    right, right_baseline = (answer == labels for answer in answers)
    only_candidate = int((right & ~right_baseline).sum())
    only_baseline = int((~right & right_baseline).sum())
    return PairedComparison(
        num_windows=labels.size,
        block_length=block,
        effective_windows=effective_windows(labels.size, block_length),
        persistence=persisting,
        horizons_apart=horizons_apart,
        confidence=confidence,
        deltas=deltas,
        mcnemar_p=mcnemar_exact(only_candidate, only_baseline),
        num_only_candidate=only_candidate,
        num_only_baseline=only_baseline,
        identical_predictions=bool(np.abs(candidate - baseline).max() <= _SAME),
        identical_labels=bool((answers[0] == answers[1]).all()),
    )


def measured_block_of(values: NDArray[np.float64]) -> int:
    """Return the block length that the persistence of `values`, in time order, calls for."""
    return measured_block(persistence(values), values.size)


def window_differences(
    labels: NDArray[np.intp], candidate: NDArray[np.float64], baseline: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return the per-window differences of the metrics that are means, shape (n,) each.

    Parameters
    ----------
    labels, candidate, baseline
        As `moola.evaluation.predictions.clean_predictions` returns them.
    """
    right = [(matrix.argmax(axis=1) == labels).astype(float) for matrix in (candidate, baseline)]
    return {
        "log_loss": log_loss_per_window(labels, candidate) - log_loss_per_window(labels, baseline),
        "brier": brier_per_window(labels, candidate) - brier_per_window(labels, baseline),
        "accuracy": right[0] - right[1],
    }


def mcnemar_exact(num_only_first: int, num_only_second: int) -> float:
    """Return the two-sided exact McNemar p-value (binomial, 1/2); 1 without discordant windows."""
    from scipy.stats import binomtest

    discordant = num_only_first + num_only_second
    if discordant == 0:
        return 1.0
    return float(binomtest(num_only_first, discordant, 0.5).pvalue)


def _checked_pair(
    y: ArrayLike, proba_candidate: ArrayLike, proba_baseline: ArrayLike
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    labels, candidate = clean_predictions(y, proba_candidate)
    _, baseline = clean_predictions(y, proba_baseline)
    if candidate.shape != baseline.shape:
        raise BadInput(
            f"the candidate's predictions have shape {candidate.shape}, "
            f"the baseline's {baseline.shape}",
            limit="the same windows and classes",
            remedy="Predict the same windows with both models",
        )
    if labels.size < MIN_WINDOWS:
        raise BadInput(
            f"there are {labels.size} windows",
            limit=f"at least {MIN_WINDOWS}",
            remedy="Pool the validation windows of all walk-forward folds",
        )
    if np.unique(labels).size < 2:
        raise BadInput(
            f"all {labels.size} windows are of class {labels[0]}",
            limit="at least two classes",
            remedy="Choose a split whose every part holds each class",
        )
    return labels, candidate, baseline


def _margins(margin: float | Mapping[str, float] | None) -> dict[str, float]:
    if margin is None:
        return dict(DEFAULT_MARGINS)
    if isinstance(margin, Mapping):
        unknown = sorted(set(margin) - set(DEFAULT_MARGINS))
        if unknown:
            metrics = ", ".join(DEFAULT_MARGINS)
            raise BadInput(f"there is a margin for {unknown[0]!r}", limit=f"one of {metrics}")
        margins = {**DEFAULT_MARGINS, **margin}
    else:
        margins = dict.fromkeys(DEFAULT_MARGINS, float(margin))
    for name, value in margins.items():
        if not (math.isfinite(value) and value >= 0):
            raise BadInput(f"the margin of {name} is {value}", limit="a number of at least 0")
    return margins


def _differences(
    labels: NDArray[np.intp],
    candidate: NDArray[np.float64],
    baseline: NDArray[np.float64],
    counts: NDArray[np.float64],
) -> dict[str, tuple[float | None, NDArray[np.float64]]]:
    """Return the differences of PR-AUC and ECE, and their resampled values, shape (R,)."""
    differences: dict[str, tuple[float | None, NDArray[np.float64]]] = {}
    once = np.ones((1, labels.size))
    for name, function in (("pr_auc", rank_metrics), ("ece", calibration_metrics)):
        whole, draws = (
            function(labels, candidate, weight)[name] - function(labels, baseline, weight)[name]
            for weight in (once, counts)
        )
        differences[name] = (float(whole[0]) if np.isfinite(whole[0]) else None, draws)
    return differences


def delta_of(name: str, interval: BootstrapInterval | None, margin: float) -> Delta:
    """Return the conclusions from a difference's interval; None: the metric is undefined."""
    higher = HIGHER_IS_BETTER[name]
    low = high = None
    worst, best = -math.inf, math.inf
    if interval is not None and interval.low is not None and interval.high is not None:
        low, high = interval.low, interval.high
        worst, best = (low, high) if higher else (-high, -low)
    return Delta(
        metric=name,
        estimate=None if interval is None else interval.estimate,
        low=low,
        high=high,
        p_value=None if interval is None else interval.p_value,
        minimum_detectable=None if interval is None else interval.minimum_detectable,
        power={} if interval is None else {f"{size:g}": p for size, p in interval.power.items()},
        margin=margin,
        higher_is_better=higher,
        superior=worst > 0,
        inferior=best < 0,
        non_inferior=worst > -margin,
        equivalent=worst > -margin and best < margin,
        reason="a class does not occur" if interval is None else interval.reason,
    )
