"""The rival of "knows something": how often each class occurs, known in hindsight, by stretches.

A forecast that only guesses the class frequencies better than the train part's is no knowledge,
and markets drift. So what a model must beat is not one constant but the best *slowly varying* one:
each fold is cut into stretches of windows, and in each the rival answers the stretch's own class
frequencies. It knows what nobody can know in advance; a constant fitted to n windows looks better
by (K - 1) / (2 n) nats than the true frequencies would (Miller 1955), and that is given back.
Labels that remember their neighbours are worth fewer: n is divided by how many, as measured inside
the stretches, and stretches are long enough to be worth 20 of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import entropy

from moola.config.evaluation import Thresholds
from moola.evaluation.compare import EFFECTS, delta_of
from moola.evaluation.compare_result import Delta
from moola.evaluation.gates.collapse import folds_of
from moola.evaluation.gates.label_arithmetic import best_use_loss
from moola.evaluation.mean_interval import constant_confidence, mean_interval
from moola.evaluation.predictions import clean_predictions, log_loss_per_window

MIN_STRETCH_WINDOWS = 40
_WORTH = 20  # independent labels a stretch must be worth
_FARTHEST_LABEL = 20
SLOW_CONSTANT = "the best slowly varying constant"
LABEL_ARITHMETIC = "the label's own arithmetic and that constant"


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """What a forecast gains over the best slowly varying constant.

    Attributes
    ----------
    delta
        Log-loss of the forecast less that of the constant, with its interval.
    log_loss
        Of the constant, nats, its optimism given back.
    num_stretches
        Stretches of windows, each with its own class frequencies.
    rival
        What the forecast is compared with, in words.
    """

    delta: Delta
    log_loss: float
    num_stretches: int
    rival: str = SLOW_CONSTANT

    def text(self) -> str:
        """Return the difference and its interval with the rival's name."""
        ends = (
            f"no interval: {self.delta.reason}"
            if self.delta.low is None
            else f"[{self.delta.low:+.4f}, {self.delta.high:+.4f}]"
        )
        many = "stretches" if self.num_stretches > 1 else "stretch"
        return (
            f"log-loss against {self.rival} ({self.num_stretches} {many}) "
            f"{self.delta.estimate:+.4f} {ends}"
        )

    def figures(self) -> dict[str, object]:
        """Return what a gate report holds of it."""
        return {
            "delta_slow_constant": self.delta.interval(),
            "log_loss_slow_constant": self.log_loss,
            "num_stretches": self.num_stretches,
        }


def knowledge(
    y: ArrayLike,
    proba: ArrayLike,
    prior: ArrayLike | None,
    *,
    block_length: int,
    thresholds: Thresholds,
    horizons_apart: bool = False,
    confidence: float | None = None,
    arithmetic: ArrayLike | None = None,
) -> Knowledge:
    """Compare a forecast with the best slowly varying constant, or with that and arithmetic.

    Parameters
    ----------
    y, proba
        Class indices, shape (n,), in time order, and probabilities, shape (n, K).
    prior
        Class frequencies of each window's fold, shape (n, K); windows with equal rows belong to
        one fold. None: one fold.
    block_length, horizons_apart
        As `moola.evaluation.compare.paired_comparison`; a stretch is no shorter than a block.
    thresholds
        Give the limits.
    confidence
        Two-sided; the thresholds' where None.
    arithmetic
        A forecast that knows only how the label is made, shape (n, K): the rival then uses it as
        well as hindsight can (`moola.evaluation.gates.label_arithmetic`). None: the rival is a
        constant.

    Returns
    -------
    Knowledge
        The difference with an interval corrected for skewness.

    Raises
    ------
    BadInput
        On predictions no metric should be computed from, or n below 10.
    """
    labels, matrix = clean_predictions(y, proba)
    fold = folds_of(prior, labels.size)
    repeats = label_repeats(labels, stretches(fold, block_length))
    stretch = stretches(fold, max(block_length, math.ceil(_WORTH * repeats)))
    if arithmetic is None:
        constant = slow_constant_loss(labels, stretch, repeats)
    else:
        constant, _ = best_use_loss(labels, stretch, arithmetic, repeats)
    values = log_loss_per_window(labels, matrix) - constant
    enough = thresholds.min_effective_windows_constant
    asked = thresholds.confidence if confidence is None else confidence
    interval = mean_interval(
        values,
        block_length=block_length,
        horizons_apart=horizons_apart,
        confidence=constant_confidence(asked, labels.size / block_length, block_length, enough),
        min_effective_windows=max(thresholds.min_effective_windows, enough),
        skewed=True,
        effects=EFFECTS["log_loss"],
    )
    return Knowledge(
        delta=delta_of("log_loss", interval, thresholds.margin_log_loss),
        log_loss=float(constant.mean()),
        num_stretches=int(stretch.max()) + 1,
        rival=SLOW_CONSTANT if arithmetic is None else LABEL_ARITHMETIC,
    )


