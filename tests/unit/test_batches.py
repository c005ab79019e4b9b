"""Frozen epochs on cached encoder outputs: exact, once a set, dropped when the encoder changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from finetune_kit import estimator, net, windows

from moola.models.enhanced_simple_lstm import EnhancedSimpleLSTMModel
from moola.models.fitting.batches import EncoderCache, encoder_is_frozen
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.weights.freeze import FreezeCallback, make_schedule

pytestmark = pytest.mark.medium  # trains networks


@pytest.mark.parametrize("extra", [{}, {"use_temporal_aug": True, "mixup_alpha": 0.4}])
@pytest.mark.parametrize("schedule", ["frozen", "two_phase", "gradual"])
def test_frozen_epochs_on_cached_outputs_are_exact(schedule: str, extra: dict[str, Any]) -> None:
    X, y = windows(40)
    validation = windows(16, seed=8)

    def fit(cache_frozen: bool) -> EnhancedSimpleLSTMModel:
        made = make_schedule(schedule, unfreeze_after=2, num_layers=2)
        model = estimator(n_epochs=6, cache_frozen=cache_frozen, **extra)
        return model.fit(X, y, validation=validation, callbacks=[FreezeCallback(made)])

    cached, plain = fit(True), fit(False)
    for a, b in zip(cached.history_, plain.history_, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-6)
        assert a["val_loss"] == pytest.approx(b["val_loss"], abs=1e-6)
    assert np.abs(cached.predict_proba(X) - plain.predict_proba(X)).max() <= 1e-6


def test_the_encoder_runs_once_per_set_while_it_is_frozen() -> None:
    X, y = windows(40)
    calls: list[tuple[int, int]] = []

    class Count(Callback):
        def on_fit_begin(self, state: FitState) -> None:
            state.net.encoder.register_forward_hook(
                lambda _module, args, _out: calls.append((state.epoch, len(args[0])))
            )

    schedule = FreezeCallback(make_schedule("two_phase", unfreeze_after=4))
    model = estimator(n_epochs=5, batch_size=20)
    model.fit(X, y, validation=windows(16, seed=8), callbacks=[schedule, Count()])
    assert calls == [(0, 40), (0, 16), (4, 20), (4, 20), (4, 16)]


def test_the_cache_is_dropped_when_the_encoder_changes_and_kept_below_its_limit() -> None:
    model = net()
    model.encoder.requires_grad_(False).eval()
    x = torch.randn(6, 5, 4)
    cache = EncoderCache(model)
    cache.begin_epoch()
    first = cache.states("a", x, use_amp=False)
    assert first is not None
    cache.begin_epoch()
    assert cache.states("a", x, use_amp=False) is first
    with torch.no_grad():
        model.encoder.weight_ih_l0.add_(1.0)
    cache.begin_epoch()
    changed = cache.states("a", x, use_amp=False)
    assert changed is not None
    assert torch.allclose(changed, model.encoder(x)[0])
    assert not torch.allclose(changed, first)
    assert cache.num_encoded == 12
    # 6 windows x 5 bars x 8 states x 4 bytes = 960
    assert EncoderCache(model, limit_bytes=959).states("a", x, use_amp=False) is None
    assert EncoderCache(model, limit_bytes=960).states("a", x, use_amp=False) is not None
    model.encoder.weight_ih_l0.requires_grad_(True)
    assert not encoder_is_frozen(model)
    assert cache.states("a", x, use_amp=False) is None
