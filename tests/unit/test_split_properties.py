"""Splits on random time lines: no bar on two sides, nothing left out; and libraries that agree."""

from __future__ import annotations

import json

import numpy as np
import pytest
from data_kit import regular, split_recipe
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from moola.data.splits import Split, WalkForward, WindowTimes, forward_chain, purge, walk_forward
from moola.errors import DataError


@st.composite
def time_lines(draw):
    """Windows with holes between them and labels that end at random, and a split recipe."""
    n = draw(st.integers(12, 160))
    T, H, step = draw(st.integers(2, 24)), draw(st.integers(1, 9)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    jump = rng.random(n) < draw(st.sampled_from([0.0, 0.1]))
    first = np.cumsum(np.where(jump, step * rng.integers(2, 30, n), step)).astype(np.int64)
    last = first + T - 1
    times = WindowTimes(first=first, last=last, label_end=last + rng.integers(1, H + 1, n))
    train = draw(st.floats(0.2, 0.7))
    settings_ = {
        "train_fraction": train,
        "val_fraction": draw(st.floats(0.1, 0.9 - train)),
        "embargo_bars": draw(st.sampled_from([0, 0, 1, 7, 40])),
    }
    return times, settings_


def made_or_skipped(make, name, recipe_, times):
    """Skip a case whose purge leaves a part empty; any other refusal is an error."""
    try:
        return make(name, recipe_, times, "d")
    except DataError as error:
        if "leaves no" not in error.problem:
            raise
        assume(False)


def bars_seen(times: WindowTimes, rows: np.ndarray, embargo: int = 0) -> np.ndarray:
    """True for every bar of the time line that the windows and their labels look at."""
    seen = np.zeros(int(times.label_end.max()) + 1000, dtype=int)
    np.add.at(seen, times.first[rows], 1)
    np.add.at(seen, times.label_end[rows] + embargo + 1, -1)
    return np.cumsum(seen) > 0


def check_no_bar_is_shared(times: WindowTimes, split: Split) -> None:
    parts = list(split.parts.values())
    assert len(parts) >= 2
    for k, early in enumerate(parts):
        for late in parts[k + 1 :]:
            assert early.max() < late.min()
            shared = bars_seen(times, early, split.embargo_bars) & bars_seen(times, late)
            assert not shared.any()
    everything = np.concatenate([*parts, split.purged])
    assert len(everything) == len(np.unique(everything))
    begins = [times.first[rows].min() for rows in parts[1:]]
    for row in split.purged.tolist():  # none is purged without need
        reach = int(times.label_end[row]) + split.embargo_bars
        assert any(times.first[row] < b <= reach for b in begins)


@pytest.mark.medium
@settings(max_examples=1050, suppress_health_check=[HealthCheck.too_slow])
@given(time_lines())
def test_property_forward_chain_shares_no_bar_and_covers_the_set(case):
    times, values = case
    split = made_or_skipped(forward_chain, "s", split_recipe(**values), times)
    check_no_bar_is_shared(times, split)
    counted = sum(len(rows) for rows in split.parts.values()) + len(split.purged)
    assert counted == len(times)
    assert np.array_equal(np.sort(np.concatenate([*split.parts.values(), split.purged])),
                          np.arange(len(times)))  # fmt: skip
    again = Split.from_dict(json.loads(json.dumps(split.to_dict())))
    assert again.digest() == split.digest()


@pytest.mark.medium
@settings(max_examples=1050, suppress_health_check=[HealthCheck.too_slow])
@given(time_lines(), st.integers(1, 5), st.sampled_from([None, 1, 2]))
def test_property_walk_forward_shares_no_bar_with_val_or_test(case, num_folds, train_blocks):
    times, values = case
    settings_ = split_recipe(
        **values, strategy="walk_forward", num_folds=num_folds, train_blocks=train_blocks
    )
    walk = made_or_skipped(walk_forward, "w", settings_, times)
    assert len(walk.folds) == num_folds
    last_val = -1
    for fold in walk.folds:
        check_no_bar_is_shared(times, fold)
        assert fold.val.min() > last_val
        last_val = int(fold.val.max())
        seen = bars_seen(times, np.r_[fold.train, fold.val], fold.embargo_bars)
        assert not (seen & bars_seen(times, walk.test)).any()
    again = WalkForward.from_dict(json.loads(json.dumps(walk.to_dict())))
    assert again.digest() == walk.digest()


@settings(max_examples=100)
@given(time_lines(), st.integers(1, 100))
def test_purging_agrees_with_purgedcv(case, border):
    oracle = pytest.importorskip("purgedcv")
    pd = pytest.importorskip("pandas")
    times, values = case
    border = min(border, len(times) - 1)
    earlier, later = np.arange(border), np.arange(border, len(times))
    hours = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(times.label_end.max() + 2), "h")
    expected = oracle.purge(
        earlier,
        later,
        pd.Series(hours[times.first]),
        pd.Series(hours[times.label_end + 1]),  # the oracle's horizons are half open
        pd.Timedelta(hours=values["embargo_bars"]),
    )
    assert purge(times, earlier, later, values["embargo_bars"]).tolist() == expected.tolist()


@pytest.mark.parametrize(("num_folds", "n"), [(2, 67), (3, 72), (5, 83)])
def test_folds_agree_with_scikit_learns_splitter(num_folds, n):
    from sklearn.model_selection import TimeSeriesSplit

    times = regular(n, step=6, T=13, H=5)  # a label reaches two windows on: 0..17, 12..29
    walk = walk_forward("w", split_recipe(strategy="walk_forward", num_folds=num_folds), times, "d")
    development = len(walk.folds[-1].train) + len(walk.folds[-1].purged) + len(walk.folds[-1].val)
    size = development // (num_folds + 1)
    assert development % (num_folds + 1) == 0
    oracle = TimeSeriesSplit(n_splits=num_folds, test_size=size, gap=2)
    for fold, (train, val) in zip(walk.folds, oracle.split(np.zeros(development)), strict=True):
        assert fold.train.tolist() == train.tolist()
        assert fold.val.tolist() == val.tolist()


def test_folds_serve_as_cv_of_scikit_learn():
    from sklearn.dummy import DummyClassifier
    from sklearn.model_selection import GridSearchCV, cross_val_score

    times = regular(60)
    walk = walk_forward("w", split_recipe(strategy="walk_forward", num_folds=3), times, "d")
    X, y = np.zeros((60, 1)), np.arange(60) % 2
    assert walk.get_n_splits() == 3
    scores = cross_val_score(DummyClassifier(strategy="constant", constant=1), X, y, cv=walk)
    assert scores.tolist() == [y[f.val].mean() for f in walk.folds]
    grid = GridSearchCV(DummyClassifier(), {"strategy": ["prior"]}, cv=walk).fit(X, y)
    assert grid.n_splits_ == 3
    split = forward_chain("s", split_recipe(), times, "d")
    ((train, val),) = split.split(X, y)
    assert train.tolist() == split.train.tolist()
    assert val.tolist() == split.val.tolist()
    assert split.get_n_splits(X) == 1
    with pytest.raises(DataError, match=r"X has 7 rows; expected at least"):
        next(walk.split(X[:7]))
