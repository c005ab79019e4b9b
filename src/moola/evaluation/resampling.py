"""Circular block bootstrap of time-ordered windows, and intervals that hold at small n.

Neighbouring windows share bars, so they are resampled in blocks (Politis and Romano 1992, by
`arch`). The usual percentile interval is too narrow for few blocks: with 20 windows in blocks of 5
it misses the truth twice as often as stated. So only the standard error comes from the bootstrap;
it is widened by ``sqrt(m / (m - 1))`` and used with Student's t on m - 1 degrees of freedom, with
``m = n / block_length`` blocks (`docs/gates.md` has the figures).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import skew
from scipy.stats import t as student_t

from moola.errors import BadInput

MIN_WINDOWS = 10
MIN_EFFECTIVE_WINDOWS = 4.0
MAX_UNDEFINED_SHARE = 0.2
_POWER = 0.8
_SYMMETRIC = 1e-6


@dataclass(frozen=True, kw_only=True)
class BootstrapInterval:
    """An estimate, its interval, and the differences it can detect.

    Attributes
    ----------
    estimate
        The statistic on the windows.
    low, high
        Ends of the interval; None with a `reason` if there is none.
    standard_error
        Of the estimate; None without an interval.
    p_value
        Two-sided, against a true value of 0; None without an interval.
    minimum_detectable
        Smallest true value detected with 80 % power at this n; None without an interval.
    num_undefined
        Resamples left out because the statistic was undefined in them.
    reason
        Why there is no interval; None if there is one.
    power
        Power to detect a true value, by its size; empty without an interval or sizes.
    """

    estimate: float
    low: float | None
    high: float | None
    standard_error: float | None
    p_value: float | None
    minimum_detectable: float | None
    num_undefined: int
    reason: str | None
    power: Mapping[float, float] = field(default_factory=dict)


@lru_cache(maxsize=4)
def resample_counts(
    num_windows: int, *, block_length: int, num_resamples: int, seed: int = 0
) -> NDArray[np.float64]:
    """Return the count of each window in each resample, shape (num_resamples, num_windows).

    Parameters
    ----------
    num_windows
        n, at least 10.
    block_length
        Windows per block, at least 1, cut to n / 4: fewer than four blocks vary too little.
    num_resamples
        At least 100.
    seed
        Seed of NumPy's default generator.

    Returns
    -------
    ndarray
        Read-only; each row sums to n.

    Raises
    ------
    BadInput
        If a number is below its limit.
    """
    from arch.bootstrap import CircularBlockBootstrap

    for name, value, limit in (
        ("the number of windows", num_windows, MIN_WINDOWS),
        ("block_length", block_length, 1),
        ("num_resamples", num_resamples, 100),
    ):
        if value < limit:
            raise BadInput(f"{name} is {value}", limit=f"at least {limit}")
    length = min(block_length, max(1, num_windows // int(MIN_EFFECTIVE_WINDOWS)))
    bootstrap = CircularBlockBootstrap(
        length, np.arange(num_windows), seed=np.random.default_rng(seed)
    )
    counts = np.empty((num_resamples, num_windows))
    for row, (rows, _) in enumerate(bootstrap.bootstrap(num_resamples)):
        counts[row] = np.bincount(rows[0], minlength=num_windows)
    counts.flags.writeable = False
    return counts


def effective_windows(num_windows: int, block_length: int) -> float:
    """Return n / block_length, about the number of windows without shared bars."""
    return num_windows / block_length


def interval_from_draws(
    estimate: float,
    draws: NDArray[np.float64],
    *,
    num_windows: int,
    block_length: int,
    confidence: float = 0.95,
    min_effective_windows: float = MIN_EFFECTIVE_WINDOWS,
    skewed: bool = False,
) -> BootstrapInterval:
    """Return the t interval around `estimate` with the standard error of the bootstrap draws.

    For statistics that are not means (PR-AUC, ECE). Draws do not show dependence beyond their block
    length; `moola.evaluation.mean_interval` measures it.

    Parameters
    ----------
    estimate
        The statistic on the windows.
    draws
        The statistic on each resample, shape (R,); NaN where undefined.
    num_windows, block_length
        n and the windows per block; their ratio is the effective number of windows.
    confidence
        Two-sided, in (0, 1).
    min_effective_windows
        No interval is given below it.
    skewed
        Widen the side of the draws' longer tail by the skewness term of the studentised mean's
        Edgeworth expansion, ``skewness * (2 t^2 + 1) / 6`` standard errors (Johnson 1978; Hall
        1992, section 3.3). The loss of an overconfident model against a constant is skewed: the
        model looks better than it is until its first large error.

    Returns
    -------
    BootstrapInterval
        `low` and `high` are None with a reason if more than a fifth of the resamples are undefined,
        the resamples do not vary, or there are too few effective windows.

    Raises
    ------
    BadInput
        If `confidence` is not inside (0, 1).
    """
    check_confidence(confidence)
    defined = draws[np.isfinite(draws)]
    num_undefined = int(draws.size - defined.size)
    effective = effective_windows(num_windows, block_length)
    reason = None
    if num_undefined > MAX_UNDEFINED_SHARE * draws.size:
        reason = f"undefined in {num_undefined} of {draws.size} resamples"
        return no_interval(estimate, num_undefined, reason)
    spread = max(effective, 2.0)
    error = float(np.std(defined, ddof=1)) * float(np.sqrt(spread / (spread - 1.0)))
    quantile = float(student_t.ppf(0.5 + confidence / 2.0, spread - 1.0))
    detectable = (quantile + float(student_t.ppf(_POWER, spread - 1.0))) * error
    if error <= 1e-12 * max(1.0, abs(estimate)):
        reason = "the resamples do not vary"
    elif effective < min_effective_windows:
        reason = (
            f"{num_windows} windows hold {effective:.1f} blocks of {block_length}; "
            f"at least {min_effective_windows:g} are needed"
        )
    if reason is not None:
        return no_interval(estimate, num_undefined, reason)
    skewness = float(skew(defined)) if skewed else 0.0
    distance, towards = abs(estimate) / error, math.copysign(1.0, -estimate) * skewness
    return BootstrapInterval(
        estimate=estimate,
        low=estimate - side_width(quantile, -skewness) * error,
        high=estimate + side_width(quantile, skewness) * error,
        standard_error=error,
        p_value=float(2.0 * student_t.sf(quantile_of_width(distance, towards), spread - 1.0)),
        minimum_detectable=detectable,
        num_undefined=num_undefined,
        reason=None,
    )


def check_confidence(confidence: float) -> None:
    """Raise BadInput unless `confidence` is inside (0, 1)."""
    if not 0.0 < confidence < 1.0:
        raise BadInput(f"confidence is {confidence}", limit="a number inside (0, 1)")


def side_width(quantile: float, tail: float) -> float:
    """Return the width, in standard errors, of an interval's side with skewness `tail`."""
    return quantile + max(0.0, tail) * (2.0 * quantile**2 + 1.0) / 6.0


def quantile_of_width(distance: float, tail: float) -> float:
    """Return the inverse of `side_width`, the quantile with width `distance`; at least 0."""
    slope = max(0.0, tail) / 3.0
    if slope < _SYMMETRIC:
        return distance
    beyond = distance - slope / 2.0
    return max(0.0, (math.sqrt(max(0.0, 1.0 + 4.0 * slope * beyond)) - 1.0) / (2.0 * slope))


def no_interval(estimate: float, num_undefined: int, reason: str) -> BootstrapInterval:
    """Return an estimate without an interval, for a stated reason."""
    return BootstrapInterval(
        estimate=estimate,
        low=None,
        high=None,
        standard_error=None,
        p_value=None,
        minimum_detectable=None,
        num_undefined=num_undefined,
        reason=reason,
    )
