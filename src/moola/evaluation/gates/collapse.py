"""Collapse: a model that is nearly constant, uninformative in rank, or constant by fold.

A probability forecast is judged as such, not by its most probable class: a calibrated model of a
rare class may never predict that class and still be informative. So the shares of the predicted
classes and the balanced accuracy lead to warnings, not verdicts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from moola.config.evaluation import Thresholds
from moola.evaluation.metrics import compute_metrics
from moola.evaluation.predictions import clean_predictions

COLLAPSE_THRESHOLDS = (
    "min_effective_windows_constant",
    "min_predicted_share",
    "min_probability_std",
    "max_constant_share",
    "min_balanced_accuracy_gain",
)
_MAX_FOLD_SHARE = 0.2
_TWO_SIDED_95 = 1.96
_ROUNDING = 1e-12
_COIN_STD = 0.5  # of a class of share 1/2, to which `min_probability_std` refers


def collapse_reasons(
    y: ArrayLike,
    proba: ArrayLike,
    prior: ArrayLike | None = None,
    *,
    thresholds: Thresholds | None = None,
) -> tuple[str, ...]:
    """Return the reasons why the model counts as a constant; empty if it does not.

    Parameters
    ----------
    y, proba
        Labels, shape (n,), and probabilities, shape (n, K).
    prior
        Class frequencies, shape (n, K). Equal rows belong to one fold; a model that is constant
        within each fold counts as a constant. None: one fold.
    thresholds
        Moola's own if None.

    Returns
    -------
    tuple of str
        Sentences, the most serious first.

    Raises
    ------
    BadInput
        As `moola.evaluation.predictions.validate_predictions`.

    Notes
    -----
    The checks, in this order: probabilities that vary within folds by less than
    ``min_probability_std`` (for a class of share 1/2; otherwise in proportion to the standard
    deviation of its labels), or do so in more than ``max_constant_share`` of the windows while the
    rest shows no significant rank information; a ranking within folds that is no better than chance
    (macro ROC-AUC of at most 1/2).
    """
    limits = thresholds or Thresholds.load()
    labels, matrix = clean_predictions(y, proba)
    fold = folds_of(prior, labels.size)
    area, error = rank_information(labels, matrix, fold)
    reasons = _nearly_constant(matrix, fold, limits, ranked=area - _TWO_SIDED_95 * error > 0.5)
    if np.isfinite(area) and not area > 0.5:
        reasons.append(
            f"collapsed: no rank information, ROC-AUC within folds is {area:.3f} (chance: 0.5)"
        )
    answer = matrix.argmax(axis=1)
    if reasons and np.unique(answer).size == 1:
        named = _constant_sentence(labels, matrix, int(answer[0]))
        reasons.insert(0, f"collapsed: {named}")
    return tuple(reasons)


def answer_warnings(
    y: ArrayLike, proba: ArrayLike, *, thresholds: Thresholds | None = None
) -> tuple[str, ...]:
    """Return warnings about the most probable class as a prediction; no verdict depends on them.

    Parameters
    ----------
    y, proba
        Labels, shape (n,), and probabilities, shape (n, K).
    thresholds
        Moola's own if None.

    Returns
    -------
    tuple of str
        Sentences: one class is always predicted; a class is predicted less than
        ``min_predicted_share`` as often as it occurs, or has recall 0; balanced accuracy is not
        above chance.
    """
    limits = thresholds or Thresholds.load()
    labels, matrix = clean_predictions(y, proba)
    answer = matrix.argmax(axis=1)
    if np.unique(answer).size == 1:
        return (f"warning: {_constant_sentence(labels, matrix, int(answer[0]))}",)
    warnings = []
    for k in range(matrix.shape[1]):
        occurs, predicted = float((labels == k).mean()), float((answer == k).mean())
        if occurs > 0 and predicted < limits.min_predicted_share * occurs:
            warnings.append(
                f"warning: class {k} is the most probable one in {predicted:.1%} of the windows "
                f"but occurs in {occurs:.1%}"
            )
        elif occurs > 0 and not ((labels == k) & (answer == k)).any():
            warnings.append(f"warning: no window of class {k} is recognised (recall 0)")
    support = np.bincount(labels, minlength=matrix.shape[1])
    chance = 1.0 / support.size + limits.min_balanced_accuracy_gain
    balanced = float(np.mean((answer == labels) / support[labels] * labels.size)) / support.size
    if support.all() and not balanced > chance:
        warnings.append(
            f"warning: balanced accuracy {balanced:.1%} is not above chance ({chance:.1%})"
        )
    return tuple(warnings)


def rank_information(
    labels: NDArray[np.intp], matrix: NDArray[np.float64], fold: NDArray[np.intp]
) -> tuple[float, float]:
    """Return the macro one-against-rest ROC-AUC within folds, and its null standard error.

    Only windows of the same fold are compared, so that a constant by fold has no rank information.

    Parameters
    ----------
    labels
        Class indices, shape (n,).
    matrix
        Probabilities, shape (n, K).
    fold
        Fold of each window, shape (n,).

    Returns
    -------
    tuple of float
        Both NaN if no fold has two classes. The standard error is that of an uninformative model,
        windows taken as independent (Mann and Whitney).
    """
    areas, variances = [], []
    for k in range(matrix.shape[1]):
        won = pairs = variance = 0.0
        for index in np.unique(fold):
            rows = fold == index
            event = labels[rows] == k
            many, few = float(event.sum()), float((~event).sum())
            won += rankdata(matrix[rows, k])[event].sum() - many * (many + 1.0) / 2.0
            pairs += many * few
            variance += many * few * (many + few + 1.0) / 12.0
        if pairs:
            areas.append(won / pairs)
            variances.append(variance / pairs**2)
    if not areas:
        return float("nan"), float("nan")
    return float(np.mean(areas)), float(np.sqrt(np.mean(variances)))


def folds_of(prior: ArrayLike | None, num_windows: int) -> NDArray[np.intp]:
    """Return the fold of each window, by equal priors; one fold if priors differ too often."""
    one = np.zeros(num_windows, dtype=np.intp)
    if prior is None:
        return one
    _, fold = np.unique(np.asarray(prior, dtype=np.float64), axis=0, return_inverse=True)
    fold = fold.reshape(-1)
    return fold if fold.max() + 1 <= _MAX_FOLD_SHARE * fold.size else one


def _constant_sentence(labels: NDArray[np.intp], matrix: NDArray[np.float64], answer: int) -> str:
    metrics = compute_metrics(labels, matrix)
    accuracy, f1 = metrics["accuracy"], metrics["f1_weighted"]
    hits = int((labels == answer).sum())
    return (
        f"always answers class {answer} in all {labels.size} windows; its accuracy of "
        f"{accuracy:.1%} and weighted F1 of {f1:.1%} are those of a constant, "
        f"because {hits} of {labels.size} windows are of class {answer}"
    )


def _nearly_constant(
    matrix: NDArray[np.float64], fold: NDArray[np.intp], limits: Thresholds, *, ranked: bool
) -> list[str]:
    """Return why probabilities hardly vary; `ranked`: rank information is significant."""
    centred, around = matrix.copy(), matrix.copy()
    for index in np.unique(fold):
        rows = fold == index
        centred[rows] -= matrix[rows].mean(axis=0)
        around[rows] -= np.median(matrix[rows], axis=0)
    share = matrix.mean(axis=0)
    in_proportion = limits.min_probability_std * np.sqrt(share * (1.0 - share)) / _COIN_STD
    least = np.maximum(in_proportion, _ROUNDING)
    spread = np.sqrt((centred**2).mean(axis=0))
    if (spread < least).all():
        k = int(np.argmax(spread))
        return [
            f"collapsed: probabilities vary by {spread[k]:.3g} within a fold "
            f"(at least {least[k]:.3g}), nearly a constant"
        ]
    same = float((np.abs(around) < least).all(axis=1).mean())
    if same > limits.max_constant_share and not ranked:
        return [
            f"collapsed: in {same:.1%} of the windows the probabilities are the same within "
            f"{least.max():.3g} (at most {limits.max_constant_share:.0%}), nearly a constant"
        ]
    return []
