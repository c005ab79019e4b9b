"""Targets that bars give of themselves, and pretraining on them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pretrain_kit import windows

from moola.config.pretraining import MultitaskConfig
from moola.errors import ConfigError
from moola.models.multitask_bilstm import MultiTaskBiLSTM
from moola.pretraining.multitask_pretrain import majority_accuracy, pretrain_multitask
from moola.pretraining.session import Session
from moola.pretraining.targets import IGNORED, bar_targets

pytestmark = pytest.mark.medium  # trains networks


def test_targets_by_hand() -> None:
    bars = [  # open, high, low, close
        [10.0, 12.0, 10.0, 12.0],  # rising, all body
        [12.0, 15.0, 11.0, 12.1],  # doji; the highest high
        [12.0, 12.5, 9.0, 9.5],  # falling, 2.5 of 3.5; the lowest low
        [9.5, 11.5, 9.2, 10.5],  # rising, 1 of 2.3: between
    ]
    made = bar_targets(torch.tensor([bars]), 1)
    assert made["direction"].tolist() == [[1, 0, 1, IGNORED]]
    assert made["swing"].tolist() == [[IGNORED, 1, 2, IGNORED]]
    assert made["candle"].tolist() == [[1, 0, 2, 3]]


@given(seed=st.integers(0, 10_000), horizon=st.integers(1, 8), bar=st.integers(0, 19))
def test_no_target_looks_further_than_declared(seed: int, horizon: int, bar: int) -> None:
    x = torch.from_numpy(windows(1, 20, seed))
    changed = x.clone()
    outside = (torch.arange(20) - bar).abs() > horizon
    changed[:, outside] = torch.rand(1, int(outside.sum()), 4) * 200
    first, second = bar_targets(x, horizon), bar_targets(changed, horizon)
    for task in first:
        assert first[task][0, bar] == second[task][0, bar], task


def test_targets_do_not_depend_on_price_level_or_scale() -> None:
    from moola.data.windows import normalise

    X = windows(30, 40)
    raw, scaled = (
        bar_targets(torch.from_numpy(X), 4),
        bar_targets(torch.from_numpy(normalise(X)), 4),
    )
    for task, target in raw.items():
        assert (target == scaled[task]).float().mean() > 0.99, task  # ties of rounded prices


def test_a_constant_answer_scores_the_commonest_class() -> None:
    x = torch.from_numpy(windows(5, 12))
    target = bar_targets(x, 2)["swing"]
    seen = target[target != IGNORED]
    shares = [float((seen == k).float().mean()) for k in range(3)]
    assert majority_accuracy(x, 2)["swing"] == pytest.approx(max(shares))


def test_pretraining_learns_and_its_encoder_is_the_autoencoders() -> None:
    from moola.models.bilstm_masked_autoencoder import BiLSTMMaskedAutoencoder

    config = MultitaskConfig(
        hidden_dim=8, num_layers=1, epochs=12, batch_size=16, learning_rate=2e-2, horizon_bars=2,
        patience=12,
    )  # fmt: skip
    X = windows(150, 16)
    result = pretrain_multitask(X, config, Session(device="cpu"))
    last = result.history[result.kept_epoch]
    assert last["val_loss"] < 0.9 * result.history[0]["val_loss"]
    weighted = sum(
        w * last[f"val_{t}_loss"] for w, t in ((0.5, "direction"), (0.3, "swing"), (0.2, "candle"))
    )
    assert last["val_loss"] == pytest.approx(weighted, rel=1e-5)
    other = BiLSTMMaskedAutoencoder(hidden_dim=8, num_layers=1).encoder
    assert other.load_state_dict(result.model.encoder.state_dict())
    assert isinstance(result.model, MultiTaskBiLSTM)


def test_a_horizon_that_leaves_no_bar_a_target_is_refused() -> None:
    config = MultitaskConfig(hidden_dim=2, num_layers=1, epochs=1, horizon_bars=6)
    message = "horizon_bars is 6 and windows have 12 bars; expected at most 5"
    with pytest.raises(ConfigError, match=message):
        pretrain_multitask(windows(80, 12), config, Session(device="cpu"))
    assert pretrain_multitask(windows(80, 13), config, Session(device="cpu")).history


def test_every_task_is_learned_better_than_its_constant() -> None:
    from moola.data.windows import normalise

    X = windows(500, 16)
    config = MultitaskConfig(
        hidden_dim=16, num_layers=1, epochs=20, batch_size=16, learning_rate=2e-2, horizon_bars=2,
        patience=20, schedule="onecycle",
    )  # fmt: skip
    result = pretrain_multitask(X, config, Session(device="cpu"))
    held_out = torch.from_numpy(normalise(X[result.val_rows]))
    last = result.history[result.kept_epoch]
    for task, share in majority_accuracy(held_out, 2).items():
        assert last[f"val_{task}_accuracy"] > share + 0.05, task
