"""Gate 1, and the question under it: is this model a constant in disguise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moola.config.evaluation import Thresholds
from moola.evaluation.calibration import ece_null
from moola.evaluation.compare import PairedComparison, paired_comparison
from moola.evaluation.gate_report import GateReport, report
from moola.evaluation.metrics import compute_metrics, undefined_reasons
from moola.evaluation.validation import clean_predictions

_MAX_FOLD_SHARE = 0.2


def gate_1_baseline(
    y: ArrayLike,
    proba: ArrayLike,
    prior: ArrayLike,
    *,
    block_length: int,
    thresholds: Thresholds | None = None,
) -> GateReport:
    """Gate 1: log-loss below the class prior's, its interval excluding 0, and no collapse.

    Parameters
    ----------
    y
        Class indices, shape (n,), validation windows of all folds in time order.
    proba
        The model's probabilities, shape (n, K), averaged over seeds.
    prior
        For each window the class frequencies of its fold's train part, shape (n, K).
    block_length
        See `moola.evaluation.compare.block_length_from_overlap`.
    thresholds
        Moola's own where None.

    Returns
    -------
    GateReport
        ``failed`` where the model collapsed, is no better than chance in balanced accuracy, or is
        significantly worse than the prior; ``inconclusive`` where the interval holds 0.

    Raises
    ------
    BadInput
        As `moola.evaluation.compare.paired_comparison`.
    """
    limits = thresholds or Thresholds.load()
    comparison = compare(y, proba, prior, block_length=block_length, thresholds=limits)
    labels, matrix = clean_predictions(y, proba)
    metrics = compute_metrics(labels, matrix)
    collapse = collapse_reasons(y, proba, prior, thresholds=limits)
    delta = comparison.deltas["log_loss"]
    null = ece_null(matrix)
    figures = comparison_figures(comparison) | {"metrics": metrics}
    figures["ece_null"] = {"mean": null.mean, "p95": null.p95}
    notes = [*_ece_note(metrics["ece"], null.p95), reach(comparison, "log_loss")]
    if collapse:
        verdict, reasons = "failed", list(collapse)
    elif delta.superior:
        verdict = "passed"
        reasons = [f"log-loss is below the class prior's: {signed(comparison, 'log_loss')}"]
    elif delta.inferior:
        verdict = "failed"
        reasons = [f"log-loss is above the class prior's: {signed(comparison, 'log_loss')}"]
    else:
        verdict = "inconclusive"
        reasons = [
            f"log-loss cannot be told from the class prior's: {signed(comparison, 'log_loss')}"
        ]
    absent = undefined_reasons(labels, matrix).get("balanced_accuracy")
    if absent and verdict == "passed":
        verdict, reasons = "inconclusive", [f"{absent}, so its recall is not known", *reasons]
    used = thresholds_used(
        limits, "min_predicted_share", "min_probability_std", "min_balanced_accuracy_gain"
    )
    return report(1, verdict, reasons + notes, figures=figures, thresholds=used)


def collapse_reasons(
    y: ArrayLike,
    proba: ArrayLike,
    prior: ArrayLike | None = None,
    *,
    thresholds: Thresholds | None = None,
) -> tuple[str, ...]:
    """Say why the model is a constant or nearly one; an empty tuple where it is not.

    Parameters
    ----------
    y, proba
        Labels, shape (n,), and probabilities, shape (n, K).
    prior
        Class frequencies, shape (n, K). Windows with equal rows belong to one fold; a model that
        is constant within each fold is a constant too. None: one fold.

    Notes
    -----
    Looked for, in this order: one class always answered; a class predicted less than
    ``min_predicted_share`` as often as it occurs; recall 0; probabilities that vary within folds
    by less than ``min_probability_std``; balanced accuracy not above chance.
    """
    limits = thresholds or Thresholds.load()
    labels, matrix = clean_predictions(y, proba)
    answer = matrix.argmax(axis=1)
    if np.unique(answer).size == 1:
        return (_constant_sentence(labels, matrix, int(answer[0])),)
    reasons = []
    for k in range(matrix.shape[1]):
        occurs, predicted = float((labels == k).mean()), float((answer == k).mean())
        hits = int(((labels == k) & (answer == k)).sum())
        if occurs > 0 and predicted < limits.min_predicted_share * occurs:
            reasons.append(
                f"collapsed: class {k} is predicted in {predicted:.1%} of the windows "
                f"but occurs in {occurs:.1%}"
            )
        elif occurs > 0 and hits == 0:
            reasons.append(f"collapsed: no window of class {k} is recognised (recall 0)")
    spread = _spread_within_folds(matrix, prior)
    if spread < limits.min_probability_std:
        reasons.append(
            f"collapsed: probabilities vary by {spread:.3g} within a fold "
            f"(at least {limits.min_probability_std:g}), nearly a constant"
        )
    support = np.bincount(labels, minlength=matrix.shape[1])
    chance = 1.0 / matrix.shape[1] + limits.min_balanced_accuracy_gain
    balanced = float(np.mean((answer == labels) / support[labels] * labels.size)) / support.size
    if support.all() and not balanced > chance:
        reasons.append(f"balanced accuracy {balanced:.1%} is not above chance ({chance:.1%})")
    return tuple(reasons)


def compare(
    y: ArrayLike,
    candidate: ArrayLike,
    baseline: ArrayLike,
    *,
    block_length: int,
    thresholds: Thresholds,
    confidence: float | None = None,
) -> PairedComparison:
    """Return the paired comparison under the thresholds' resamples, confidence and margins."""
    return paired_comparison(
        y,
        candidate,
        baseline,
        block_length=block_length,
        num_resamples=thresholds.num_resamples,
        confidence=thresholds.confidence if confidence is None else confidence,
        margin={
            "log_loss": thresholds.margin_log_loss,
            "accuracy": thresholds.max_accuracy_loss,
        },
        min_effective_windows=thresholds.min_effective_windows,
    )


