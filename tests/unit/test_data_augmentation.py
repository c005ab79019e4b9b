"""Augmented windows are windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moola.data.windows import check_windows
from moola.errors import ConfigError
from moola.models.fitting.transforms import scale_wicks
from moola.pretraining.data_augmentation import TimeSeriesAugmenter


def windows(seed: int, num: int = 6, bars: int = 20) -> np.ndarray:
    rng = np.random.default_rng(seed)
    close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, (num, bars)), axis=1))
    open_ = close * np.exp(rng.normal(0, 0.01, (num, bars)))
    high = np.maximum(open_, close) * (1 + rng.exponential(0.01, (num, bars)))
    low = np.minimum(open_, close) / (1 + rng.exponential(0.01, (num, bars)))
    return np.stack([open_, high, low, close], axis=2).astype(np.float32)


@given(
    seed=st.integers(0, 10_000),
    sigma=st.floats(0, 1),
    low=st.floats(0, 1),
    high=st.floats(1, 10),
)
def test_bars_stay_bars(seed: int, sigma: float, low: float, high: float) -> None:
    augmenter = TimeSeriesAugmenter(
        time_warp_sigma=sigma, jitter_sigma=sigma, volatility_low=low, volatility_high=high,
        time_warp_prob=1, jitter_prob=1, volatility_scale_prob=1,
    )  # fmt: skip
    X = windows(seed)
    made = augmenter.augment(X, np.random.default_rng(seed))
    assert made.shape == X.shape
    check_windows(made)


def test_wicks_by_hand() -> None:
    X = torch.tensor([[[10.0, 14.0, 8.0, 12.0]]])
    assert scale_wicks(X, torch.tensor([0.5])).tolist() == [[[10.0, 13.0, 9.0, 12.0]]]
    assert scale_wicks(X, torch.tensor([2.0])).tolist() == [[[10.0, 16.0, 6.0, 12.0]]]
    assert scale_wicks(X, torch.tensor([6.0]))[0, 0, 2] == 8.0  # would fall below 0: kept


def test_off_means_unchanged_and_a_seed_means_the_same() -> None:
    X = windows(1)
    off = TimeSeriesAugmenter(time_warp_prob=0, jitter_prob=0, volatility_scale_prob=0)
    assert np.array_equal(off.augment(X, np.random.default_rng(0)), X)
    on = TimeSeriesAugmenter()
    first, again = on.augment_dataset(X, 3, seed=5), on.augment_dataset(X, 3, seed=5)
    assert np.array_equal(first, again)
    assert first.shape == (24, 20, 4)
    assert np.array_equal(first[:6], X)
    assert not np.array_equal(first[6:12], X)
    with pytest.raises(ConfigError, match="volatility_low"):
        TimeSeriesAugmenter(volatility_low=2.0)
