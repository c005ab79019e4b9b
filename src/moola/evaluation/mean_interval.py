"""The confidence interval of a mean of dependent values, on which verdicts rest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moola.evaluation.dependence import (
    effective_sample_size,
    measured_block,
    num_lags,
    persistence,
    reference,
    skewness_of_mean,
    variance_of_mean,
)
from moola.evaluation.resampling import (
    MIN_EFFECTIVE_WINDOWS,
    BootstrapInterval,
    check_confidence,
    no_interval,
    quantile_of_width,
    side_width,
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
    """Return the interval of the mean of dependent values.

    Parameters
    ----------
    values
        In time order, shape (n,), n at least 10.
    block_length
        Windows that share bars.
    horizons_apart
        Every label is known before the next window is predicted. Differences of losses then depend
        on each other only as far as is measured, and shared bars alone rule out no verdict.
    confidence
        Two-sided, in (0, 1).
    min_effective_windows
        Minimum number of blocks without shared bars (unless `horizons_apart`), and of the effective
        sample size under the measured persistence (there at most `MIN_EFFECTIVE_WINDOWS`).
    skewed
        Widen the side of the longer tail, see `moola.evaluation.resampling.interval_from_draws`.
    effects
        Sizes of a true mean below 0 for which to state the power.

    Returns
    -------
    BootstrapInterval
        `low` and `high` are None with a reason if no verdict is possible.

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
        low=estimate - side_width(quantile, -skewness) * error,
        high=estimate + side_width(quantile, skewness) * error,
        standard_error=error,
        p_value=law.tail(quantile_of_width(abs(estimate) / error, towards)),
        minimum_detectable=law.detectable(quantile) * error,
        num_undefined=0,
        reason=None,
        power={size: law.power(size / error, side_width(quantile, skewness)) for size in effects},
    )


def constant_confidence(
    confidence: float, blocks: float, block_length: int, enough: float
) -> float:
    """Return a stricter confidence for a comparison with a constant on few blocks.

    The loss of an overconfident model is skewed, and where windows share bars its large errors
    cluster: a sample that happens to hold none shows no skewness to correct for. So the error
    probability shrinks with the number of blocks below four times `enough`, at most to a fifth.

    Parameters
    ----------
    confidence
        Two-sided.
    blocks, block_length
        Number of blocks without shared bars, and windows per block; with a block length of 1
        nothing changes.
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
    """Return why so few windows allow no verdict; None if they do."""
    apart = n / block_length
    if not horizons_apart and apart < least:
        return (
            f"{n} windows hold {apart:.1f} blocks of {block_length} that share no bar; "
            f"at least {least:g} are needed"
        )
    independent, least = effective_sample_size(n, persisting), min(least, MIN_EFFECTIVE_WINDOWS)
    if independent < least:
        return (
            f"neighbouring windows' values may correlate by {persisting:.2f}, which leaves {n} "
            f"windows worth {independent:.1f} independent ones; at least {least:g} are needed"
        )
    return None
