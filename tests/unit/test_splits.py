from __future__ import annotations

import json

import numpy as np
import pytest
from data_kit import SPLIT, edit_json, small_registry
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from moola.config.data import SplitRecipe
from moola.data.splits import (
    Split,
    WalkForward,
    forward_chain,
    from_indices,
    purge,
    read_split_file,
    walk_forward,
    write_split,
)
from moola.data.windows import WindowTimes
from moola.errors import AuditError, ConfigError, DataError


def regular(n: int, *, step: int = 2, T: int = 4, H: int = 2) -> WindowTimes:
    first = np.arange(n, dtype=np.int64) * step
    return WindowTimes(first=first, last=first + T - 1, label_end=first + T + H - 1)


def recipe(**values) -> SplitRecipe:
    return SplitRecipe(**{"labeled": "labeled_windows/v1", **values})


def test_forward_chain_by_hand():
    # 20 windows of 4 + 2 bars, two bars apart. Borders at 12 and 15. Window k holds bars
    # 2k to 2k + 5, so windows 10 and 11 (to 25, 27) reach val's bar 24, and 13, 14 test's bar 30.
    split = forward_chain("s", recipe(), regular(20), "d")
    assert split.train.tolist() == list(range(10))
    assert split.val.tolist() == [12]
    assert split.test.tolist() == [15, 16, 17, 18, 19]
    assert split.purged.tolist() == [10, 11, 13, 14]


def test_an_embargo_moves_the_border_by_its_bars():
    kept = [len(purge(regular(20), np.arange(12), np.array([12]), e)) for e in range(5)]
    # label of window 9 ends at bar 23, first bar of window 12 is 24
    assert kept == [10, 9, 9, 8, 8]


def test_purging_against_nothing_keeps_all():
    rows = np.arange(5)
    assert purge(regular(9), rows, rows[:0]).tolist() == rows.tolist()


def test_walk_forward_expanding_by_hand():
    # 32 windows, test from 24; 22 and 23 reach into it, so 22 are left in three blocks 8, 7, 7
    walk = walk_forward("w", recipe(strategy="walk_forward", num_folds=2), regular(32), "d")
    assert walk.test.tolist() == list(range(24, 32))
    assert [f.val.tolist() for f in walk.folds] == [list(range(8, 15)), list(range(15, 22))]
    assert [f.train.tolist() for f in walk.folds] == [list(range(6)), list(range(13))]
    assert [f.purged.tolist() for f in walk.folds] == [[6, 7], [13, 14]]
    assert [f.name for f in walk.folds] == ["w/fold1", "w/fold2"]


def test_walk_forward_rolling_by_hand():
    rolling = recipe(strategy="walk_forward", num_folds=2, train_blocks=1)
    walk = walk_forward("w", rolling, regular(32), "d")
    assert [f.train.tolist() for f in walk.folds] == [list(range(6)), list(range(8, 13))]
    wide = recipe(strategy="walk_forward", num_folds=2, train_blocks=2)
    expanding = recipe(strategy="walk_forward", num_folds=2)
    assert (
        walk_forward("w", wide, regular(32), "d").digest()
        == walk_forward("w", expanding, regular(32), "d").digest()
    )


@pytest.mark.parametrize(
    ("make", "values", "part"),
    [
        (forward_chain, {"embargo_bars": 99}, "val"),
        (forward_chain, {"train_fraction": 0.9, "val_fraction": 0.05}, "val"),
        (forward_chain, {"train_fraction": 0.6, "val_fraction": 0.39}, "test"),
        (walk_forward, {"strategy": "walk_forward", "num_folds": 12}, "train"),
        (walk_forward, {"strategy": "walk_forward", "num_folds": 40}, "train"),
    ],
)
def test_parts_left_empty_are_refused(make, values, part):
    with pytest.raises(DataError, match=f"leaves no {part} windows"):
        make("s", recipe(**values), regular(20), "d")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strategy": "random"}, "leak the future"),
        ({"strategy": "stratified"}, "leak the future"),
        ({"train_fraction": 0.0}, "train_fraction is 0.0"),
        ({"train_fraction": 0.8, "val_fraction": 0.2}, "less than 1"),
        ({"val_fraction": float("nan")}, "val_fraction is nan"),
        ({"num_folds": 0}, "num_folds is 0"),
        ({"embargo_bars": -1}, "embargo_bars is -1"),
        ({"train_blocks": 2}, "strategy: walk_forward"),
        ({"train_blocks": 0, "strategy": "walk_forward"}, "train_blocks is 0"),
    ],
)
def test_split_recipes_check_themselves(values, message):
    with pytest.raises(ConfigError, match=message):
        recipe(**values)


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


