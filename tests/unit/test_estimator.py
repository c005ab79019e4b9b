"""The torch estimator: determinism, saving, refusal without a trace, NaN, early stopping."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_kit import estimator, same_weights, windows
from torch import nn

from moola.errors import BadInput, ProofError
from moola.models.enhanced_simple_lstm import EnhancedSimpleLSTM, EnhancedSimpleLSTMModel
from moola.models.fitting.callbacks import Callback, FitState

pytestmark = pytest.mark.medium  # trains networks


def test_equal_seeds_give_equal_weights_and_another_seed_others() -> None:
    X, y = windows()
    first, again = estimator(seed=5).fit(X, y), estimator(seed=5).fit(X, y)
    other = estimator(seed=6).fit(X, y)
    assert same_weights(first.net_, again.net_)
    assert first.history_ == again.history_
    assert not same_weights(first.net_, other.net_)


def test_the_callers_random_state_is_not_touched_and_does_not_matter() -> None:
    X, y = windows()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = estimator().fit(X, y)
    assert torch.equal(torch.rand(3), expected)
    assert same_weights(first.net_, estimator().fit(X, y).net_)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_one_query_attention_is_multi_head_attention(num_heads: int) -> None:
    torch.manual_seed(3)
    model = EnhancedSimpleLSTM(num_classes=3, hidden_size=8, num_heads=num_heads).eval()
    nn.init.normal_(model.attention.in_proj_bias)
    nn.init.normal_(model.attention.out_proj.bias)
    states, query = torch.randn(5, 11, 16), torch.randn(5, 16)
    expected, _ = model.attention(query[:, None], states, states)
    assert torch.allclose(model._attend(query, states), expected[:, 0], atol=1e-6)


def test_save_and_load_give_the_same_answers_to_the_bit(tmp_path: Path) -> None:
    X, y = windows()
    labels = np.array(["down", "up"])[y]
    model = estimator(focal_gamma=1.0, class_weight="1,2").fit(X, labels)
    digest = model.save(tmp_path / "m", extra={"temperature": 1.5})
    back = EnhancedSimpleLSTMModel.load(tmp_path / "m")
    assert same_weights(model.net_, back.net_)
    assert np.array_equal(model.predict_proba(X), back.predict_proba(X))
    assert back.predict(X).tolist() == model.predict(X).tolist()
    assert set(back.predict(X)) <= {"down", "up"}
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["weights_sha256"] == digest
    assert config["temperature"] == 1.5
    assert {k: v for k, v in back.get_params().items() if k != "device"} == {
        k: v for k, v in model.get_params().items() if k != "device"
    }


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    X, y = windows()
    estimator().fit(X, y).save(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["params"]["hidden_size"] = 4
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="is not a enhanced_simple_lstm checkpoint"):
        EnhancedSimpleLSTMModel.load(tmp_path / "m")


def _cases() -> dict[str, tuple[dict[str, Any], dict[str, Any], str]]:
    X, y = windows()
    nan_X = X.copy()
    nan_X[2, 3, 1] = np.nan
    return {
        "nan price": ({}, {"X": nan_X, "y": y}, "window 2 holds a price that is NaN"),
        "labels short": ({}, {"X": X, "y": y[:-1]}, r"y has shape \(23,\); expected \(24,\)"),
        "nan label": ({}, {"X": X, "y": np.where(y, np.nan, 0.0)}, "y holds NaN or infinity"),
        "one class": ({}, {"X": X, "y": y * 0}, "y holds 1 class, 0; expected at least 2"),
        "weights": ({"class_weight": "1,2,3"}, {"X": X, "y": y}, "class_weight is '1,2,3'; expec"),
        "focal": ({"focal_gamma": math.nan}, {"X": X, "y": y}, "focal_gamma is nan"),
        "mixup": ({"mixup_alpha": -1.0}, {"X": X, "y": y}, "mixup_alpha is -1.0"),
        "validation label": (
            {},
            {"X": X, "y": y, "validation": (X, y + 1)},
            "validation holds a label that training lacks",
        ),
        "validation shape": ({}, {"X": X, "y": y, "validation": (X, y[:3])}, "24 windows and lab"),
        "validation bars": (
            {},
            {"X": X, "y": y, "validation": (X[:, :5], y)},
            "windows have 5 bars",
        ),
    }


@pytest.mark.parametrize("kind", list(_cases()))
def test_bad_input_leaves_a_fitted_estimator_as_it_was(kind: str) -> None:
    params, arguments, message = _cases()[kind]
    X, y = windows()
    model = estimator().fit(X, y)
    answers, history = model.predict_proba(X), list(model.history_)
    model.set_params(**params)
    with pytest.raises(ValueError, match=message) as caught:
        model.fit(**arguments)
    assert "\n" not in str(caught.value)
    assert np.array_equal(model.predict_proba(X), answers)
    assert model.history_ == history


class Poison(Callback):
    """Make a gradient, or a weight before validation, NaN."""

    def __init__(self, where: str):
        self.where = where

    def on_gradients(self, state: FitState) -> None:
        if self.where == "gradient" and state.epoch == 1:
            next(state.net.parameters()).grad[0, 0] = math.nan

    def on_epoch_begin(self, state: FitState) -> None:
        if self.where == "weight" and state.epoch == 1:
            with torch.no_grad():
                state.net.classifier[0].weight[0, 0] = math.nan


@pytest.mark.parametrize("where", ["gradient", "weight"])
def test_nan_ends_the_fit_and_the_estimator_keeps_its_former_self(where: str) -> None:
    X, y = windows()
    model = estimator().fit(X, y)
    answers = model.predict_proba(X)
    with pytest.raises(ProofError, match="train_loss is not a number in epoch 2"):
        model.fit(X, y, callbacks=[Poison(where)])
    assert np.array_equal(model.predict_proba(X), answers)


def test_nan_in_validation_alone_ends_the_fit() -> None:
    class SpoilEvaluation(Callback):
        def on_fit_begin(self, state: FitState) -> None:
            state.net.classifier.register_forward_hook(
                lambda module, _, out: out if module.training else out * math.nan
            )

    X, y = windows()
    with pytest.raises(ProofError, match="val_loss is not a number in epoch 1"):
        estimator().fit(X, y, validation=(X, y), callbacks=[SpoilEvaluation()])


def test_early_stopping_keeps_the_best_epoch() -> None:
    class Losses(Callback):
        def on_epoch_end(self, state: FitState) -> None:
            state.history[-1]["val_loss"] = [0.5, 0.3, 0.4, 0.35, 0.2, 0.1][state.epoch]
            self.weights = {k: v.clone() for k, v in state.net.state_dict().items()}
            if state.epoch == 1:
                self.best = self.weights

    X, y = windows()
    losses = Losses()
    model = estimator(n_epochs=6, early_stopping_patience=2)
    model.fit(X, y, validation=(X, y), callbacks=[losses])
    assert (len(model.history_), model.kept_epoch_) == (4, 1)
    assert all(torch.equal(v, losses.best[k]) for k, v in model.net_.state_dict().items())


@pytest.mark.parametrize(
    ("options", "seen"),
    [({"gap_windows": 5}, False), ({"gap_windows": 0}, True), ({"input_kind": "series"}, True)],
)
def test_windows_before_those_held_back_are_left_out(options: dict[str, Any], seen: bool) -> None:
    X, y = windows()
    changed = X.copy()
    held = round(0.25 * len(X))
    changed[-held - 5 : -held] = X[:5]
    first, other = (estimator(val_split=0.25, **options).fit(x, y) for x in (X, changed))
    assert same_weights(first.net_, other.net_) != seen
