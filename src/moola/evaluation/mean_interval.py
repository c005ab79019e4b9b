"""The interval of a mean of dependent values; verdicts rest on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moola.evaluation.dependence import (
    measured_block,
    num_lags,
    persistence,
    reference,
    remembering_windows,
    skewness_of_mean,
    variance_of_mean,
)
from moola.evaluation.resampling import (
    MIN_EFFECTIVE_WINDOWS,
    BootstrapInterval,
    check_confidence,
    no_interval,
    quantile_reached,
    reach_of,
)


def mean_interval(
    values: NDArray[np.float64],
    *,
    block_length: int,
    horizons_apart: bool = False,
    confidence: float = 0.95,
    min_effective_windows: float = MIN_EFFECTIVE_WINDOWS,
    skewed: bool = False,
    effects: Sequence[float] = (),
) -> BootstrapInterval:
    """Return the interval of the mean of values that remember each other.

    Parameters
    ----------
    values
        In time order, shape (n,), n at least 10.
    block_length
        Windows that share bars.
    horizons_apart
        Every label is known before the next window is answered. Differences of losses are then
        unpredictable up to what is measured, and sharing bars alone forbids no verdict.
    confidence
        Two-sided, in (0, 1).
    min_effective_windows
        Least number of windows that share no bar (unless `horizons_apart`), and least number of
        independent values that the measured persistence leaves (never more than
        `MIN_EFFECTIVE_WINDOWS` of these).
    skewed
        Reach farther on the side of the longer tail, see
        `moola.evaluation.resampling.interval_from_draws`.
    effects
        Sizes of a true mean, the power to find which is stated, on the side of `estimate` below 0.

    Returns
    -------
    BootstrapInterval
        `low` and `high` are None with a reason where no verdict can be given.

    Raises
    ------
    BadInput
        If `confidence` is not inside (0, 1).
    """
    check_confidence(confidence)
    n, estimate, persisting = values.size, float(values.mean()), persistence(values)
    if float(np.ptp(values)) <= 1e-12 * max(1.0, abs(estimate)):
        return no_interval(estimate, 0, "the differences do not vary")
    reason = _too_few(n, block_length, horizons_apart, persisting, min_effective_windows)
    if reason is not None:
        return no_interval(estimate, 0, reason)
    lags = num_lags(n, block_length, persisting)
    law = reference(n, lags, persisting)
    error = math.sqrt(float(variance_of_mean(values, lags))) * law.scale
    quantile = law.quantile(confidence)
    block = max(block_length, measured_block(persisting, n))
    skewness = skewness_of_mean(values, block) if skewed else 0.0
    towards = math.copysign(1.0, -estimate) * skewness
    return BootstrapInterval(
        estimate=estimate,
        low=estimate - reach_of(quantile, -skewness) * error,
        high=estimate + reach_of(quantile, skewness) * error,
        standard_error=error,
        p_value=law.tail(quantile_reached(abs(estimate) / error, towards)),
        minimum_detectable=law.detectable(quantile) * error,
        num_undefined=0,
        reason=None,
        power={size: law.power(size / error, reach_of(quantile, skewness)) for size in effects},
    )


def constant_confidence(
    confidence: float, blocks: float, block_length: int, enough: float
) -> float:
    """Return the confidence of a comparison with a constant by few blocks that share no bar.

    The loss of an overconfident model is skewed, and where windows share bars its great errors
    come together: a sample without one shows no skewness that could be corrected. So the
    probability to be wrong shrinks with the blocks, from four times `enough` down, to a fifth at
    most.

    Parameters
    ----------
    confidence
        Two-sided, asked for.
    blocks, block_length
        Blocks that share no bar, and windows of each; windows that share none are left alone.
    enough
        ``min_effective_windows_constant``.

    Returns
    -------
    float
        At least `confidence`.
    """
    if block_length == 1:
        return confidence
    return 1.0 - (1.0 - confidence) * min(1.0, max(0.2, blocks / (4.0 * enough)))


def _too_few(
    n: int, block_length: int, horizons_apart: bool, persisting: float, least: float
) -> str | None:
    """Say why so few windows allow no verdict; None where they do."""
    apart = n / block_length
    if not horizons_apart and apart < least:
        return (
            f"{n} windows hold {apart:.1f} blocks of {block_length} that share no bar; "
            f"at least {least:g} are needed"
        )
    left, least = remembering_windows(n, persisting), min(least, MIN_EFFECTIVE_WINDOWS)
    if left < least:
        return (
            f"neighbouring windows' values may correlate by {persisting:.2f}, which leaves {n} "
            f"windows worth {left:.1f} independent ones; at least {least:g} are needed"
        )
    return None
