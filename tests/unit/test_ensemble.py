"""The calibrated ensemble: each fold is scaled by what ended before it began."""

from __future__ import annotations

import numpy as np
import pytest

from moola.errors import BadInput
from moola.evaluation.ensemble import calibrated_ensemble
from moola.evaluation.temperature import apply_temperature, fit_temperature


def folds_of(num: int, *, parts: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fold, first bar and label end of windows of 10 bars that start every 2 bars."""
    first = 2 * np.arange(num)
    return np.arange(num) * parts // num, first, first + 9


def overconfident(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.2, 0.8, num)
    y = (rng.random(num) < p).astype(int)
    return y, apply_temperature(np.column_stack([1 - p, p]), 0.4)


def test_each_fold_is_scaled_by_the_windows_that_ended_before_it_began() -> None:
    y, proba = overconfident(300)
    fold, first, end = folds_of(300)
    found = calibrated_ensemble(y, [proba, proba], fold=fold, first_bar=first, label_end=end)
    past = (fold < 2) & (end < first[200])
    assert past.sum() == 196  # windows 196 to 199 reach into the third fold's first window
    expected = fit_temperature(y[past], proba[past])
    assert found.temperatures[0] == 1.0
    assert found.temperatures[2] == pytest.approx(expected)
    assert 2.0 < expected < 3.5
    assert np.allclose(found.proba[fold == 0], proba[fold == 0])
    assert np.allclose(found.proba[fold == 2], apply_temperature(proba[fold == 2], expected))


def test_a_window_does_not_choose_its_own_temperature() -> None:
    y, proba = overconfident(300)
    fold, first, end = folds_of(300)
    changed = np.where(fold == 2, 1 - y, y)
    options = {"fold": fold, "first_bar": first, "label_end": end}
    one, two = (calibrated_ensemble(labels, [proba], **options) for labels in (y, changed))
    assert one.temperatures == two.temperatures
    assert np.array_equal(one.proba, two.proba)


def test_the_mean_of_the_members_is_scaled_and_bad_members_are_refused() -> None:
    half, sure = np.full((2, 2), 0.5), np.array([[0.9, 0.1], [0.3, 0.7]])
    options = {"fold": [0, 0], "first_bar": [0, 9], "label_end": [5, 12]}
    found = calibrated_ensemble([0, 1], [half, sure], **options)
    assert np.allclose(found.proba, [[0.7, 0.3], [0.4, 0.6]])
    with pytest.raises(BadInput, match="no predictions"):
        calibrated_ensemble([0, 1], [], **options)
    with pytest.raises(BadInput, match="NaN"):
        calibrated_ensemble([0, 1], [half, half * np.nan], **options)
