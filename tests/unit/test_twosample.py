"""Two-sample tests on overlapping windows: their size, their power, and Holm by hand."""

from __future__ import annotations

import numpy as np
import pytest

from moola.data.audit.twosample import classifier_auc, compare_samples, holm
from moola.errors import DataError


def test_holm_by_hand():
    # sorted .01 .02 .04: times 3, 2, 1 = .03 .04 .04
    assert holm(np.array([0.04, 0.01, 0.02])).tolist() == pytest.approx([0.04, 0.03, 0.04])
    assert holm(np.array([0.5, 0.6])).tolist() == pytest.approx([1.0, 1.0])


def samples(shift: float, *, blocks: int = 20, size: int = 15, seed: int = 0):
    """Two samples whose rows are nearly equal inside a block, as overlapping windows are."""
    rng = np.random.default_rng(seed)
    level = rng.normal(size=(2, blocks, 1, 1))
    x = level + 0.3 * rng.normal(size=(2, blocks, size, 1))
    block = np.repeat(np.arange(blocks), size)
    return x[0].reshape(-1, 1), x[1].reshape(-1, 1) + shift, block


def compare(shift: float, *, num_permutations: int = 199, classify: bool = True, **values):
    a, b, block = samples(shift, **values)
    return compare_samples(
        a, b, real_block=block, synthetic_block=block, names=("x",),
        num_permutations=num_permutations, with_classifier=classify,
    )  # fmt: skip


def test_ks_agrees_with_scipy_and_the_effect_by_hand():
    from scipy.stats import ks_2samp

    a, b, _ = samples(0.5)
    (found,) = compare(0.5).features
    assert found.ks == pytest.approx(ks_2samp(a[:, 0], b[:, 0]).statistic, abs=1e-9)
    effect = (b.mean() - a.mean()) / np.sqrt((a.var() + b.var()) / 2)
    assert found.effect == pytest.approx(effect)


def test_blocks_keep_the_size_where_plain_ks_does_not():
    from scipy.stats import ks_2samp

    honest, plain = 0, 0
    for seed in range(60):
        a, b, _ = samples(0.0, seed=seed)
        honest += compare(0.0, seed=seed, num_permutations=99, classify=False).p_value < 0.1
        plain += ks_2samp(a[:, 0], b[:, 0]).pvalue < 0.1
    assert honest <= 12  # 6 expected of 60; 12 has a chance of about 1 %
    assert plain >= 40  # the plain test cries wolf


def test_a_shift_of_two_blocks_spreads_is_seen():
    report = compare(2.0)
    assert report.p_value <= 0.01
    assert report.auc > 0.8
    assert report.features[0].detectable_ks < report.features[0].ks


def test_equal_samples_have_distance_zero_and_p_one():
    a, _, block = samples(0.0)
    report = compare_samples(
        a, a.copy(), real_block=block, synthetic_block=block, names=("x",), num_permutations=99
    )
    assert report.features[0].ks == 0.0
    assert report.p_value == 1.0


def test_a_change_of_spread_alone_is_seen_by_the_classifier():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(600, 1)), 2.5 * rng.normal(size=(600, 1))
    block = np.repeat(np.arange(60), 10)
    assert classifier_auc(a, b, block, block) > 0.65
    assert abs(classifier_auc(a, rng.normal(size=(600, 1)), block, block) - 0.5) < 0.07


def test_too_few_blocks_and_nan_are_refused():
    a, b, block = samples(0.0, blocks=4)
    with pytest.raises(DataError, match="hold 4 and 4 blocks"):
        compare_samples(a, b, real_block=block, synthetic_block=block, names=("x",))
    a, b, block = samples(0.0)
    a[3] = np.nan
    with pytest.raises(DataError, match="a feature is NaN"):
        compare_samples(a, b, real_block=block, synthetic_block=block, names=("x",))
