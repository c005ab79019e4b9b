"""Folds under audit: away from the locked test part, and no window left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_kit import small_registry

from moola.config.data import SplitRecipe
from moola.config.training import FinetuneConfig
from moola.data.splits import Split, WalkForward, walk_forward
from moola.data.store.data_store import DataStore, WindowSet
from moola.data.store.review import audit_folds
from moola.errors import AuditError, DataError
from moola.judging.folds import require_folds

pytestmark = pytest.mark.medium  # builds sets of walk-forward folds

LOCKED = "no bar shared with the locked test part"
LEFT_OUT = "no window before the test part is left out"


@pytest.fixture(scope="module")
def shipped(data_root: Path) -> DataStore:
    return DataStore(data_root)


@pytest.fixture(scope="module")
def labeled(shipped: DataStore) -> WindowSet:
    return shipped.load_set("labeled_windows/v1")


def folds(labeled: WindowSet, **options: float) -> WalkForward:
    recipe = SplitRecipe(labeled=labeled.name, strategy="walk_forward", **options)
    return walk_forward("splits/wf", recipe, labeled.times, labeled.sha256)


def failed(
    shipped: DataStore, labeled: WindowSet, walk: WalkForward, split: Split | None = None
) -> list[set[str]]:
    trails = audit_folds(shipped, labeled, walk, split=split)
    return [{c.name for c in trail.checks if not c.passed} for trail in trails]


def test_folds_may_not_use_the_test_part_of_the_split_they_judge(shipped, labeled):
    late = folds(labeled, train_fraction=0.9, val_fraction=0.09)
    split = shipped.load_split("splits/fwd_chain_v3")
    assert not any(failed(shipped, labeled, late))
    found = failed(shipped, labeled, late, split)
    assert [LOCKED in names for names in found] == [False, False, False, True, True]
    assert not any(failed(shipped, labeled, folds(labeled), split))


def every_second(fold: Split) -> Split:
    return dataclasses.replace(fold, val=fold.val[::2])


def without_the_start_of_train(fold: Split) -> Split:
    return dataclasses.replace(fold, train=np.delete(fold.train, [10, 11]))


def without_the_end_of_val(fold: Split) -> Split:
    return dataclasses.replace(fold, val=fold.val[:-30])


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (every_second, [0, 1, 2, 3, 4]),
        (without_the_start_of_train, [0, 1, 2, 3, 4]),
        (without_the_end_of_val, [1, 2, 3, 4]),
    ],
)
def test_folds_that_leave_windows_out_fail(
    shipped: DataStore,
    labeled: WindowSet,
    change: Callable[[Split], Split],
    where: list[int],
) -> None:
    walk = folds(labeled)
    picked = dataclasses.replace(walk, folds=tuple(map(change, walk.folds)))
    found = failed(shipped, labeled, picked)
    assert [k for k, names in enumerate(found) if LEFT_OUT in names] == where


def test_the_last_fold_may_not_stop_before_the_test_part(shipped, labeled):
    walk = folds(labeled)
    short = dataclasses.replace(walk, folds=walk.folds[:-1])
    assert [LEFT_OUT in names for names in failed(shipped, labeled, short)] == [False] * 3 + [True]


def test_what_trains_on_folds_is_held_to_the_test_part_of_its_split(shipped, labeled):
    late = folds(labeled, train_fraction=0.9, val_fraction=0.09)
    with pytest.raises(AuditError, match="no bar shared with the locked test part"):
        require_folds(shipped, labeled, late, FinetuneConfig())
    with pytest.raises(DataError, match="split 'absent' does not exist"):
        require_folds(shipped, labeled, late, FinetuneConfig(split="absent"))
    assert len(require_folds(shipped, labeled, folds(labeled), FinetuneConfig())) == 5


def test_a_set_of_ones_own_needs_no_default_split(tmp_path):
    registry = small_registry(tmp_path)
    labeled = registry.load_set("labeled_windows/v1")
    walk = folds(labeled, num_folds=2)
    assert len(require_folds(registry, labeled, walk, FinetuneConfig())) == 2


def test_rolling_folds_leave_nothing_out(shipped, labeled):
    assert not any(failed(shipped, labeled, folds(labeled, train_blocks=2)))
