"""The models by name, and the classical controls."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from moola.errors import BadInput, ConfigError
from moola.models import REGISTRY, ModelRegistry, get_model
from moola.models.folds import forward_chaining_folds


def windows(num: int = 120, bars: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Windows whose last quarter is wide (class 1) or narrow (class 0)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, num)
    volatility = np.full((num, bars), 0.002)
    volatility[:, -6:] *= np.where(y == 1, 4.0, 0.5)[:, None]
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1, (num, bars)) * volatility, axis=1))
    open_ = np.concatenate([np.full((num, 1), 100.0), close[:, :-1]], axis=1)
    high = np.maximum(open_, close) * (1 + volatility)
    low = np.minimum(open_, close) * (1 - volatility)
    return np.stack([open_, high, low, close], axis=2).astype(np.float32), y


def test_the_registry_names_role_and_purpose() -> None:
    assert REGISTRY["enhanced_simple_lstm"].role == "PRIMARY"
    assert REGISTRY["enhanced_simple_lstm"].takes_encoder
    assert set(ModelRegistry.ACTIVE) | set(ModelRegistry.CLASSICAL) == set(REGISTRY)
    for name, entry in REGISTRY.items():
        assert entry.purpose
        assert entry.inputs
        assert get_model(name).model_name == name


def test_unknown_names_and_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'minirocket'"):
        get_model("minirocet")
    with pytest.raises(ConfigError, match="does not take these parameters"):
        get_model("logreg", hidden_size=3)


@pytest.mark.medium
@pytest.mark.parametrize("name", ["logreg", "minirocket", "stack"])
def test_controls_learn_what_can_be_learned(name: str) -> None:
    X, y = windows()
    model = get_model(name, gap_windows=1)
    with np.errstate(all="ignore"):
        proba = model.fit(X[:80], y[:80]).predict_proba(X[80:])
    assert proba.shape == (40, 2)
    assert np.allclose(proba.sum(axis=1), 1)
    assert (model.predict(X[80:]) == y[80:]).mean() > 0.85
    again = clone(model).fit(X[:80], y[:80])
    assert np.array_equal(again.predict_proba(X[80:]), proba)
    scaled = model.predict_proba(X[80:] * 8)  # a power of two: any price level, the same bits
    assert np.abs(scaled - proba).max() < 1e-9


def test_controls_keep_the_labels_they_were_given() -> None:
    X, y = windows()
    words = np.array(["narrow", "wide"])[y]
    model = get_model("logreg", gap_windows=1).fit(X, words)
    assert model.classes_.tolist() == ["narrow", "wide"]
    assert set(model.predict(X)) == {"narrow", "wide"}


def test_the_penalty_is_chosen_on_forward_chaining_folds() -> None:
    _, y = windows(60)
    folds = forward_chaining_folds(y, gap_windows=4)
    assert len(folds) == 3
    for train, val in folds:
        assert train.max() + 4 < val.min()
    for train, val in forward_chaining_folds(y, gap_windows=20):  # more than n // 8
        assert train.max() + 20 < val.min()
    assert forward_chaining_folds(y, gap_windows=60) == []
    assert forward_chaining_folds(np.sort(y), gap_windows=4) == []
    assert forward_chaining_folds(np.array([0, 1, 0]), gap_windows=4) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda X, y: (X[:, :, :3], y), "shape"),
        (lambda X, y: (X * np.nan, y), "NaN"),
        (lambda X, y: (X, np.zeros_like(y)), "at least 2 classes"),
        (lambda X, y: (X, y[:-1]), "y has shape"),
        (lambda X, y: (X[:0], y[:0]), "no window"),
    ],
)
def test_bad_input_is_refused(change: object, words: str) -> None:
    X, y = change(*windows(40))  # type: ignore[operator]
    with pytest.raises(BadInput, match=words):
        get_model("logreg").fit(X, y)


def test_prediction_wants_the_bars_of_training() -> None:
    X, y = windows()
    model = get_model("logreg", gap_windows=1).fit(X, y)
    with pytest.raises(BadInput, match="windows have 20 bars; expected 24"):
        model.predict(X[:, :20])
