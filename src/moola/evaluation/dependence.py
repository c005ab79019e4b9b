"""Dependence between neighbouring windows, estimated on the windows under test.

There are two sources, and the larger counts: windows share bars (known from their times), and
their values are autocorrelated (estimated from the values). The estimate is the upper confidence
limit of a bias-corrected first autocorrelation, so that uncertainty counts as dependence: 20
values say little about it.

The mean of dependent values is tested with a long-run variance over a *fixed* share of the lags
(Bartlett weights; Kiefer and Vogelsang 2005). Critical values are those of the same statistic on
Gaussian AR(1) values of the estimated persistence instead of the normal's, because the variance
is itself an estimate, and biased downwards under autocorrelation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.signal import lfilter
from scipy.special import ndtr

Floats = NDArray[np.float64]
_REFERENCE_DRAWS = 2000
_FORGOTTEN = 0.05
_MAX_PERSISTENCE = 0.99
_LAGS_PER_ROOT = 1.5
_FARTHEST = 1e4


def persistence(values: Floats) -> float:
    """Return an upper limit of the first autocorrelation of `values`, in [0, 0.99].

    The estimate is corrected for its bias, ``(1 + 3 r) / n`` (Kendall 1954), plus one standard
    error.

    Parameters
    ----------
    values
        In time order, shape (n,), n at least 3.

    Returns
    -------
    float
        0 if the values do not vary.
    """
    n = values.size
    centred = values - values.mean()
    power = float(centred @ centred)
    if not power > 0.0:
        return 0.0
    raw = float(centred[1:] @ centred[:-1]) / power
    corrected = min(max(raw + (1.0 + 3.0 * raw) / n, 0.0), _MAX_PERSISTENCE)
    return min(corrected + math.sqrt((1.0 - corrected**2) / n), _MAX_PERSISTENCE)


def measured_block(persisting: float, num_windows: int) -> int:
    """Return the block length at which neighbouring blocks are nearly independent.

    The lag at which an AR(1) autocorrelation falls to 5 %, at least the cube root of n (the usual
    rate) and at most n.
    """
    lag = 1
    if persisting > _FORGOTTEN:
        lag = math.ceil(math.log(_FORGOTTEN) / math.log(persisting))
    return min(num_windows, max(lag, round(num_windows ** (1 / 3))))


def effective_sample_size(num_windows: int, persisting: float) -> float:
    """Return the effective sample size of n values for a mean: n (1 - r) / (1 + r)."""
    return num_windows * (1.0 - persisting) / (1.0 + persisting)


def num_lags(num_windows: int, block_length: int, persisting: float) -> int:
    """Return the bandwidth, in lags, of the long-run variance of n values.

    The largest of 1.5 sqrt(n), the windows that share bars, and the measured block; at most n / 2.
    """
    usual = math.ceil(_LAGS_PER_ROOT * math.sqrt(num_windows))
    wanted = max(usual, block_length, measured_block(persisting, num_windows))
    return max(1, min(wanted, num_windows // 2))


def variance_of_mean(values: Floats, lags: int) -> Floats:
    """Return the variance of the mean along the last axis, with Bartlett weights.

    Parameters
    ----------
    values
        Shape (..., n).
    lags
        Bandwidth, at least 1; 1 gives the plain variance.

    Returns
    -------
    ndarray
        Shape (...,), never below 0.
    """
    n = values.shape[-1]
    centred = values - values.mean(axis=-1, keepdims=True)
    edge = [(0, 0)] * (values.ndim - 1)
    sums = np.cumsum(np.pad(centred, [*edge, (lags, lags - 1)]), axis=-1)
    stretch = sums[..., lags:] - sums[..., :-lags]
    variance: Floats = (stretch**2).sum(axis=-1) / (lags * n * n)
    return variance


def skewness_of_mean(values: Floats, block: int) -> float:
    """Return the skewness of the mean of `values` under a circular block bootstrap.

    Parameters
    ----------
    values
        In time order, shape (n,).
    block
        Block length, at least 1; cut to n / 4.

    Returns
    -------
    float
        In closed form; 0 if the blocks do not vary.
    """
    n = values.size
    length = min(block, max(1, n // 4))
    around = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[: length - 1]]))])
    means = (around[length:] - around[:-length]) / length
    centred = means - means.mean()
    spread = float(np.mean(centred**2))
    if not spread > (1e-9 * float(np.abs(values).max(initial=0.0))) ** 2:
        return 0.0
    return float(np.mean(centred**3)) / spread**1.5 / math.sqrt(n / length)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Null distribution of a mean divided by its estimated standard error.

    Attributes
    ----------
    scale
        True standard error over the root mean square of the estimated one.
    ratios
        Estimated standard errors in units of their root mean square, shape (R,).
    """

    scale: float
    ratios: Floats
    _roots: dict[tuple[float, ...], float] = field(default_factory=dict, repr=False, compare=False)

    def tail(self, distance: float) -> float:
        """Return the two-sided tail probability beyond `distance` standard errors."""
        return float(2.0 * ndtr(-distance * self.ratios).mean())

    def quantile(self, confidence: float) -> float:
        """Return the two-sided critical value, in standard errors, at this confidence."""
        wrong = 1.0 - confidence
        return self._solved((confidence,), lambda at: self.tail(at) - wrong)

    def power(self, effect: float, quantile: float) -> float:
        """Return the power to detect a true mean of `effect` standard errors at `quantile`."""
        return float(ndtr(effect - quantile * self.ratios).mean())

    def detectable(self, quantile: float, power: float = 0.8) -> float:
        """Return the true mean, in standard errors, that is detected with this power."""
        return self._solved((quantile, power), lambda at: self.power(at, quantile) - power)

    def _solved(self, key: tuple[float, ...], gap: Callable[[float], float]) -> float:
        """Return the root of `gap`, cached by `key`, since many comparisons repeat it."""
        if key not in self._roots:
            self._roots[key] = float(brentq(gap, 0.0, _FARTHEST, xtol=1e-9))
        return self._roots[key]


def reference(num_windows: int, lags: int, persisting: float) -> Reference:
    """Return the null distribution for n values of this persistence and a bandwidth of `lags`.

    Parameters
    ----------
    num_windows
        n.
    lags
        See `variance_of_mean`.
    persisting
        In [0, 0.99]; rounded up to the next twentieth, above 0.95 to the next hundredth.

    Returns
    -------
    Reference
        From 2,000 simulated series with a fixed seed.
    """
    step = 20 if persisting <= 0.95 else 100
    rounded = min(math.ceil(persisting * step - 1e-9) / step, _MAX_PERSISTENCE)
    return _reference(num_windows, lags, rounded)


@lru_cache(maxsize=512)
def _reference(n: int, lags: int, phi: float) -> Reference:
    rng = np.random.default_rng(0)
    errors = np.empty(_REFERENCE_DRAWS)
    step = max(1, 2_000_000 // n)
    for start in range(0, _REFERENCE_DRAWS, step):
        part = errors[start : start + step]
        noise = rng.standard_normal((part.size, n))
        noise[:, 1:] *= math.sqrt(1.0 - phi**2)  # the first value keeps the stationary variance
        part[:] = np.sqrt(variance_of_mean(lfilter([1.0], [1.0, -phi], noise, axis=1), lags))
    typical = math.sqrt(float(np.mean(errors**2)))
    lag = np.arange(1, n)
    true = math.sqrt((1.0 + 2.0 * float(((1.0 - lag / n) * phi**lag).sum())) / n)
    ratios = errors / typical
    ratios.flags.writeable = False
    return Reference(scale=true / typical, ratios=ratios)
