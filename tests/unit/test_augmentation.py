"""Augmentation while training: windows stay windows, shares are kept, validation is untouched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from finetune_kit import estimator, same_weights, windows

from moola.data.audit.moments import MOMENT_NAMES, window_moments
from moola.data.windows import check_windows
from moola.models.fitting.augmentation import TEMPORAL, Augmentation, mix_windows
from moola.models.fitting.batches import TrainSource
from moola.models.fitting.callbacks import Callback, FitState
from moola.models.fitting.transforms import KNOTS, STEPS, WarpDraws, warp


def test_augmented_windows_are_windows() -> None:
    X, _ = windows(50)
    config = replace(TEMPORAL, time_warp_prob=1.0, jitter_prob=1.0)
    made = config.augment(X, np.random.default_rng(0))
    assert made.shape == X.shape
    assert made.dtype == np.float32
    assert (made > 0).all()
    assert (made[..., 1] >= made.max(axis=2)).all()
    assert (made[..., 2] <= made.min(axis=2)).all()
    assert (np.abs(made - X).max(axis=(1, 2)) > 0).all()
    assert np.abs(made / X - 1).max() < 0.1
    calm = replace(TEMPORAL, time_warp_prob=0.0, jitter_prob=0.0)
    assert np.array_equal(calm.augment(X, np.random.default_rng(0)), X)


def market(num: int, bars: int = 60, gap: float = 0.0) -> np.ndarray:
    """Windows of a random walk with bursts, 60 steps a bar, and gaps between bars."""
    rng = np.random.default_rng(5)
    steps = rng.standard_t(4, (num, bars, 60)) * np.exp(rng.normal(0, 0.5, (num, bars, 1))) * 1e-3
    steps[:, :, 0] += rng.normal(0, gap, (num, bars))
    path = np.cumsum(steps.reshape(num, -1), axis=1).reshape(num, bars, 60)
    levels = [path[..., 0], path.max(axis=2), path.min(axis=2), path[..., -1]]
    return (100 * np.exp(np.stack(levels, axis=2))).astype(np.float32)


def test_a_warp_keeps_the_windows_ends_and_extremes_and_covers_what_lies_between() -> None:
    X = market(200, gap=1e-3)
    config = replace(TEMPORAL, time_warp_prob=1.0, jitter_prob=0.0)
    made = config.augment(X, np.random.default_rng(1))
    for column, pick in ((0, lambda A: A[:, 0]), (3, lambda A: A[:, -1])):
        assert np.allclose(pick(made[..., column]), pick(X[..., column]), rtol=1e-6)
    assert np.allclose(made[..., 1].max(axis=1), X[..., 1].max(axis=1), rtol=1e-6)
    assert np.allclose(made[..., 2].min(axis=1), X[..., 2].min(axis=1), rtol=1e-6)
    whole = np.isclose(made[:, :, None], X[:, None], rtol=1e-6).all(axis=3).any(axis=2)
    assert 0.75 < whole.mean() < 0.95  # most bars are old ones, the others halves and pairs
    pairs = np.stack(
        [X[:, :-1, 0], np.maximum(X[:, :-1, 1], X[:, 1:, 1]),
         np.minimum(X[:, :-1, 2], X[:, 1:, 2]), X[:, 1:, 3]], axis=2,
    )  # fmt: skip
    two = np.isclose(made[:, :, None], pairs[:, None], rtol=1e-6).all(axis=3).any(axis=2)
    assert two.mean() == pytest.approx((1 - whole.mean()) / 3, rel=0.1)  # a pair for two halves


@pytest.mark.parametrize("sigma", [0.12, 0.3])
def test_the_pace_is_as_documented(sigma: float) -> None:
    """A rising line of bars that touch tells by its closes how far the warp has run."""
    num, bars = 4000, 105
    close = np.arange(1.0, bars + 1.0)
    line = np.exp(1e-3 * np.stack([close - 1, close, close - 1, close], axis=1))
    X = torch.from_numpy(np.broadcast_to(line, (num, bars, 4)).copy())
    rng = np.random.default_rng(2)
    pace = torch.from_numpy(rng.normal(size=(num, KNOTS)))
    draws = WarpDraws(
        pace=pace,
        path=torch.zeros(num, bars * STEPS, dtype=torch.float64),
        extremes=torch.ones(num, 2, bars * STEPS, dtype=torch.float64),
    )
    place = np.log(warp(X, draws, sigma).numpy()[..., 3]) / 1e-3
    # Over stretches of 15 bars whole bars and halves average out; the knots are 35 bars apart.
    run = (place[:, 15::15] - place[:, :-15:15])[:, :6] / 15
    assert np.log(run).std() == pytest.approx(sigma, rel=0.1)


def test_augmentation_keeps_the_moments_of_a_market() -> None:
    X = market(800, gap=5e-4)
    rng = np.random.default_rng(3)
    real = window_moments(X)
    warped = replace(TEMPORAL, time_warp_prob=1.0, jitter_prob=0.0)
    shaken = replace(TEMPORAL, time_warp_prob=0.0, jitter_prob=1.0)
    for config in (warped, shaken, TEMPORAL):
        moved = window_moments(config.augment(X, rng)) - real
        change = dict(zip(MOMENT_NAMES, moved.mean(axis=0), strict=True))
        assert abs(change["return_autocorrelation"]) < 0.02, config
        assert abs(change["size_autocorrelation"]) < 0.03, config
        relative = np.abs(moved.mean(axis=0)) / real.mean(axis=0)
        shares = dict(zip(MOMENT_NAMES, relative, strict=True))
        for name in ("return_spread", "return_tails", "range_spread", "body_size", "gap_size"):
            assert shares[name] < 0.1, (config, name, shares[name])
        assert shares["range_to_return"] < 0.03


def test_a_jitter_makes_no_gaps_and_keeps_the_wicks() -> None:
    X = market(20)
    X[:, 1:, 0] = X[:, :-1, 3]
    X[..., 1], X[..., 2] = X.max(axis=2), X.min(axis=2)
    config = replace(TEMPORAL, time_warp_prob=0.0, jitter_prob=1.0)
    made = config.augment(X, np.random.default_rng(1))
    assert np.allclose(made[:, 1:, 0], made[:, :-1, 3], rtol=1e-6)

    def wicks(A: np.ndarray) -> np.ndarray:
        return A[..., 1] / A[..., [0, 3]].max(axis=2)

    assert np.allclose(wicks(made), wicks(X), rtol=1e-6)
    assert not np.allclose(made[:, :-1, 3], X[:, :-1, 3], rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
@pytest.mark.parametrize("bars", [3, 7, 105])
def test_a_warp_of_any_strength_gives_bars(sigma: float, bars: int) -> None:
    X = market(50, bars=bars)
    X[:10] = 100.0  # bars without any range
    config = replace(TEMPORAL, time_warp_prob=1.0, time_warp_sigma=sigma)
    made = check_windows(config.augment(X, np.random.default_rng(4)))
    assert (made[:10] == 100.0).all()


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
        config = Augmentation(temporal=TEMPORAL, mixup_alpha=0.2)
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