def stretches(fold: NDArray[np.intp], block_length: int) -> NDArray[np.intp]:
    """Return the stretch of each window, counted from 0.

    Parameters
    ----------
    fold
        Fold of each window, shape (n,), windows in time order.
    block_length
        A stretch holds at least as many windows, and at least 40, unless its fold holds fewer.

    Returns
    -------
    ndarray
        Shape (n,).
    """
    found = np.empty(fold.size, dtype=np.intp)
    used = 0
    for index in np.unique(fold):
        rows = np.flatnonzero(fold == index)
        many = max(1, rows.size // max(MIN_STRETCH_WINDOWS, block_length))
        for part in np.array_split(rows, many):
            found[part] = used
            used += 1
    return found


def label_repeats(labels: NDArray[np.intp], stretch: NDArray[np.intp]) -> float:
    """Return how many labels in a row are worth one independent label, at least 1.

    Parameters
    ----------
    labels
        Class indices, shape (n,), in time order.
    stretch
        Stretch of each window, shape (n,): what drifts from one to the next is no memory.

    Returns
    -------
    float
        ``1 + 2 (r1 + r2 + ...)`` with the autocorrelations inside stretches, over all classes, up
        to the first that is not above 0 (Geyer 1992).
    """
    target = np.eye(int(labels.max()) + 1)[labels]
    size = np.bincount(stretch).astype(np.float64)
    mean = np.stack([np.bincount(stretch, weights=column) for column in target.T], axis=1)
    centred = target - (mean / size[:, None])[stretch]
    power = float((centred**2).sum())
    found = 1.0
    for lag in range(1, min(_FARTHEST_LABEL, labels.size)):
        inside = stretch[lag:] == stretch[:-lag]
        shared = float((centred[lag:] * centred[:-lag]).sum(axis=1)[inside].sum())
        if not shared > 0.0:
            break
        found += 2.0 * shared / power
    return found


def slow_constant_loss(
    labels: NDArray[np.intp], stretch: NDArray[np.intp], repeats: float = 1.0
) -> NDArray[np.float64]:
    """Return the log-loss of each stretch's own class frequencies, optimism given back.

    In each stretch the mean is that of its own frequencies. How the windows lie around it is taken
    from the frequencies of all windows: fitted to a few dozen, the stretch's own would swing from
    window to window for no reason, and hide what a model knows.

    Parameters
    ----------
    labels
        Class indices, shape (n,).
    stretch
        Stretch of each window, shape (n,).
    repeats
        As `label_repeats`.

    Returns
    -------
    ndarray
        Nats, shape (n,).
    """
    share = np.bincount(labels) / labels.size
    loss = -np.log(share[labels])
    for index in np.unique(stretch):
        rows = stretch == index
        count = np.bincount(labels[rows]).astype(np.float64)
        optimism = repeats * (np.count_nonzero(count) - 1.0) / (2.0 * count.sum())
        loss[rows] += float(entropy(count)) + optimism - loss[rows].mean()
    return loss


def best_constant_loss(labels: NDArray[np.intp], num_classes: int) -> float:
    """Return the log-loss of the windows' own class frequencies: no constant has a lower one."""
    share = np.bincount(labels, minlength=num_classes) / labels.size
    return float(entropy(share))
