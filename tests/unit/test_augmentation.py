"""Augmentation while training: windows stay windows, shares are kept, validation is untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from finetune_kit import estimator, same_weights, windows

from moola.models.augmentation import Augmentation, augment_windows, mix_windows
from moola.models.batches import TrainSource
from moola.models.callbacks import Callback, FitState


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


@pytest.mark.medium
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


@pytest.mark.medium
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
