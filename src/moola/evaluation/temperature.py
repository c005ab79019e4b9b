"""Temperature scaling: one parameter that sharpens or softens probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from moola.errors import BadInput
from moola.evaluation.predictions import clean_predictions, clean_probabilities
from moola.evaluation.resampling import MIN_WINDOWS

_MAX_TEMPERATURE = 20.0
_FLAT = 1e-12
_TINY = float(np.finfo(np.float64).tiny)


def fit_temperature(y_val: ArrayLike, proba_val: ArrayLike) -> float:
    """Return the temperature with the lowest log-loss on validation windows.

    Parameters
    ----------
    y_val, proba_val
        Validation labels, shape (n,), and probabilities, shape (n, K).

    Returns
    -------
    float
        Above 1 for an overconfident model, below 1 for an underconfident one; in [1/20, 20].

    Raises
    ------
    BadInput
        On predictions no metric should be computed from, fewer than 10 windows, only one class,
        uniform probabilities, or a minimum at a bound (every window right, or a model worse than
        guessing).

    Notes
    -----
    Guo et al. (2017), "On calibration of modern neural networks", with log-probabilities for
    logits: softmax(ln p / T) is the same function. The loss is convex in 1/T, so the minimum is
    the root of its slope.
    """
    from scipy.optimize import brentq

    labels, matrix = clean_predictions(y_val, proba_val)
    if labels.size < MIN_WINDOWS or np.unique(labels).size < 2:
        raise BadInput(
            f"the validation part has {labels.size} windows of {np.unique(labels).size} class(es)",
            limit=f"at least {MIN_WINDOWS} windows of two classes",
            remedy="Choose a split with a longer validation part",
        )
    if np.ptp(matrix, axis=1).max() < 1e-9:
        raise BadInput(
            "every class has the same probability in every window",
            limit="probabilities that differ",
            remedy="There is nothing to scale: the model has not learned",
        )

    scores = np.log(np.maximum(matrix, _TINY))
    chosen = scores[np.arange(labels.size), labels]

    def slope(inverse: float) -> float:
        expected = (softmax(scores * inverse, axis=1) * scores).sum(axis=1)
        return float((expected - chosen).mean())

    if slope(1.0 / _MAX_TEMPERATURE) >= -_FLAT or slope(_MAX_TEMPERATURE) <= _FLAT:
        raise BadInput(
            f"no temperature between {1 / _MAX_TEMPERATURE:g} and {_MAX_TEMPERATURE:g} is best",
            limit="an optimum inside these bounds",
            remedy="Either every window is right or the model is worse than guessing; "
            "keep the probabilities as they are",
        )
    return 1.0 / float(brentq(slope, 1.0 / _MAX_TEMPERATURE, _MAX_TEMPERATURE, xtol=1e-10))


def apply_temperature(proba: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Return softmax(ln p / temperature), shape (n, K); a probability of 0 stays (almost) 0.

    Parameters
    ----------
    proba
        Shape (n, K).
    temperature
        Above 1 softens, below 1 sharpens.

    Raises
    ------
    BadInput
        If the temperature is not a finite number above 0, or the probabilities are invalid.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise BadInput(f"temperature is {temperature}", limit="a finite number above 0")
    scores = np.log(np.maximum(clean_probabilities(proba), _TINY))
    return np.asarray(softmax(scores / temperature, axis=1))
