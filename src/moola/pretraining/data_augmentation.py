"""Augmented copies of OHLC windows: warped in time, jittered, with wider or narrower bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moola.config.base import Config, check_count, check_range
from moola.data.windows import check_windows
from moola.models.augmentation import Augmentation, augment_windows


@dataclass(frozen=True, kw_only=True)
class TimeSeriesAugmenter(Config):
    """Draws augmented windows; every bar stays a bar (low <= open, close <= high).

    Parameters
    ----------
    time_warp_prob, time_warp_sigma
        How often a window is warped, and the standard deviation of the local pace of time.
    jitter_prob, jitter_sigma
        How often bars are shifted, and by how much, in units of the window's mean bar range.
    volatility_scale_prob, volatility_low, volatility_high
        How often the wicks of a window are scaled, and the interval the factor is drawn from.
    """

    time_warp_prob: float = 0.5
    time_warp_sigma: float = 0.12
    jitter_prob: float = 0.5
    jitter_sigma: float = 0.05
    volatility_scale_prob: float = 0.3
    volatility_low: float = 0.85
    volatility_high: float = 1.15

    def __post_init__(self) -> None:
        for name in ("time_warp_prob", "jitter_prob", "volatility_scale_prob"):
            check_range(name, getattr(self, name), low=0, high=1)
        for name in ("time_warp_sigma", "jitter_sigma"):
            check_range(name, getattr(self, name), low=0, high=1)
        check_range("volatility_low", self.volatility_low, low=0, high=self.volatility_high)
        check_range("volatility_high", self.volatility_high, low=self.volatility_low, high=10)

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting, defaults included."""
        return self.to_dict()

    def augment(self, X_NTC: NDArray, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return one augmented copy of each window, shape (n, T, 4), price units, float32."""
        X = check_windows(X_NTC)
        temporal = Augmentation(
            temporal=True,
            warp_sigma=self.time_warp_sigma,
            warp_probability=self.time_warp_prob,
            jitter_sigma=self.jitter_sigma,
            jitter_probability=self.jitter_prob,
        )
        moved = augment_windows(X, temporal, rng).astype(np.float64)
        chosen = rng.random(len(X)) < self.volatility_scale_prob
        factor = rng.uniform(self.volatility_low, self.volatility_high, len(X))
        scaled = scale_wicks(moved, np.where(chosen, factor, 1.0))
        return scaled.astype(np.float32)

    def augment_dataset(
        self, X_NTC: NDArray, num_augmentations: int = 4, *, seed: int = 0
    ) -> NDArray[np.float32]:
        """Return the windows followed by `num_augmentations` augmented copies of all of them."""
        check_count("num_augmentations", num_augmentations)
        rng = np.random.default_rng(seed)
        copies = [self.augment(X_NTC, rng) for _ in range(num_augmentations)]
        return np.concatenate([check_windows(X_NTC), *copies])


def scale_wicks(X_NTC: NDArray[np.float64], factor_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply the wicks (what lies outside open and close) of each window by its factor.

    The lower wick is kept short of the price 0.
    """
    body_top = np.maximum(X_NTC[..., 0], X_NTC[..., 3])
    body_bottom = np.minimum(X_NTC[..., 0], X_NTC[..., 3])
    factor = factor_N[:, None]
    scaled = X_NTC.copy()
    scaled[..., 1] = body_top + (X_NTC[..., 1] - body_top) * factor
    low = body_bottom - (body_bottom - X_NTC[..., 2]) * factor
    scaled[..., 2] = np.where(low > 0, low, X_NTC[..., 2])
    return scaled
