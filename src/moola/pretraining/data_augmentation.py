"""Augmented copies of a corpus: the augmenter's public name, and normalising on the device."""

from __future__ import annotations

import math

import torch

from moola.models.fitting.augmentation import TimeSeriesAugmenter

__all__ = ["TimeSeriesAugmenter", "normalise_batch"]


def normalise_batch(X_NTC: torch.Tensor) -> torch.Tensor:
    """Return windows free of price level and volatility, as :func:`moola.data.windows.normalise`.

    For windows that are made on the training device; same formula, same precision.
    """
    X = X_NTC.double()
    close = X[:, -1:, 3:4]
    ranges = (X[..., 1] - X[..., 2]).mean(dim=1)[:, None, None]
    scale = (ranges / close) * math.sqrt(X.shape[1])
    return ((X / close - 1.0) / scale.clamp_min(1e-4)).float()
