"""The best slowly varying constant in hindsight, which a model must beat to show knowledge.

A forecast that merely guesses the class frequencies better than the train part's shows no
knowledge, and markets drift. So the rival is not one constant but the best *slowly varying* one:
each fold is cut into stretches of windows, and in each stretch the rival predicts its own class
frequencies. They are known only in hindsight: fitted to n windows, a constant looks better than the
true frequencies by (K - 1) / (2 n) nats (Miller 1955), and this optimism is subtracted. For
autocorrelated labels n is replaced by their effective number, as measured within stretches, and
every stretch holds at least 20 effectively independent labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import entropy

from moola.evaluation.compare import EFFECTS, delta_of
from moola.evaluation.compare_result import Delta
from moola.evaluation.gates.collapse import folds_of
from moola.evaluation.gates.comparison import GateContext
from moola.evaluation.gates.label_arithmetic import best_use_loss
from moola.evaluation.mean_interval import constant_confidence, mean_interval
from moola.evaluation.predictions import clean_predictions, log_loss_per_window

MIN_STRETCH_WINDOWS = 40
_MIN_INDEPENDENT = 20  # effective number of independent labels per stretch
_MAX_LAG = 20
SLOW_CONSTANT = "the best slowly varying constant"
LABEL_ARITHMETIC = "the label's own arithmetic and that constant"


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """The gain of a forecast over the best slowly varying constant.

    Attributes
    ----------
    delta
        Log-loss of the forecast less that of the constant, with its interval.
    log_loss
        Log-loss of the constant, nats, corrected for optimism.
    num_stretches
        Number of stretches with class frequencies of their own.
    rival
        Name of the rival in sentences.
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
        """Return the figures for a gate report."""
        return {
            "delta_slow_constant": self.delta.interval(),
            "log_loss_slow_constant": self.log_loss,
            "num_stretches": self.num_stretches,
        }


def knowledge(
    y: ArrayLike,
    proba: ArrayLike,
    prior: ArrayLike | None,
    context: GateContext,
    *,
    arithmetic: ArrayLike | None = None,
) -> Knowledge:
    """Compare a forecast with the best slowly varying constant, with or without label arithmetic.

    Parameters
    ----------
    y, proba
        Class indices, shape (n,), in time order, and probabilities, shape (n, K).
    prior
        Class frequencies of each window's fold, shape (n, K); equal rows belong to one fold. None:
        one fold.
    context
        Overlap of the windows, and thresholds; a stretch is no shorter than a block.
    arithmetic
        A forecast from the rule of the label alone, shape (n, K): the rival then uses it as well
        as hindsight allows (`moola.evaluation.gates.label_arithmetic`). None: the rival is a
        constant.

    Raises
    ------
    BadInput
        On predictions no metric should be computed from, or n below 10.
    """
    labels, matrix = clean_predictions(y, proba)
    fold = folds_of(prior, labels.size)
    limits, block = context.thresholds, context.block_length
    repeats = label_repeats(labels, stretches(fold, block))
    stretch = stretches(fold, max(block, math.ceil(_MIN_INDEPENDENT * repeats)))
    if arithmetic is None:
        constant = slow_constant_loss(labels, stretch, repeats)
    else:
        constant, _ = best_use_loss(labels, stretch, arithmetic, repeats)
    values = log_loss_per_window(labels, matrix) - constant
    enough = limits.min_effective_windows_constant
    interval = mean_interval(
        values,
        block_length=block,
        horizons_apart=context.horizons_apart,
        confidence=constant_confidence(limits.confidence, labels.size / block, block, enough),
        min_effective_windows=max(limits.min_effective_windows, enough),
        skewed=True,
        effects=EFFECTS["log_loss"],
    )
    return Knowledge(
        delta=delta_of("log_loss", interval, limits.margin_log_loss),
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
        Minimum number of windows per stretch, but at least 40, unless the fold has fewer.
    """
    stretch = np.empty(fold.size, dtype=np.intp)
    count = 0
    for index in np.unique(fold):
        rows = np.flatnonzero(fold == index)
        many = max(1, rows.size // max(MIN_STRETCH_WINDOWS, block_length))
        for part in np.array_split(rows, many):
            stretch[part] = count
            count += 1
    return stretch


def label_repeats(labels: NDArray[np.intp], stretch: NDArray[np.intp]) -> float:
    """Return the number of consecutive labels equivalent to one independent label, at least 1.

    Parameters
    ----------
    labels
        Class indices, shape (n,), in time order.
    stretch
        Stretch of each window, shape (n,): drift between stretches is not autocorrelation.

    Returns
    -------
    float
        ``1 + 2 (r1 + r2 + ...)`` with the autocorrelations within stretches, over all classes, up
        to the first that is not positive (Geyer 1992).
    """
    target = np.eye(int(labels.max()) + 1)[labels]
    size = np.bincount(stretch).astype(np.float64)
    mean = np.stack([np.bincount(stretch, weights=column) for column in target.T], axis=1)
    centred = target - (mean / size[:, None])[stretch]
    power = float((centred**2).sum())
    repeats = 1.0
    for lag in range(1, min(_MAX_LAG, labels.size)):
        inside = stretch[lag:] == stretch[:-lag]
        shared = float((centred[lag:] * centred[:-lag]).sum(axis=1)[inside].sum())
        if not shared > 0.0:
            break
        repeats += 2.0 * shared / power
    return repeats


def slow_constant_loss(
    labels: NDArray[np.intp], stretch: NDArray[np.intp], repeats: float = 1.0
) -> NDArray[np.float64]:
    """Return the log-loss of each stretch's own class frequencies, corrected for optimism.

    The mean within each stretch is that of its own frequencies. The deviations from it are those of
    the frequencies of all windows: fitted to a few dozen windows, the stretch's own would add noise
    that hides what a model knows.

    Parameters
    ----------
    labels
        Class indices, shape (n,).
    stretch
        Stretch of each window, shape (n,).
    repeats
        From `label_repeats`.

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
    """Return the log-loss of the windows' own class frequencies, the lowest of any constant."""
    share = np.bincount(labels, minlength=num_classes) / labels.size
    return float(entropy(share))
