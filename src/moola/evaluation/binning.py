"""Bins of predicted probability, and the calibration errors that follow from their sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from moola.errors import BadInput

Scheme = Literal["equal_mass", "equal_width"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
_WINDOWS_PER_BIN = 10
_MAX_BINS = 15


@dataclass(frozen=True, kw_only=True)
class CalibrationErrors:
    """Calibration errors of one sample or, along the leading axis, of several resamples.

    Attributes
    ----------
    plugin
        Mean over bins, weighted by count, of abs(observed - predicted); shape ``(...)``.
    debiased
        `plugin` less its estimated upward bias, never below 0; shape ``(...)``.
    maximum
        Largest abs(observed - predicted) of a bin; shape ``(...)``.
    """

    plugin: NDArray[np.float64]
    debiased: NDArray[np.float64]
    maximum: NDArray[np.float64]


def default_num_bins(num_windows: int) -> int:
    """Return about one bin for each ten windows, at least 1 and at most 15."""
    return int(np.clip(num_windows // _WINDOWS_PER_BIN, 1, _MAX_BINS))


def assign_bins(
    probability: NDArray[np.float64], *, num_bins: int, scheme: Scheme = "equal_mass"
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Put each probability into a bin ``(left, right]``; the first bin includes its left edge.

    Parameters
    ----------
    probability
        Shape (n,), in [0, 1].
    num_bins
        Bins asked for. Equal-mass bins never split tied values, so there may be fewer.
    scheme
        ``"equal_mass"`` (edges at the sample's quantiles) or ``"equal_width"`` (edges on [0, 1]).

    Returns
    -------
    tuple
        Bin of each window, shape (n,), counted from 0; bin edges, shape (bins + 1,).

    Raises
    ------
    BadInput
        If `num_bins` is below 1 or `scheme` unknown.
    """
    if num_bins < 1:
        raise BadInput(f"num_bins is {num_bins}", limit="at least 1")
    if scheme not in SCHEMES:
        raise BadInput(f"scheme is {scheme!r}", limit=f"one of {', '.join(SCHEMES)}")
    if scheme == "equal_width":
        edges = np.linspace(0.0, 1.0, num_bins + 1)
    else:
        edges = np.unique(np.quantile(probability, np.linspace(0.0, 1.0, num_bins + 1)))
        if edges.size == 1:
            edges = np.repeat(edges, 2)
    return np.searchsorted(edges[1:-1], probability, side="left"), edges


def bin_sums(
    bins: NDArray[np.intp],
    event: NDArray[np.float64],
    forecast: NDArray[np.float64],
    num_bins: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return each bin's windows, events and summed forecasts, shape (bins,) each.

    `num_bins` is the minimum length of the result.
    """
    count = np.bincount(bins, minlength=num_bins).astype(np.float64)
    observed = np.bincount(bins, event, num_bins).astype(np.float64)
    return count, observed, np.bincount(bins, forecast, num_bins).astype(np.float64)


def errors_from_sums(
    count: NDArray[np.float64],
    observed: NDArray[np.float64],
    predicted: NDArray[np.float64],
) -> CalibrationErrors:
    """Return calibration errors from sums over bins.

    Parameters
    ----------
    count, observed, predicted
        Windows in each bin, how many of them had the event, and the sum of their predicted
        probabilities; shape ``(..., bins)``. Empty bins count nothing.

    Notes
    -----
    The plug-in error is biased upward: a perfectly calibrated model shows a gap in every finite
    bin. The bias is estimated as in Kumar, Liang and Ma (2019), "Verified uncertainty
    calibration": were the measured gaps the true ones, the plug-in would on average show
    E abs(N(gap, s^2)), here in closed form (the folded normal) instead of by simulation; the
    debiased error is ``2 * plugin - that``. The variance s^2 of a bin's observed rate uses
    Jeffreys-smoothed counts, so that a bin of one window is not taken for certain.
    """
    filled = count > 0
    safe = np.where(filled, count, 1.0)
    gap = np.where(filled, (observed - predicted) / safe, 0.0)
    weight = count / count.sum(axis=-1, keepdims=True)
    plugin = (weight * np.abs(gap)).sum(axis=-1)
    rate = (observed + 0.5) / (count + 1.0)
    deviation = np.sqrt(rate * (1.0 - rate) / safe)
    z = gap / deviation
    folded = deviation * (2.0 * norm.pdf(z) + z * (1.0 - 2.0 * norm.cdf(-z)))
    expected = (weight * folded).sum(axis=-1)
    return CalibrationErrors(
        plugin=plugin,
        debiased=np.maximum(0.0, 2.0 * plugin - expected),
        maximum=np.abs(gap).max(axis=-1),
    )
