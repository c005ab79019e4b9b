"""Augmentation of training windows: warp, jitter and wicks of bars, mixup and cutmix of inputs.

The augmenter works where the windows are: on whole sets in advance, or on each batch on the
training device. In fine-tuning one *draw* is the whole training set, augmented once; it depends on
the seed and its own number alone, so that a frozen encoder's outputs can be kept for it and a
resumed run sees it again. Validation and test windows never come here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moola.config.base import Config, check_count, check_range
from moola.data.windows import check_windows
from moola.models.fitting.transforms import KNOTS, STEPS, WarpDraws, jitter, scale_wicks, warp

FROZEN_DRAWS = 4


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


TEMPORAL = TimeSeriesAugmenter(volatility_scale_prob=0)  # of fine-tuning: wicks stay as they are


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which augmentation a training has, how strong.

    Parameters
    ----------
    temporal
        What changes windows before they are normalised; None: nothing.
    mixup_alpha, cutmix_alpha
        Of Beta(alpha, alpha), from which the share of the first window is drawn; 0: off. With both,
        each window takes one of the two at random.
    """

    temporal: TimeSeriesAugmenter | None = None
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha"):
            check_range(name, getattr(self, name), low=0, high=100)

    @property
    def mixes(self) -> bool:
        """Whether windows of different classes are mixed."""
        return bool(self.mixup_alpha or self.cutmix_alpha)

    @property
    def active(self) -> bool:
        """Whether anything is augmented at all."""
        return self.temporal is not None or self.mixes


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Mixed inputs: each window's two classes, and the first one's share, at least 1/2."""

    x: torch.Tensor
    features: torch.Tensor
    target: torch.Tensor
    other: torch.Tensor
    share: torch.Tensor


def mix_windows(
    x_NTC: torch.Tensor,
    features_NF: torch.Tensor,
    target_N: torch.Tensor,
    config: Augmentation,
    rng: np.random.Generator,
) -> Mixed:
    """Mix each window with another, drawn at random.

    Mixup (Zhang et al., 2018) takes the weighted mean of both windows and features; cutmix (Yun et
    al., 2019) puts a stretch of bars of the other window in the place of the window's own, and the
    weighted mean of the features.
    """
    num, bars = x_NTC.shape[:2]
    partner = rng.permutation(num)
    both = bool(config.mixup_alpha and config.cutmix_alpha)
    cut = rng.random(num) < 0.5 if both else np.full(num, bool(config.cutmix_alpha))
    share = np.where(
        cut, _shares(config.cutmix_alpha, num, rng), _shares(config.mixup_alpha, num, rng)
    )
    length = np.rint((1.0 - share) * bars).astype(np.int64)
    begin = np.floor(rng.random(num) * (bars - length + 1)).astype(np.int64)
    share = np.where(cut, 1.0 - length / bars, share)
    place = np.arange(bars)[None]
    inside = cut[:, None] & (place >= begin[:, None]) & (place < (begin + length)[:, None])
    weight = np.where(cut[:, None], ~inside, share[:, None]).astype(np.float32)
    device = x_NTC.device
    own_NT1 = torch.from_numpy(weight).to(device)[..., None]
    share_N = torch.from_numpy(share.astype(np.float32)).to(device)
    rows = torch.from_numpy(partner).to(device)
    return Mixed(
        x=own_NT1 * x_NTC + (1.0 - own_NT1) * x_NTC[rows],
        features=share_N[:, None] * features_NF + (1.0 - share_N[:, None]) * features_NF[rows],
        target=target_N,
        other=target_N[rows],
        share=share_N,
    )


def _shares(alpha: float, num: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the own window's shares from Beta(alpha, alpha), folded to [1/2, 1]."""
    drawn = rng.beta(alpha, alpha, num) if alpha else np.ones(num)
    return np.maximum(drawn, 1.0 - drawn)
