"""Augmentation of training windows: time warp and jitter of bars, mixup and cutmix of inputs.

One *draw* is the whole training set, augmented once; it depends on the seed and its own number
alone, so that a frozen encoder's outputs can be kept for it and a resumed run sees it again.
Validation and test windows never come here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from moola.config.base import check_range
from moola.models.fitting.transforms import KNOTS, STEPS, WarpDraws, jitter, warp

FROZEN_DRAWS = 4


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which augmentation, how strong.

    Parameters
    ----------
    temporal
        Warp and jitter windows.
    warp_sigma, warp_probability
        Standard deviation of the logarithm of the pace, and how often a window is warped.
    jitter_sigma, jitter_probability
        Standard deviation of a close's shift in units of the window's mean bar range, and how
        often a window is jittered.
    mixup_alpha, cutmix_alpha
        Of Beta(alpha, alpha), from which the share of the first window is drawn; 0: off. With both,
        each window takes one of the two at random.
    """

    temporal: bool = False
    warp_sigma: float = 0.12
    warp_probability: float = 0.5
    jitter_sigma: float = 0.05
    jitter_probability: float = 0.5
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __post_init__(self) -> None:
        for name in ("warp_probability", "jitter_probability"):
            check_range(name, getattr(self, name), low=0, high=1)
        for name in ("warp_sigma", "jitter_sigma"):
            check_range(name, getattr(self, name), low=0, high=1)
        for name in ("mixup_alpha", "cutmix_alpha"):
            check_range(name, getattr(self, name), low=0, high=100)

    @property
    def mixes(self) -> bool:
        """Whether windows of different classes are mixed."""
        return bool(self.mixup_alpha or self.cutmix_alpha)

    @property
    def active(self) -> bool:
        """Whether anything is augmented at all."""
        return self.temporal or self.mixes


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Mixed inputs: each window's two classes, and the first one's share, at least 1/2."""

    x: torch.Tensor
    features: torch.Tensor
    target: torch.Tensor
    other: torch.Tensor
    share: torch.Tensor


def augment_windows(
    X_NTC: NDArray[np.float32], config: Augmentation, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Warp and jitter windows in price units; every bar stays a bar (low <= open, close <= high).

    See `moola.models.fitting.transforms` for what a warp and a jitter keep.

    Parameters
    ----------
    X_NTC
        Shape (n, T, 4), finite, positive.
    config
        How often and how strong.
    rng
        All randomness comes from it.

    Returns
    -------
    ndarray of shape (n, T, 4), float32, positive.
    """
    X = torch.from_numpy(np.array(X_NTC, dtype=np.float64))
    num, bars = X.shape[:2]
    chosen = rng.random(num) < config.warp_probability
    if chosen.any() and config.warp_sigma and bars > 2:
        X[chosen] = warp(X[chosen], _draw_warp(int(chosen.sum()), bars, rng), config.warp_sigma)
    chosen = rng.random(num) < config.jitter_probability
    if chosen.any() and config.jitter_sigma:
        shift = rng.normal(0.0, config.jitter_sigma, (int(chosen.sum()), bars))
        X[chosen] = jitter(X[chosen], torch.from_numpy(shift))
    return np.asarray(X.float().numpy())


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


def _draw_warp(num: int, bars: int, rng: np.random.Generator) -> WarpDraws:
    return WarpDraws(
        pace=torch.from_numpy(rng.normal(size=(num, KNOTS))),
        path=torch.from_numpy(rng.normal(size=(num, bars * STEPS))),
        extremes=torch.from_numpy(rng.random((num, 2, bars * STEPS))),
    )
