"""An ensemble whose temperature is fitted on earlier validation windows only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moola.errors import BadInput
from moola.evaluation.predictions import mean_proba
from moola.evaluation.temperature import apply_temperature, fit_temperature


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """The mean of the members, calibrated fold by fold.

    Attributes
    ----------
    proba
        Shape (n, K).
    uncalibrated
        The plain mean, shape (n, K).
    temperatures
        One per fold; 1 where the earlier folds have too few validation windows to fit one.
    """

    proba: NDArray[np.float64]
    uncalibrated: NDArray[np.float64]
    temperatures: tuple[float, ...]


def calibrated_ensemble(
    y: ArrayLike,
    members: Sequence[ArrayLike],
    *,
    fold: ArrayLike,
    first_bar: ArrayLike,
    label_end: ArrayLike,
) -> Ensemble:
    """Average members and scale each fold by the temperature of the folds before it.

    Parameters
    ----------
    y
        Class indices of all folds' validation windows, shape (n,).
    members
        Probabilities of each member, shape (n, K) each.
    fold
        Index of each window's fold, shape (n,), 0 for the earliest.
    first_bar, label_end
        Row of a window's first bar, and of the last bar of its label's horizon, shape (n,). A
        window whose label ends after a fold's first bar is not used for that fold's temperature.

    Raises
    ------
    BadInput
        If there are no members, or their shapes differ, or a value is not finite.
    """
    mean = mean_proba(members)
    labels, part = np.asarray(y), np.asarray(fold)
    first, end = np.asarray(first_bar), np.asarray(label_end)
    proba, temperatures = mean.copy(), []
    for number in range(int(part.max()) + 1):
        here = part == number
        past = (part < number) & (end < first[here].min())
        temperature = _temperature(labels[past], mean[past])
        proba[here] = apply_temperature(mean[here], temperature)
        temperatures.append(temperature)
    return Ensemble(proba=proba, uncalibrated=mean, temperatures=tuple(temperatures))


def _temperature(y: NDArray, proba: NDArray[np.float64]) -> float:
    """Return the fitted temperature; 1 if these windows determine none."""
    if not len(y):
        return 1.0
    try:
        return fit_temperature(y, proba)
    except BadInput:
        return 1.0