@settings(max_examples=1050, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(time_lines())
def test_property_forward_chain_shares_no_bar_and_covers_the_set(case):
    times, values = case
    split = made_or_skipped(forward_chain, "s", recipe(**values), times)
    check_no_bar_is_shared(times, split)
    counted = sum(len(rows) for rows in split.parts.values()) + len(split.purged)
    assert counted == len(times)
    assert np.array_equal(np.sort(np.concatenate([*split.parts.values(), split.purged])),
                          np.arange(len(times)))  # fmt: skip
    again = Split.from_dict(json.loads(json.dumps(split.to_dict())))
    assert again.digest() == split.digest()


@settings(max_examples=1050, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(time_lines(), st.integers(1, 5), st.sampled_from([None, 1, 2]))
def test_property_walk_forward_shares_no_bar_with_val_or_test(case, num_folds, train_blocks):
    times, values = case
    settings_ = recipe(
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


@settings(max_examples=100, deadline=None)
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
    walk = walk_forward("w", recipe(strategy="walk_forward", num_folds=num_folds), times, "d")
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
    walk = walk_forward("w", recipe(strategy="walk_forward", num_folds=3), times, "d")
    X, y = np.zeros((60, 1)), np.arange(60) % 2
    assert walk.get_n_splits() == 3
    scores = cross_val_score(DummyClassifier(strategy="constant", constant=1), X, y, cv=walk)
    assert scores.tolist() == [y[f.val].mean() for f in walk.folds]
    grid = GridSearchCV(DummyClassifier(), {"strategy": ["prior"]}, cv=walk).fit(X, y)
    assert grid.n_splits_ == 3
    split = forward_chain("s", recipe(), times, "d")
    ((train, val),) = split.split(X, y)
    assert train.tolist() == split.train.tolist()
    assert val.tolist() == split.val.tolist()
    assert split.get_n_splits(X) == 1
    with pytest.raises(DataError, match=r"X has 7 rows; expected at least"):
        next(walk.split(X[:7]))


def test_a_split_file_keeps_every_index_and_is_never_overwritten(tmp_path):
    split = forward_chain("s", recipe(embargo_bars=1), regular(40), "d")
    path = tmp_path / "s.json"
    write_split(path, split, "someone")
    before = path.read_bytes()
    write_split(path, split, "someone else")
    assert path.read_bytes() == before
    read = read_split_file(path)
    assert read.digest() == split.digest()
    assert json.loads(before)["created_by"] == "someone"
    with pytest.raises(DataError, match="exists with another content"):
        write_split(path, forward_chain("s", recipe(), regular(40), "d"), "someone")
    assert path.read_bytes() == before


def stored(tmp_path, **changes):
    path = tmp_path / "s.json"
    write_split(path, forward_chain("s", recipe(), regular(40), "d"), "someone")
    edit_json(path, **changes)
    return path


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"strategy": "random"}, DataError, "future bars into training"),
        ({"strategy": "stratified"}, DataError, "future bars into training"),
        ({"strategy": None}, DataError, "strategy None"),
        ({"strategy": ["forward_chaining"]}, DataError, "has strategy"),
        ({"strategy": "walk_forward"}, DataError, "holds no folds"),
        ({"train_indices": None}, DataError, "train_indices is missing"),
        ({"train_indices": "0 1 2"}, DataError, "a list of whole numbers"),
        ({"train_indices": [0.5, 1]}, DataError, "a list of whole numbers"),
        ({"train_indices": [True, False]}, DataError, "a list of whole numbers"),
        ({"val_indices": [-1, 25]}, DataError, "window numbers from 0"),
        ({"val_indices": [2**70]}, DataError, "window numbers from 0"),
        ({"embargo_bars": -2}, DataError, "embargo_bars is -2"),
        ({"embargo_bars": "0"}, DataError, "embargo_bars is '0'"),
        ({"counts": {"train": 1}}, DataError, "counts are"),
        ({"name": 3}, DataError, "name is 3"),
        ({"labeled_sha256": None}, DataError, "labeled_sha256 is None"),
        ({"train_indices": [3, 1, 2], "counts": None}, DataError, "counts are None"),
        ({"embargo_bars": 3}, AuditError, "changed since it was made"),
        ({"purged_indices": [22], "counts": {"train": 22, "val": 4, "test": 10, "purged": 1}},
         AuditError, "changed since it was made"),
    ],
)  # fmt: skip
def test_split_files_that_are_wrong_are_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        read_split_file(stored(tmp_path, **changes))


