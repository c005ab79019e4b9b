"""Conformal sets: the threshold by hand, coverage by simulation, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from moola.errors import BadInput, ConfigError
from moola.evaluation.conformal import conformal_threshold


def test_conformal_threshold_by_hand() -> None:
    p_true = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    proba = np.column_stack([p_true, 1 - p_true])
    y = np.zeros(9, dtype=np.int64)
    # n = 9, level 0.9: ceil(10 * 0.9) = 9th smallest of 1 - p, so every p_true must enter
    assert conformal_threshold(y, proba).threshold == 0.1
    # level 0.8: the 8th smallest of 1 - p is 0.8
    assert conformal_threshold(y, proba, level=0.8).threshold == 0.2
    # too few windows for the level: every class enters
    assert conformal_threshold(y[:3], proba[:3]).threshold == 0.0
    with pytest.raises(BadInput):
        conformal_threshold(y + 2, proba)


def test_conformal_sets_cover_exchangeable_windows() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=4000)
    proba, y = np.column_stack([1 - p, p]), (rng.uniform(size=4000) < p).astype(np.int64)
    threshold = conformal_threshold(y[:2000], proba[:2000]).threshold
    covered = proba[np.arange(2000, 4000), y[2000:]] >= threshold
    assert 0.88 < covered.mean() < 0.92


@pytest.mark.parametrize(
    ("y", "proba"),
    [
        ([], np.empty((0, 2))),
        ([0, 1], [[0.5, 0.5]]),
        ([-1], [[0.5, 0.5]]),
        ([2], [[0.5, 0.5]]),
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]]),
        ([0], [[np.nan, 0.5]]),
    ],
)
def test_windows_no_threshold_follows_from_are_refused(y: list, proba: list) -> None:
    with pytest.raises(BadInput):
        conformal_threshold(np.array(y, dtype=np.int64), np.array(proba))


@pytest.mark.parametrize("level", [0.0, 1.0, float("nan")])
def test_a_level_outside_0_to_1_is_refused(level: float) -> None:
    with pytest.raises(ConfigError, match="level"):
        conformal_threshold(np.array([0]), np.array([[0.6, 0.4]]), level=level)


def test_the_threshold_knows_where_it_comes_from() -> None:
    found = conformal_threshold(np.array([0, 1]), np.array([[0.6, 0.4], [0.3, 0.7]]), level=0.5)
    assert (found.threshold, found.level, found.num_windows) == (0.6, 0.5, 2)
