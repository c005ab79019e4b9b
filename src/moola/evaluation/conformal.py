"""Split conformal prediction: sets of classes with a stated probability of coverage."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moola.config.base import check_range
from moola.errors import BadInput
from moola.evaluation.predictions import DIVERGED


@dataclass(frozen=True, kw_only=True)
class Conformal:
    """The smallest probability with which a class enters the set, and its calibration."""

    threshold: float
    level: float
    num_windows: int


def conformal_threshold(
    y: NDArray[np.int64], proba: NDArray[np.float64], *, level: float = 0.9
) -> Conformal:
    """Return the threshold of the least ambiguous set-valued classifier at a coverage level.

    The set of a window holds every class whose probability reaches the threshold. For exchangeable
    windows it would cover the true class with a probability of at least `level`. Neighbouring
    windows share bars and markets change, so the coverage is approximate.

    Parameters
    ----------
    y
        Index of the true class, shape (n,).
    proba
        Calibrated probabilities of windows the weights were not fitted on, shape (n, K).
    level
        Coverage, in (0, 1).

    Returns
    -------
    Conformal
        With threshold 0, which puts every class into every set, if n is too small for `level`.

    Raises
    ------
    BadInput
        If there is no window, `y` names no column of `proba`, or a value is not finite.

    References
    ----------
    M. Sadinle, J. Lei, L. Wasserman, JASA 114 (2019), 223-234.
    """
    check_range("level", level, low=0, high=1, open_low=True, open_high=True)
    if not len(y) or len(y) != len(proba) or y.min() < 0 or y.max() >= proba.shape[1]:
        raise BadInput(
            f"{len(y)} labels and probabilities of shape {proba.shape}",
            limit="a class index for each row, at least one row",
        )
    if not np.isfinite(proba).all():
        raise BadInput(
            "the probabilities hold NaN or infinity", limit="finite numbers", remedy=DIVERGED
        )
    ascending = np.sort(proba[np.arange(len(y)), y])
    allowed_misses = math.floor((len(y) + 1) * (1 - level) + 1e-9)  # 1 - 0.9 is not 0.1
    threshold = float(ascending[allowed_misses - 1]) if allowed_misses else 0.0
    return Conformal(threshold=threshold, level=level, num_windows=len(y))
