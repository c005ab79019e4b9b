"""Windows cut from bars: no repeated block, no gap, normalised; bad ones and recipes refused."""

from __future__ import annotations

import numpy as np
import pytest
from data_kit import SHIPPED, bars_of, flat, hours, regular, walk

from moola.config.data import WindowRecipe, load_recipes
from moola.data.bars import read_bars, repeated_mask
from moola.data.windows import (
    check_windows,
    cut_windows,
    normalise,
    view_windows,
    window_starts,
)
from moola.errors import BadInput, ConfigError, DataError


def recipe(**values) -> WindowRecipe:
    return WindowRecipe(
        **{"source": "walk", "window_bars": 4, "step_bars": 2, "horizon_bars": 2, **values}
    )


def test_windows_and_their_horizon_lie_whole_inside_the_bars():
    # 11 bars, 4 + 2 a window: the last start is 11 - 6 = 5, so 0, 2, 4
    assert window_starts(bars_of(walk(11)), recipe()).tolist() == [0, 2, 4]
    assert window_starts(bars_of(walk(12)), recipe()).tolist() == [0, 2, 4, 6]


def test_start_and_end_bound_every_bar_that_is_looked_at():
    bounded = recipe(start="2020-01-01T03:00", end="2020-01-01T10:00")
    # bars 3 to 9: starts 3 (3..8) only, 5 would look at bar 10
    assert window_starts(bars_of(walk(20)), bounded).tolist() == [3]


def test_no_window_touches_a_repeated_block_with_any_copy():
    ohlc = walk(40)
    ohlc[25:28] = ohlc[10:13]
    starts = window_starts(bars_of(ohlc), recipe(step_bars=1))
    used = {int(b) for s in starts for b in range(s, s + 6)}
    assert used.isdisjoint({10, 11, 12, 25, 26, 27})
    assert 9 in used
    assert 13 in used


def test_no_window_of_the_default_sets_touches_the_block_of_btc():
    bars = read_bars(SHIPPED / "btcusd_1h.parquet")
    masked = repeated_mask(bars)
    assert masked.sum() == 10
    sets, _ = load_recipes()
    starts = window_starts(bars, sets["unlabeled_windows/v1"])
    assert len(starts) >= 11_873
    inside = np.zeros(len(bars) + 1, dtype=int)
    np.add.at(inside, starts, 1)
    np.add.at(inside, starts + 105, -1)
    covered = np.cumsum(inside)[:-1] > 0
    assert not (covered & masked).any()
    assert covered.sum() > 12_000


def test_a_gap_is_crossed_only_where_the_recipe_says_so():
    time = np.concatenate([hours(9), hours(9, "2020-01-05T00")])
    bars = bars_of(walk(18), time=time)
    assert window_starts(bars, recipe(step_bars=1)).tolist() == [0, 1, 2, 3, 9, 10, 11, 12]
    crossing = window_starts(bars, recipe(step_bars=1, cross_gaps=True))
    assert crossing.tolist() == list(range(13))


def test_a_window_may_begin_right_after_a_gap():
    time = np.concatenate([hours(6), hours(6, "2020-01-05T00")])
    assert window_starts(bars_of(walk(12), time=time), recipe(step_bars=6)).tolist() == [0, 6]


def test_windows_to_leave_out_so_that_no_bar_is_shared():
    times = regular(30, step=2, T=4, H=2)  # five bars on from its first, the label has ended
    rows = np.arange(30)
    gap = times.gap_windows(rows)
    assert gap == 3
    assert (times.label_end[rows[:-gap]] < times.first[rows[gap:]]).all()
    assert times.gap_windows(rows[::2]) == 2
    assert times.gap_windows(rows[::4]) == 1
    assert times.gap_windows(rows[:0]) == 0
    dense = regular(300, step=1, T=105, H=6)
    assert dense.gap_windows(np.arange(300)) == 111


def test_bars_too_few_for_one_window_are_refused():
    with pytest.raises(DataError, match=r"no window of 6 bars fits into walk \(5 bars\)"):
        window_starts(bars_of(walk(5)), recipe())


def test_windows_are_the_bars_they_say():
    bars = bars_of(walk(20))
    X = cut_windows(bars, np.array([3, 7]), 5)
    assert X.shape == (2, 5, 4)
    assert X.dtype == np.float32
    assert X.flags.c_contiguous
    assert np.array_equal(X[1], bars.ohlc[7:12].astype(np.float32))


def test_a_view_shares_the_memory_of_the_bars():
    ohlc = walk(1000).astype(np.float32)
    view = view_windows(ohlc, 105)
    assert view.shape == (896, 105, 4)
    assert np.shares_memory(view, ohlc)
    assert not view.flags.writeable
    assert np.array_equal(view[895], ohlc[895:1000])


def test_normalised_prices_by_hand():
    # closes 8, 10; ranges 2 and 2; last close 10: mean range 0.2, times sqrt(2)
    X = np.array([[[8, 9, 7, 8], [10, 11, 9, 10]]], dtype=np.float32)
    scale = 0.2 * np.sqrt(2)
    expected = [[-0.2, -0.1, -0.3, -0.2], [0.0, 0.1, -0.1, 0.0]]
    assert np.allclose(normalise(X)[0], np.array(expected) / scale, atol=1e-6)


