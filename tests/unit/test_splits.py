"""Splits by hand: forward chaining, walk-forward, purge, embargo and given indices."""

from __future__ import annotations

import numpy as np
import pytest
from data_kit import SPLIT, regular, split_recipe

from moola.data.splits import forward_chain, from_indices, purge, walk_forward
from moola.errors import AuditError, ConfigError, DataError


def test_forward_chain_by_hand():
    # 20 windows of 4 + 2 bars, two bars apart. Borders at 12 and 15. Window k holds bars
    # 2k to 2k + 5, so windows 10 and 11 (to 25, 27) reach val's bar 24, and 13, 14 test's bar 30.
    split = forward_chain("s", split_recipe(), regular(20), "d")
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
    walk = walk_forward("w", split_recipe(strategy="walk_forward", num_folds=2), regular(32), "d")
    assert walk.test.tolist() == list(range(24, 32))
    assert [f.val.tolist() for f in walk.folds] == [list(range(8, 15)), list(range(15, 22))]
    assert [f.train.tolist() for f in walk.folds] == [list(range(6)), list(range(13))]
    assert [f.purged.tolist() for f in walk.folds] == [[6, 7], [13, 14]]
    assert [f.name for f in walk.folds] == ["w/fold1", "w/fold2"]


def test_walk_forward_rolling_by_hand():
    rolling = split_recipe(strategy="walk_forward", num_folds=2, train_blocks=1)
    walk = walk_forward("w", rolling, regular(32), "d")
    assert [f.train.tolist() for f in walk.folds] == [list(range(6)), list(range(8, 13))]
    wide = split_recipe(strategy="walk_forward", num_folds=2, train_blocks=2)
    expanding = split_recipe(strategy="walk_forward", num_folds=2)
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
        make("s", split_recipe(**values), regular(20), "d")


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
        split_recipe(**values)


def test_given_indices_are_purged_and_complete():
    times = regular(20)
    given_ = {"train": np.arange(12), "val": np.arange(12, 15), "test": np.arange(15, 20)}
    made = from_indices("s", SPLIT.labeled, "d", times, **given_)
    assert made.digest() == forward_chain("s", split_recipe(), times, "d").digest()


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