def file_of(tmp_path, train, val, test):
    """A split file as other tools write it: no digest, no counts."""
    values = {
        "name": "theirs", "labeled_version": "labeled_windows/v1", "labeled_sha256": "d",
        "strategy": "forward_chaining", "train_indices": train, "val_indices": val,
        "test_indices": test, "purged_indices": [],
    }  # fmt: skip
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(values))
    return path


def test_random_and_stratified_indices_by_file_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    order = rng.permutation(40).tolist()
    with pytest.raises(AuditError, match=r"train is shuffled, window .* after window"):
        read_split_file(file_of(tmp_path, order[:24], order[24:30], order[30:]))
    with pytest.raises(AuditError, match="holds random or stratified indices"):
        read_split_file(
            file_of(tmp_path, sorted(order[:24]), sorted(order[24:30]), sorted(order[30:]))
        )
    y = np.arange(40) % 2  # every fourth window of each class to val: stratified, in order
    val = np.concatenate([np.flatnonzero(y == c)[::4] for c in (0, 1)])
    rest = sorted(set(range(30)) - set(val.tolist()))
    early = sorted(v for v in val.tolist() if v < 30)
    with pytest.raises(AuditError, match="is not after window 29 of train"):
        read_split_file(file_of(tmp_path, rest, early, list(range(30, 40))))
    assert len(read_split_file(file_of(tmp_path, [0, 1], [5], [9])).train) == 2


def test_parts_in_the_wrong_order_are_refused(tmp_path):
    with pytest.raises(AuditError, match="window 0 of test is not after window 9 of val"):
        read_split_file(file_of(tmp_path, [], list(range(5, 10)), list(range(5))))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", '"x"', "\x00", "null"])
def test_files_that_are_no_json_object_are_refused(tmp_path, text):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"is not JSON|holds (list|str|NoneType)"):
        read_split_file(path)


def test_fold_files_are_checked_fold_by_fold(tmp_path):
    walk = walk_forward("w", recipe(strategy="walk_forward", num_folds=2), regular(40), "d")
    path = tmp_path / "w.json"
    write_split(path, walk, "someone")
    values = json.loads(path.read_text())
    del values["sha256"]
    cases = {
        "another set": lambda v: v["folds"][1].update(labeled_sha256="other"),
        "reaches window 35 of the locked test part": lambda v: v["folds"][1].update(
            val_indices=[33, 34, 35], counts={"train": 17, "val": 3, "test": 0, "purged": 2}
        ),
        "a fold is not an object": lambda v: v["folds"].append(3),
        "holds no folds": lambda v: v.update(folds=[]),
        "test_indices is missing": lambda v: v.pop("test_indices"),
    }
    for message, change in cases.items():
        copy = json.loads(json.dumps(values))
        change(copy)
        path.write_text(json.dumps(copy))
        with pytest.raises((DataError, AuditError), match=message):
            read_split_file(path)


def test_an_absent_split_names_those_there(tmp_path):
    small_registry(tmp_path)
    with pytest.raises(DataError, match="one of: fwd"):
        read_split_file(tmp_path / "splits" / "other.json")


def test_given_indices_are_purged_and_complete():
    times = regular(20)
    given_ = {"train": np.arange(12), "val": np.arange(12, 15), "test": np.arange(15, 20)}
    made = from_indices("s", SPLIT.labeled, "d", times, **given_)
    assert made.digest() == forward_chain("s", recipe(), times, "d").digest()


@pytest.mark.parametrize(
    ("train", "val", "test", "error", "message"),
    [
        ([0, 1], [2], [20], DataError, "names windows 20 to 20; expected 0 to 19"),
        ([-1, 1], [2], [9], DataError, "names windows -1 to 1"),
        ([], [2], [9], DataError, "leaves no train"),
        ([0, 5], [3], [9], AuditError, "random or stratified"),
        ([5, 0], [12], [18], AuditError, "shuffled"),
    ],
)
def test_given_indices_are_refused(train, val, test, error, message):
    rows = [np.array(r, dtype=np.int64) for r in (train, val, test)]
    with pytest.raises(error, match=message):
        from_indices("s", SPLIT.labeled, "d", regular(20), train=rows[0], val=rows[1], test=rows[2])
