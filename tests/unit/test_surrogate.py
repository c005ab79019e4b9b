"""The surrogate null: bars kept and their order broken; the best use of a forecast in hindsight."""

import numpy as np
import pytest
from data_kit import bars_of, walk

from moola.config.data import WindowRecipe
from moola.data.surrogate import surrogate_windows
from moola.errors import DataError
from moola.evaluation.gates.label_arithmetic import best_use_loss
from moola.evaluation.gates.slow_constant import slow_constant_loss

RECIPE = WindowRecipe(source="walk", window_bars=12, horizon_bars=3)


def shapes(ohlc):
    """High, low and close of bars over their open, rounded."""
    return {tuple(row) for row in np.round(ohlc[:, 1:] / ohlc[:, :1], 5).tolist()}


def test_surrogates_keep_bars_and_break_their_order():
    bars = bars_of(walk(200))
    found = surrogate_windows(bars, RECIPE, num_windows=50, seed=0)
    assert found.X_ohlc.shape == (50, 12, 4)
    assert set(np.unique(found.y)) == {0, 1}
    drawn = found.X_ohlc.astype(np.float64)
    tolerance = {tuple(np.round(s, 3)) for s in shapes(drawn.reshape(-1, 4))}
    assert tolerance <= {tuple(np.round(s, 3)) for s in shapes(bars.ohlc)}
    again = surrogate_windows(bars, RECIPE, num_windows=50, seed=0)
    assert np.array_equal(again.X_ohlc, found.X_ohlc)
    assert not np.array_equal(drawn[0], drawn[1])


def test_labels_of_a_file_and_too_few_bars_have_no_surrogates():
    own = WindowRecipe(source="walk", label="file", label_file="a.csv", class_names=("a", "b"))
    with pytest.raises(DataError, match="labels come from a file"):
        surrogate_windows(bars_of(walk(200)), own, num_windows=5, seed=0)
    with pytest.raises(DataError, match="has 15 bars; expected more than 15"):
        surrogate_windows(bars_of(walk(15)), RECIPE, num_windows=5, seed=0)


def test_the_best_use_of_no_information_is_the_slow_constant():
    y = np.array([0, 1, 1, 1, 0, 0, 1, 0, 0, 0])
    stretch = np.repeat([0, 1], 5)
    loss, slope = best_use_loss(y, stretch, np.full((10, 2), 0.5))
    assert slope == 0.0
    assert loss == pytest.approx(slow_constant_loss(y, stretch))


def test_a_forecast_turned_round_is_not_used_and_a_right_one_is():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.1, 0.9, 2000)
    y = (rng.random(2000) < p).astype(np.intp)
    one = np.zeros(2000, dtype=np.intp)
    loss, slope = best_use_loss(y, one, np.column_stack([1 - p, p]))
    assert slope == pytest.approx(1.0, abs=0.15)
    own = -np.where(y == 1, np.log(p), np.log(1 - p))
    assert loss.mean() == pytest.approx(own.mean(), abs=0.005)
    _, turned = best_use_loss(y, one, np.column_stack([p, 1 - p]))
    assert turned == 0.0
