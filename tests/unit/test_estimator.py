"""The torch estimator: determinism, refusal without a trace, frozen epochs on cached outputs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_kit import estimator, net, same_weights, windows
from torch import nn

from moola.errors import BadInput, ProofError
from moola.models.augmentation import Augmentation, augment_windows, mix_windows
from moola.models.batches import EncoderCache, TrainSource, encoder_is_frozen
from moola.models.callbacks import Callback, FitState
from moola.models.enhanced_simple_lstm import EnhancedSimpleLSTM, EnhancedSimpleLSTMModel
from moola.models.losses import ClassificationLoss, class_weights
from moola.training.freeze import FreezeCallback, make_schedule


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
    with pytest.raises(ProofError, match="training loss is not a number in epoch 2"):
        model.fit(X, y, callbacks=[Poison(where)])
    assert np.array_equal(model.predict_proba(X), answers)


def test_nan_in_validation_alone_ends_the_fit() -> None:
    class SpoilEvaluation(Callback):
        def on_fit_begin(self, state: FitState) -> None:
            state.net.classifier.register_forward_hook(
                lambda module, _, out: out if module.training else out * math.nan
            )

    X, y = windows()
    with pytest.raises(ProofError, match="validation loss is not a number in epoch 1"):
        estimator().fit(X, y, validation=(X, y), callbacks=[SpoilEvaluation()])


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


def test_class_weights_by_hand() -> None:
    target = np.array([0, 0, 0, 1])
    assert class_weights(None, target) is None
    assert class_weights("balanced", target).tolist() == pytest.approx([4 / 6, 2.0])
    assert class_weights("1, 2.5", target).tolist() == [1.0, 2.5]
    for spec in ("1", "1,0", "1,nan", "1,-2", "one,two", "inf,1"):
        with pytest.raises(BadInput, match="class_weight is"):
            class_weights(spec, target)


def test_focal_loss_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.8, 0.2], [0.4, 0.6]]))
    target = torch.tensor([0, 0])
    expected = (0.2**2 * -math.log(0.8) + 0.6**2 * -math.log(0.4)) / 2
    assert float(ClassificationLoss(focal_gamma=2.0)(logits, target)) == pytest.approx(expected)
    weighted = ClassificationLoss(torch.tensor([1.0, 3.0]), 2.0)
    found = float(weighted(logits, torch.tensor([0, 1])))
    first, second = 0.2**2 * -math.log(0.8), 0.4**2 * -math.log(0.6)
    assert found == pytest.approx((first + 3 * second) / 4)


def test_focal_loss_with_gamma_0_and_whole_shares_is_cross_entropy() -> None:
    logits, target = torch.randn(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    for weight in (None, torch.tensor([1.0, 2.0, 0.5])):
        loss = ClassificationLoss(weight)
        plain = nn.functional.cross_entropy(logits, target, weight=weight)
        mixed = loss(logits, target, target.flip(0), torch.ones(7))
        assert float(loss(logits, target)) == float(plain)
        assert float(mixed) == pytest.approx(float(plain), rel=1e-5)


def test_mixed_labels_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.8, 0.2]]))
    loss = ClassificationLoss()(logits, torch.tensor([0]), torch.tensor([1]), torch.tensor([0.75]))
    assert float(loss) == pytest.approx(-0.75 * math.log(0.8) - 0.25 * math.log(0.2))


def test_augmented_windows_are_windows() -> None:
    X, _ = windows(50)
    config = Augmentation(temporal=True, warp_probability=1.0, jitter_probability=1.0)
    made = augment_windows(X, config, np.random.default_rng(0))
    assert made.shape == X.shape
    assert made.dtype == np.float32
    assert (made > 0).all()
    assert (made[..., 1] >= made.max(axis=2)).all()
    assert (made[..., 2] <= made.min(axis=2)).all()
    assert (np.abs(made - X).max(axis=(1, 2)) > 0).all()
    assert np.abs(made / X - 1).max() < 0.1
    calm = Augmentation(temporal=True, warp_probability=0.0, jitter_probability=0.0)
    assert np.array_equal(augment_windows(X, calm, np.random.default_rng(0)), X)


def test_a_warp_keeps_the_ends_and_reads_between_bars() -> None:
    level = np.arange(1.0, 13.0, dtype=np.float32)  # a straight line: reading at t gives 1 + t
    X = np.repeat(level[None, :, None], 4, axis=2)
    config = Augmentation(temporal=True, warp_probability=1.0, jitter_probability=0.0)
    made = augment_windows(X, config, np.random.default_rng(1))[0, :, 3]
    assert made[0] == 1.0
    assert made[-1] == pytest.approx(12.0)
    assert (np.diff(made) > 0).all()
    assert np.abs(made - level).max() > 0.01


def test_mixup_and_cutmix_take_the_shares_they_say() -> None:
    x = torch.arange(6.0)[:, None, None].expand(6, 10, 4).contiguous()
    f, target = torch.arange(6.0)[:, None].expand(6, 20).contiguous(), torch.arange(6)
    for config in (Augmentation(mixup_alpha=0.4), Augmentation(cutmix_alpha=1.0)):
        mixed = mix_windows(x, f, target, config, np.random.default_rng(2))
        share = mixed.share
        assert ((share >= 0.5) & (share <= 1.0)).all()
        expected = share * target + (1 - share) * mixed.other
        assert torch.allclose(mixed.features[:, 0], expected)
        assert torch.allclose(mixed.x.mean(dim=(1, 2)), expected, atol=1e-5)
        assert (mixed.other != target).any()
    pieces = (mixed.x[:, :, 0] != target[:, None]).sum(1)  # cutmix: whole bars of the other window
    moved = mixed.other != target
    assert torch.allclose(1 - pieces[moved] / 10, share[moved])


def test_draws_depend_on_seed_and_number_alone_and_frozen_epochs_reuse_four() -> None:
    X, y = windows()

    def source(seed: int) -> TrainSource:
        model = estimator().fit(X, y)
        config = Augmentation(temporal=True, mixup_alpha=0.2)
        return TrainSource(
            X, y.astype(np.int64), prepare=model._inputs, augmentation=config, seed=seed
        )

    first, second = source(1), source(1)
    assert torch.equal(second.draw(3).x, first.draw(3).x)
    later = first.draw(2).x
    assert torch.equal(second.draw(2).x, later)
    assert not torch.equal(first.draw(3).x, later)
    assert not torch.equal(source(2).draw(3).x, first.draw(3).x)
    assert [first.number(e, frozen=True) for e in range(6)] == [0, 1, 2, 3, 0, 1]
    assert [first.number(e, frozen=False) for e in range(3)] == [4, 5, 6]


def test_augmentation_changes_training_and_never_validation_or_answers() -> None:
    X, y = windows()
    plain = estimator(n_epochs=1).fit(X, y, validation=(X, y))
    mixed = estimator(n_epochs=1, mixup_alpha=0.4, cutmix_alpha=1.0, use_temporal_aug=True)
    seen: list[torch.Tensor] = []

    class Watch(Callback):
        def on_fit_begin(self, state: FitState) -> None:
            state.net.encoder.register_forward_hook(
                lambda module, args, _out: None if module.training else seen.append(args[0])
            )

    mixed.fit(X, y, validation=(X, y), callbacks=[Watch()])
    assert torch.equal(seen[0], plain._inputs(X)[0])
    assert not same_weights(plain.net_, mixed.net_)
    assert np.array_equal(mixed.inputs_.feature_mean, plain.inputs_.feature_mean)