def test_normalising_is_free_of_price_level_and_of_other_windows():
    X = cut_windows(bars_of(walk(200)), np.arange(0, 150, 10), 30)
    assert np.allclose(normalise(X * np.float32(64)), normalise(X), atol=1e-4)
    assert np.array_equal(normalise(X)[3], normalise(X[3:4])[0])


def test_a_still_window_has_no_nan():
    assert (normalise(flat([5.0] * 8)[None].astype(np.float32)) == 0).all()


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones((3, 4)), r"shape \(3, 4\)"),
        (np.ones((3, 5, 3)), r"shape \(3, 5, 3\)"),
        (np.full((1, 2, 4), "a"), "type <U1"),
        (np.ones((0, 5, 4)), "holds no window"),
        (np.ones((2, 6, 4)), "windows have 6 bars; expected 5 bars"),
    ],
)
def test_windows_of_another_shape_are_refused(X, message):
    with pytest.raises(BadInput, match=message):
        check_windows(X, window_bars=5)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, np.nan, "window 1 holds a price that is NaN"),
        (1, np.inf, "window 1 holds a price that is NaN"),
        (3, 0.0, "window 1 holds a price that is NaN, infinite or not positive"),
        (1, 1e300, "window 1 holds a price that is NaN"),
        (2, 3.0, "window 1 has a bar whose high or low does not enclose"),
    ],
)
def test_windows_with_bad_prices_are_refused(column, value, message):
    X = np.ones((2, 3, 4))
    X[1, 2, column] = value
    with pytest.raises(BadInput, match=message):
        check_windows(X)


def test_good_windows_come_back_as_float32():
    assert check_windows(np.ones((2, 3, 4), dtype=int)).dtype == np.float32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "../etc"}, "bare name"),
        ({"source": ".hidden"}, "bare name"),
        ({"source": ""}, "bare name"),
        ({"label": "expanson"}, "Did you mean 'expansion'"),
        ({"window_bars": 1}, "window_bars is 1"),
        ({"window_bars": 4.0}, "window_bars is 4.0"),
        ({"step_bars": 0}, "step_bars is 0"),
        ({"horizon_bars": 0}, "horizon_bars is 0"),
        ({"window_bars": 4, "horizon_bars": 5}, "window_bars is 4"),
        ({"start": "yesterday"}, "start is 'yesterday'"),
        ({"barrier_width": float("nan")}, "barrier_width is nan"),
        ({"cross_gaps": "yes"}, "cross_gaps is 'yes'"),
        ({"label_file": "a.csv"}, "label is 'expansion'"),
        ({"label": "file", "label_file": "../a.csv"}, "bare name"),
        ({"label": "file", "label_file": "a.csv", "class_names": ["one"]}, "two or more"),
        ({"label": "file", "label_file": "a.csv", "class_names": "ab"}, "a list"),
        ({"label": "file", "label_file": "a", "class_names": [False, True]}, "Quote the names"),
        ({"label": "file", "label_file": "a", "class_names": ["up", 2017]}, "holds 2017, of type"),
        ({"label": "file", "label_file": "a", "class_names": ["1", "0"]}, "class 0 is called '1'"),
        ({"label_timezone": "UTC"}, "label is 'expansion'"),
        ({"start": "31.02.2017"}, "start is '31.02.2017': .*does not exist"),
        ({"end": "03/05/2017"}, "end is '03/05/2017'"),
    ],
)
def test_recipes_check_themselves(values, message):
    with pytest.raises(ConfigError, match=message):
        recipe(**values)


def test_a_time_without_quotes_is_read_as_one_with_them(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "sets: {labeled_windows/a: {source: x, start: 2017-04-01, end: 2017-05-01 12:00:00}}"
    )
    sets, _ = load_recipes(tmp_path / "r.yaml")
    found = sets["labeled_windows/a"]
    assert (found.start, found.end) == ("2017-04-01", "2017-05-01T12:00:00")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "a mapping"),
        ("sets: [a]", "sets holds something else"),
        ("sets: {a: 3}", "sets holds something else"),
        ("sets: {no: {source: x}}", "the name False, of type bool.*Quote it"),
        ("splits: {2017: {labeled: x}}", "the name 2017, of type int"),
        ("sets: {a: {source: x, source: y}}", "the key 'source' is there twice"),
        ("sets: {a: {sorce: x}}", "Did you mean 'source'"),
        ("sets: {a: {step_bars: 6}}", "WindowRecipe lacks source"),
        ("splits: {a: {num_folds: 3}}", "SplitRecipe lacks labeled"),
        ("splits: {a: {labeled: 1}}", "labeled is 1; expected a set"),
        ("a: [", "not YAML"),
        ("other: {}", "a mapping of sets and splits"),
    ],
)
def test_recipe_files_are_checked(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipes(tmp_path / "r.yaml")