def comparison_figures(comparison: PairedComparison) -> dict[str, Any]:
    """Return a comparison's figures as a gate report holds them."""
    figures: dict[str, Any] = {
        "num_windows": comparison.num_windows,
        "block_length": comparison.block_length,
        "effective_windows": comparison.effective_windows,
        "confidence": comparison.confidence,
        "mcnemar_p": comparison.mcnemar_p,
        "identical_predictions": comparison.identical_predictions,
        "minimum_detectable": comparison.minimum_detectable,
    }
    return figures | {
        f"delta_{name}": delta.interval() for name, delta in comparison.deltas.items()
    }


def thresholds_used(limits: Thresholds, *names: str) -> dict[str, Any]:
    """Return the thresholds named, and those every comparison rests on."""
    common = ("confidence", "num_resamples", "min_effective_windows")
    return {name: getattr(limits, name) for name in (*common, *names)}


def signed(comparison: PairedComparison, metric: str) -> str:
    """Return ``-0.040 [-0.070, -0.015]``, or the difference and why it has no interval."""
    delta = comparison.deltas[metric]
    if delta.estimate is None:
        return f"undefined ({delta.reason})"
    if delta.low is None or delta.high is None:
        return f"{delta.estimate:+.4f}, no interval: {delta.reason}"
    return f"{delta.estimate:+.4f} [{delta.low:+.4f}, {delta.high:+.4f}]"


def reach(comparison: PairedComparison, metric: str) -> str:
    """Say how many windows the verdict rests on and how small a difference they can show."""
    detectable = comparison.minimum_detectable[metric]
    smallest = f"{detectable:.3g}" if detectable else "unknown"
    name = metric.replace("_", "-")
    return (
        f"{comparison.num_windows} windows, worth about {comparison.effective_windows:.0f} "
        f"independent ones; smallest {name} difference found with 80 % power: {smallest}"
    )


def _constant_sentence(labels: NDArray[np.intp], matrix: NDArray[np.float64], answer: int) -> str:
    metrics = compute_metrics(labels, matrix)
    accuracy, f1 = metrics["accuracy"], metrics["f1_weighted"]
    hits = int((labels == answer).sum())
    return (
        f"collapsed: always answers class {answer} in all {labels.size} windows; its accuracy of "
        f"{accuracy:.1%} and weighted F1 of {f1:.1%} are those of a constant, "
        f"because {hits} of {labels.size} windows are of class {answer}"
    )


def _spread_within_folds(matrix: NDArray[np.float64], prior: ArrayLike | None) -> float:
    """Return the largest over classes of the standard deviation within groups of equal prior."""
    centred = matrix - matrix.mean(axis=0)
    if prior is not None:
        _, fold = np.unique(np.asarray(prior, dtype=np.float64), axis=0, return_inverse=True)
        fold = fold.reshape(-1)
        sizes = np.bincount(fold)
        if sizes.size <= _MAX_FOLD_SHARE * fold.size:
            means = np.stack([np.bincount(fold, column) / sizes for column in matrix.T], axis=1)
            centred = matrix - means[fold]
    return float(np.sqrt((centred**2).mean(axis=0)).max())


def _ece_note(ece: float | None, p95: float) -> list[str]:
    if ece is None or ece <= p95:
        return []
    return [f"probabilities are off: ECE {ece:.3f}, a calibrated model stays below {p95:.3f}"]
