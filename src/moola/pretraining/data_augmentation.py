"""Augmented copies of OHLC windows: warped in time, jittered, with wider or narrower bars.

Computed where the windows lie: whole sets in advance, or each batch on the training device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moola.config.base import Config, check_count, check_range
from moola.data.windows import check_windows
from moola.models.fitting.transforms import KNOTS, STEPS, WarpDraws, jitter, scale_wicks, warp


@dataclass(frozen=True, kw_only=True)
class TimeSeriesAugmenter(Config):
    """Draws augmented windows; every bar stays a bar (low <= open, close <= high).

    Parameters
    ----------
    time_warp_prob, time_warp_sigma
        How often a window is warped, and the standard deviation of the logarithm of the pace.
    jitter_prob, jitter_sigma
        How often closes are shifted, and by how much, in units of the window's mean bar range.
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
        X = torch.from_numpy(np.array(check_windows(X_NTC)))
        draw = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return np.asarray(self.augment_batch(X, draw).numpy())

    def augment_dataset(
        self, X_NTC: NDArray, num_augmentations: int = 4, *, seed: int = 0
    ) -> NDArray[np.float32]:
        """Return the windows followed by `num_augmentations` augmented copies of all of them."""
        check_count("num_augmentations", num_augmentations)
        rng = np.random.default_rng(seed)
        copies = [self.augment(X_NTC, rng) for _ in range(num_augmentations)]
        return np.concatenate([check_windows(X_NTC), *copies])

    def augment_batch(
        self,
        X_NTC: torch.Tensor,
        draw: torch.Generator,
        *,
        num_drawn: int | None = None,
        take: Callable[[torch.Tensor], torch.Tensor] = lambda drawn: drawn,
    ) -> torch.Tensor:
        """Return one augmented copy of each window, on the windows' device, without waiting for it.

        Parameters
        ----------
        X_NTC
            Windows in price units, shape (n, T, 4).
        draw
            Generator on the same device.
        num_drawn, take
            Where the windows are a part of a batch that several processes share: the size of the
            whole batch, and what picks the part, so that each process draws the same.

        Returns
        -------
        Tensor
            Shape (n, T, 4), price units, float32; positive where the windows are.
        """
        num, bars = num_drawn or len(X_NTC), X_NTC.shape[1]
        device = X_NTC.device

        def uniform(*shape: int) -> torch.Tensor:
            return torch.rand(num, *shape, generator=draw, device=device)

        def normal(columns: int) -> torch.Tensor:
            return torch.randn(num, columns, generator=draw, device=device)

        warped = take(uniform() < self.time_warp_prob)
        draws = WarpDraws(
            pace=take(normal(KNOTS)).double(),
            path=take(normal(bars * STEPS)).double(),
            extremes=take(uniform(2, bars * STEPS)).double(),
        )
        jittered = take(uniform() < self.jitter_prob)
        shift = take(normal(bars)) * self.jitter_sigma * jittered[:, None]
        scaled = take(uniform() < self.volatility_scale_prob)
        spread = self.volatility_high - self.volatility_low
        factor = self.volatility_low + spread * take(uniform())
        moved = X_NTC.double()
        if bars > 2 and self.time_warp_prob and self.time_warp_sigma:
            moved = torch.where(
                warped[:, None, None], warp(moved, draws, self.time_warp_sigma), moved
            )
        moved = jitter(moved, shift.double())
        ones = torch.ones_like(factor)
        return scale_wicks(moved, torch.where(scaled, factor, ones).double()).float()


def normalise_batch(X_NTC: torch.Tensor) -> torch.Tensor:
    """Return windows free of price level and volatility, as :func:`moola.data.windows.normalise`.

    For windows that are made on the training device; same formula, same precision.
    """
    X = X_NTC.double()
    close = X[:, -1:, 3:4]
    ranges = (X[..., 1] - X[..., 2]).mean(dim=1)[:, None, None]
    scale = (ranges / close) * math.sqrt(X.shape[1])
    return ((X / close - 1.0) / scale.clamp_min(1e-4)).float()
