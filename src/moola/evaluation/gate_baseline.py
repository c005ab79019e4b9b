"""Gate 1, and the question under it: is this model a constant in disguise."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import entropy

from moola.config.evaluation import Thresholds
from moola.evaluation.calibration import ece_null
from moola.evaluation.gate_comparison import (
    compare,
    comparison_figures,
    reach,
    signed,
    thresholds_used,
)
from moola.evaluation.gate_report import GateReport, report
from moola.evaluation.metrics import compute_metrics, undefined_reasons
from moola.evaluation.predictions import clean_predictions, log_loss_per_window

COLLAPSE_THRESHOLDS = (
    "min_effective_windows_constant",
    "min_predicted_share",
    "min_probability_std",
    "max_constant_share",
    "min_balanced_accuracy_gain",
)
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
        significantly worse than the prior; ``inconclusive`` where the interval (corrected for
        skewness) holds 0, or where the best constant in hindsight is as good.

    Raises
    ------
    BadInput
        As `moola.evaluation.compare.paired_comparison`.
    """
    limits = thresholds or Thresholds.load()
    comparison = compare(y, proba, prior, block_length=block_length, thresholds=limits, skewed=True)
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
    doubts = _doubts(labels, matrix) if verdict == "passed" else []
    if doubts:
        verdict, reasons = "inconclusive", doubts + reasons
    used = thresholds_used(limits, *COLLAPSE_THRESHOLDS)
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
    thresholds
        Moola's own where None.

    Returns
    -------
    tuple of str
        Sentences, the gravest first.

    Notes
    -----
    Looked for, in this order: one class always answered; a class predicted less than
    ``min_predicted_share`` as often as it occurs; recall 0; probabilities that vary within folds
    by less than ``min_probability_std``, or do so in more than ``max_constant_share`` of the
    windows; balanced accuracy not above chance.
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
    reasons += _nearly_constant(matrix, prior, limits)
    support = np.bincount(labels, minlength=matrix.shape[1])
    chance = 1.0 / matrix.shape[1] + limits.min_balanced_accuracy_gain
    balanced = float(np.mean((answer == labels) / support[labels] * labels.size)) / support.size
    if support.all() and not balanced > chance:
        reasons.append(f"balanced accuracy {balanced:.1%} is not above chance ({chance:.1%})")
    return tuple(reasons)


def _constant_sentence(labels: NDArray[np.intp], matrix: NDArray[np.float64], answer: int) -> str:
    metrics = compute_metrics(labels, matrix)
    accuracy, f1 = metrics["accuracy"], metrics["f1_weighted"]
    hits = int((labels == answer).sum())
    return (
        f"collapsed: always answers class {answer} in all {labels.size} windows; its accuracy of "
        f"{accuracy:.1%} and weighted F1 of {f1:.1%} are those of a constant, "
        f"because {hits} of {labels.size} windows are of class {answer}"
    )


def best_constant_loss(labels: NDArray[np.intp], num_classes: int) -> float:
    """Return the log-loss of the windows' own class frequencies: no constant has a lower one."""
    share = np.bincount(labels, minlength=num_classes) / labels.size
    return float(entropy(share))


def _doubts(labels: NDArray[np.intp], matrix: NDArray[np.float64]) -> list[str]:
    """Say why a log-loss below the prior's is not yet knowledge."""
    doubts = []
    absent = undefined_reasons(labels, matrix).get("balanced_accuracy")
    if absent:
        doubts.append(f"{absent}, so its recall is not known")
    loss = float(log_loss_per_window(labels, matrix).mean())
    constant = best_constant_loss(labels, matrix.shape[1])
    if not loss < constant:
        doubts.append(
            f"log-loss {loss:.4f} is not below that of the best constant, {constant:.4f}: "
            "the gain over the prior is only a better guess of the class frequencies"
        )
    return doubts


def _nearly_constant(
    matrix: NDArray[np.float64], prior: ArrayLike | None, limits: Thresholds
) -> list[str]:
    fold = _folds(matrix, prior)
    centred, around = matrix.copy(), matrix.copy()
    for index in np.unique(fold):
        rows = fold == index
        centred[rows] -= matrix[rows].mean(axis=0)
        around[rows] -= np.median(matrix[rows], axis=0)
    least = limits.min_probability_std
    spread = float(np.sqrt((centred**2).mean(axis=0)).max())
    same = float((np.abs(around).max(axis=1) < least).mean())
    if spread < least:
        return [
            f"collapsed: probabilities vary by {spread:.3g} within a fold "
            f"(at least {least:g}), nearly a constant"
        ]
    if same > limits.max_constant_share:
        return [
            f"collapsed: in {same:.1%} of the windows the probabilities are the same within "
            f"{least:g} (at most {limits.max_constant_share:.0%}), nearly a constant"
        ]
    return []


def _folds(matrix: NDArray[np.float64], prior: ArrayLike | None) -> NDArray[np.intp]:
    """Return the fold of each window, told by its prior; one fold where the prior cannot tell."""
    one = np.zeros(matrix.shape[0], dtype=np.intp)
    if prior is None:
        return one
    _, fold = np.unique(np.asarray(prior, dtype=np.float64), axis=0, return_inverse=True)
    fold = fold.reshape(-1)
    return fold if fold.max() + 1 <= _MAX_FOLD_SHARE * fold.size else one


def _ece_note(ece: float | None, p95: float) -> list[str]:
    if ece is None or ece <= p95:
        return []
    return [f"probabilities are off: ECE {ece:.3f}, a calibrated model stays below {p95:.3f}"]
