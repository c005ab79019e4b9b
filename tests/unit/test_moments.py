"""Moments by hand."""

from __future__ import annotations

import numpy as np
import pytest

from moola.data.audit.moments import MOMENT_NAMES, window_moments


def test_by_hand() -> None:
    log = np.array([[0, 2, -1, 1], [1, 3, 0, 2], [2.5, 3, -1, -1], [-1, 1, -1, 0]]) * 0.01
    found = dict(zip(MOMENT_NAMES, window_moments(np.exp(log)[None])[0], strict=True))
    returns, ranges = np.array([1.0, -3.0, 1.0]), np.array([3.0, 3.0, 4.0, 2.0])
    assert found["return_spread"] == pytest.approx(returns.std() / 3)
    centred = returns - returns.mean()
    assert found["return_tails"] == pytest.approx((centred**4).mean() ** 0.25 / returns.std())
    assert found["return_autocorrelation"] == pytest.approx(-1.0)
    assert found["size_autocorrelation"] == pytest.approx(-1.0)
    assert found["gap_size"] == pytest.approx((0 + 0.5 + 0) / 3 / 3)
    assert found["range_spread"] == pytest.approx(ranges.std() / 3)
    assert found["body_size"] == pytest.approx((1 + 1 + 3.5 + 1) / 4 / 3)
    assert found["range_to_return"] == pytest.approx(np.corrcoef(ranges[1:], [1, 3, 1])[0, 1])


def test_free_of_level_and_defined_for_flat_windows() -> None:
    X = np.exp(np.random.default_rng(0).normal(0, 0.01, (5, 30, 4)))
    X[..., 1], X[..., 2] = X.max(axis=2), X.min(axis=2)
    assert np.allclose(window_moments(X), window_moments(X * 1000))
    assert (window_moments(np.ones((2, 10, 4))) == 0).all()
