"""Overlapping windows and the claim of a corpus, for the pretraining tests."""

from __future__ import annotations

import numpy as np

from moola.data.audit.trail import CorpusClaim

CLAIM = CorpusClaim(
    name="unlabeled_windows/v1", sha256="0" * 64, source="walk", source_sha256="1" * 64,
    first_bar="2020-01-01T00:00:00", last_bar="2020-02-01T00:00:00",
)  # fmt: skip


def windows(num: int = 80, bars: int = 12, seed: int = 0) -> np.ndarray:
    """Every stretch of `bars` bars of one random walk, shape (num, bars, 4)."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, num + bars)))
    open_ = np.r_[100.0, close[:-1]]
    high, low = np.maximum(open_, close) * 1.002, np.minimum(open_, close) * 0.998
    ohlc = np.column_stack([open_, high, low, close]).astype(np.float32)
    return np.stack([ohlc[i : i + bars] for i in range(num)])
