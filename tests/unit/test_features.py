"""The twenty features: by hand, bounded, free of price level, and blind to the future."""

from __future__ import annotations

import numpy as np
import pytest
from data_kit import bars_of, flat, walk
from hypothesis import given
from hypothesis import strategies as st

from moola.data.features import FEATURE_NAMES, FEATURES, features20
from moola.data.windows import cut_windows


def one(window) -> dict[str, float]:
    X = np.asarray(window, dtype=np.float32)[None]
    return dict(zip(FEATURE_NAMES, features20(X)[0].tolist(), strict=True))


def test_there_are_twenty_and_each_is_described():
    assert len(FEATURE_NAMES) == len(set(FEATURE_NAMES)) == 20
    assert all(len(text) > 20 for text in FEATURES.values())


# 12 bars. Levels 100, then the last six run 100 101 102 103 104 105; spread 1 around each.
RUN = flat([100.0] * 6 + [100, 101, 102, 103, 104, 105], spread=1.0)
# 6-bar ranges by first bar: [0..5] 2, [1..6] 2, then 3, 4, 5, 6, 7 -> median 4
SIX = np.array([2, 2, 3, 4, 5, 6, 7.0])


def test_range_features_by_hand():
    found = one(RUN)
    assert found["range_6"] == pytest.approx((7 - 4) / (7 + 4), abs=1e-6)
    assert found["range_6_before"] == pytest.approx((2 - 4) / (2 + 4), abs=1e-6)
    assert found["range_12"] == 0.0  # the only 12-bar range is its own median
    low, high = np.percentile(SIX, [25, 75])  # 2.5 and 5.5
    assert (low, high) == (2.5, 5.5)
    assert found["range_dispersion"] == pytest.approx(3 / 8, abs=1e-6)
    assert found["range_rank"] == 1.0  # all six others lie below
    # all bars range 2, so every bar range is its mean
    assert found["bar_range_1"] == found["bar_range_3"] == found["bar_range_24"] == 0.0


def test_lagged_ranges_begin_where_they_say():
    # 30 bars, still but for bar 6, which begins the stretch 24 bars before the end
    window = flat([100.0] * 30, spread=1.0)
    window[6, 1] += 6.0
    found = one(window)
    assert found["range_6_lag_24"] == pytest.approx((8 - 2) / (8 + 2), abs=1e-6)
    assert found["range_6"] == 0.0
    # the window is shorter than 48 bars: the earliest stretch, bars 0 to 5, stands in
    assert found["range_6_lag_48"] == found["range_6_lag_96"] == 0.0


def test_shape_features_by_hand():
    found = one(RUN)
    changes = np.diff([100.0] * 6 + [100, 101, 102, 103, 104, 105])  # 6 zeros, 5 ones
    assert found["efficiency"] == found["efficiency_24"] == 1.0
    # last six absolute changes: 0 1 1 1 1 1, mean 5/6; of the window 5/11
    a, b = 5 / 6, 5 / 11
    assert found["abs_return_6"] == pytest.approx((a - b) / (a + b), abs=1e-6)
    assert found["volatility_24"] == 0.0  # fewer than 24 changes: the same as the window's
    centred = changes - 5 / 11
    lagged = (centred[1:] * centred[:-1]).sum() / (centred**2).sum()
    assert found["abs_return_autocorrelation"] == pytest.approx(lagged, abs=1e-6)
    # range of the window 99 to 106; last close 105
    assert found["close_position"] == pytest.approx(2 * 6 / 7 - 1, abs=1e-6)
    assert found["body_share_6"] == -1.0  # open = close: no bodies


def test_bodies_that_fill_their_range_give_one():
    window = np.array([[10, 12, 10, 12]] * 8, dtype=float)
    assert one(window)["body_share_6"] == 1.0


def test_a_there_and_back_has_no_efficiency():
    found = one(flat([10, 12, 10, 12, 10], 0.5))
    assert found["efficiency"] == 0.0


def test_a_still_window_is_all_defaults_and_no_nan():
    found = one(flat([7.0] * 30))
    assert set(found.values()) <= {0.0, -1.0}
    assert found["range_rank"] == -1.0


@given(
    st.integers(0, 10_000),
    st.integers(2, 130),
    st.sampled_from([1e-6, 1e-2, 1.0, 1e6]),
)
def test_every_feature_is_finite_and_inside_its_bounds(seed, T, price):
    X = cut_windows(bars_of(walk(T + 20, seed=seed, price=price)), np.arange(20), T)
    F = features20(X)
    assert F.shape == (20, 20)
    assert F.dtype == np.float32
    assert np.isfinite(F).all()
    assert (np.abs(F) <= 1.0).all()


def test_features_are_free_of_the_price_level():
    X = cut_windows(bars_of(walk(300)), np.arange(0, 150, 10), 105)
    assert np.array_equal(features20(X * np.float32(0.25)), features20(X))  # a power of two: exact
    assert np.allclose(features20(X * np.float32(37.3)), features20(X), atol=2e-3)


def test_no_look_ahead_every_future_bar_perturbed_changes_nothing():
    ohlc = walk(400)
    starts = np.arange(0, 180, 9)
    before = features20(cut_windows(bars_of(ohlc), starts, 105))
    for row, start in enumerate(starts):
        end = start + 105
        for changed in (ohlc[end:] * 5.0, ohlc[end:][::-1], ohlc[end:] * np.nan):
            again = features20(cut_windows(bars_of(np.vstack([ohlc[:end], changed])), starts, 105))
            assert np.array_equal(again[row], before[row])


def test_every_bar_of_the_window_itself_matters():
    X = cut_windows(bars_of(walk(120)), np.array([3]), 105)
    before = features20(X)
    for bar in range(105):
        changed = X.copy()
        changed[0, bar, 1] *= 1.5
        assert not np.array_equal(features20(changed), before)


def test_a_window_has_the_same_bits_alone_and_in_a_crowd():
    X = cut_windows(bars_of(walk(4400)), np.arange(4290), 105)
    whole = features20(X)
    for row in (0, 17, 4095, 4096, 4289):
        assert np.array_equal(features20(X[row : row + 1])[0], whole[row])
