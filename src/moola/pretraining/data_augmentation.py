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

_KNOTS = 4


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
        log_pace = take(normal(_KNOTS)) * self.time_warp_sigma * warped[:, None]
        jittered = take(uniform() < self.jitter_prob)
        shift = take(normal(bars)) * self.jitter_sigma * jittered[:, None]
        scaled = take(uniform() < self.volatility_scale_prob)
        spread = self.volatility_high - self.volatility_low
        factor = self.volatility_low + spread * take(uniform())
        moved = warp(X_NTC.double(), log_pace.double()) if bars > 2 else X_NTC.double()
        moved = jitter(torch.where(warped[:, None, None], moved, X_NTC.double()), shift.double())
        ones = torch.ones_like(factor)
        return scale_wicks(moved, torch.where(scaled, factor, ones).double()).float()


def warp(X_NTC: torch.Tensor, log_pace_NK: torch.Tensor) -> torch.Tensor:
    """Read each window at uneven times, between two bars by linear interpolation of both.

    The pace of time between bars is the exponential of `log_pace_NK`, given at K knots spread over
    the window and linear between them. First and last bar stay.
    """
    num, bars = X_NTC.shape[:2]
    place = torch.linspace(0, log_pace_NK.shape[1] - 1, bars - 1, device=X_NTC.device)
    knot = place.long().clamp(max=log_pace_NK.shape[1] - 2)
    weight = (place - knot).to(X_NTC.dtype)
    steps = torch.exp((1 - weight) * log_pace_NK[:, knot] + weight * log_pace_NK[:, knot + 1])
    time = torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(dim=1)], dim=1)
    time = time * ((bars - 1) / time[:, -1:])
    left = time.long().clamp(0, bars - 2)
    share = (time - left)[..., None]
    row = torch.arange(num, device=X_NTC.device)[:, None]
    return (1 - share) * X_NTC[row, left] + share * X_NTC[row, left + 1]


def jitter(X_NTC: torch.Tensor, shift_NT: torch.Tensor) -> torch.Tensor:
    """Multiply all four prices of each bar by one number.

    Its logarithm is the shift times the window's mean relative bar range.
    """
    relative = ((X_NTC[..., 1] - X_NTC[..., 2]) / X_NTC[..., 3]).mean(dim=1, keepdim=True)
    return X_NTC * torch.exp(shift_NT * relative)[..., None]


def scale_wicks(X_NTC: torch.Tensor, factor_N: torch.Tensor) -> torch.Tensor:
    """Multiply the wicks (what lies outside open and close) of each window by its factor.

    The lower wick is kept short of the price 0.
    """
    open_, high, low, close = X_NTC.unbind(dim=2)
    top, bottom = torch.maximum(open_, close), torch.minimum(open_, close)
    factor = factor_N[:, None]
    lower = bottom - (bottom - low) * factor
    lower = torch.where(lower > 0, lower, low)
    return torch.stack([open_, top + (high - top) * factor, lower, close], dim=2)


def normalise_batch(X_NTC: torch.Tensor) -> torch.Tensor:
    """Return windows free of price level and volatility, as :func:`moola.data.windows.normalise`.

    For windows that are made on the training device; same formula, same precision.
    """
    X = X_NTC.double()
    close = X[:, -1:, 3:4]
    ranges = (X[..., 1] - X[..., 2]).mean(dim=1)[:, None, None]
    scale = (ranges / close) * math.sqrt(X.shape[1])
    return ((X / close - 1.0) / scale.clamp_min(1e-4)).float()
