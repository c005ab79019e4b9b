"""Dependence is measured: from the times of the windows judged and from their own losses."""

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import skew
from scipy.stats import t as student_t

from moola.data.windows import WindowTimes
from moola.errors import BadInput
from moola.evaluation.compare import paired_comparison
from moola.evaluation.dependence import (
    measured_block,
    num_lags,
    persistence,
    reference,
    skewness_of_mean,
    variance_of_mean,
)
from moola.evaluation.mean_interval import constant_confidence, mean_interval
from moola.evaluation.resampling import resample_counts
from moola.judging.calibrate import overlap_of


def ar(phi, n, rng, num=1):
    return lfilter([1.0], [1.0, -phi], rng.standard_normal((num, n + 200)), axis=1)[:, 200:]


def windows(n, *, bars, horizon, step):
    first = np.arange(n, dtype=np.int64) * step
    return WindowTimes(first=first, last=first + bars - 1, label_end=first + bars - 1 + horizon)


@pytest.mark.parametrize(
    ("bars", "horizon", "step", "block", "apart"),
    [
        (105, 6, 6, 19, True),  # the default recipe: the label ends where the next window does
        (105, 48, 1, 153, False),  # a label file with a window a bar
        (105, 6, 24, 5, True),  # a window a day
        (105, 7, 6, 19, False),
        (10, 0, 10, 1, True),
    ],
)
def test_overlap_is_that_of_the_rows_judged(bars, horizon, step, block, apart):
    times = windows(400, bars=bars, horizon=horizon, step=step)
    found = overlap_of(times, np.arange(400))
    assert found == {"block_length": block, "horizons_apart": apart}


def test_overlap_of_some_rows_is_theirs_alone():
    times = windows(400, bars=105, horizon=48, step=1)
    assert overlap_of(times, np.arange(0, 400, 50)) == {"block_length": 4, "horizons_apart": True}
    uneven = np.r_[0:5, 200:203]
    assert overlap_of(times, uneven) == {"block_length": 5, "horizons_apart": False}
    assert overlap_of(times, np.array([7])) == {"block_length": 1, "horizons_apart": True}


def test_without_lags_the_quantiles_are_students():
    for n in (12, 60):
        law = reference(n, 1, 0.0)
        assert law.quantile(0.95) == pytest.approx(student_t.ppf(0.975, n - 1), rel=0.01)
        assert law.tail(law.quantile(0.99)) == pytest.approx(0.01)
        assert law.scale == pytest.approx(np.sqrt(n / (n - 1)), rel=0.01)


def test_fixed_b_quantiles_are_those_of_kiefer_and_vogelsang():
    """Bartlett, 97.5 %: 1.96 + 2.9694 b + 0.4160 b^2 - 0.5324 b^3 in units of the raw error."""
    for b in (0.1, 0.5):
        law = reference(400, round(400 * b), 0.0)
        raw = law.quantile(0.95) * law.scale
        assert raw == pytest.approx(1.96 + 2.9694 * b + 0.416 * b**2 - 0.5324 * b**3, rel=0.03)


def test_long_run_variance_by_hand():
    values = np.array([1.0, -1.0, 2.0, 0.0])
    centred = values - 0.5
    autocovariance = [float(centred[k:] @ centred[: 4 - k]) / 4 for k in range(4)]
    by_hand = autocovariance[0] + 2 * (2 / 3 * autocovariance[1] + 1 / 3 * autocovariance[2])
    assert variance_of_mean(values, 3) == pytest.approx(by_hand / 4)
    assert variance_of_mean(values, 1) == pytest.approx(values.var() / 4)


def test_persistence_is_an_upper_end_and_the_larger_block_counts():
    rng = np.random.default_rng(0)
    for phi in (0.0, 0.5, 0.9):
        above = [persistence(path) >= phi for path in ar(phi, 100, rng, num=300)]
        assert np.mean(above) > 0.75
    assert persistence(np.zeros(20)) == 0.0
    assert measured_block(0.0, 1000) == 10
    assert measured_block(0.8, 1000) == 14
    assert measured_block(0.99, 50) == 50
    assert num_lags(200, 40, 0.5) == 40
    assert num_lags(200, 1, 0.95) == 59
    assert num_lags(20, 19, 0.0) == 10


@pytest.mark.medium
@pytest.mark.parametrize("phi", [0.0, 0.8, 0.95])
@pytest.mark.parametrize("n", [20, 60, 200])
def test_equal_rivals_whose_losses_remember_are_not_told_apart(phi, n):
    """Windows without overlap; resampling blocks of the cube root of n let 7 to 29 % pass."""
    paths = ar(phi, n, np.random.default_rng(5), num=600)
    found = [mean_interval(path, block_length=1) for path in paths]
    assert sum(one.high is not None and one.high < 0 for one in found) <= 30  # 5 %


def test_a_verdict_needs_blocks_or_horizons_that_lie_apart():
    values = np.random.default_rng(1).standard_normal(60) + 2.0
    blocked = mean_interval(values, block_length=19)
    assert blocked.low is None
    assert "60 windows hold 3.2 blocks of 19 that share no bar" in blocked.reason
    assert blocked.minimum_detectable is None
    free = mean_interval(values, block_length=19, horizons_apart=True)
    assert 0 < free.low < free.estimate < free.high
    assert free.p_value < 0.05
    assert free.minimum_detectable > 0


def test_values_that_remember_too_long_allow_no_verdict_at_all():
    drifting = np.cumsum(np.random.default_rng(2).standard_normal(60)) + 30.0
    found = mean_interval(drifting, block_length=1, horizons_apart=True)
    assert found.low is None
    assert "neighbouring windows' values may correlate by 0.9" in found.reason
    flat = mean_interval(np.full(60, -0.1), block_length=1)
    assert flat.reason == "the differences do not vary"
    with pytest.raises(BadInput, match="confidence"):
        mean_interval(drifting, block_length=1, confidence=1.0)


def test_a_comparison_takes_the_larger_of_both():
    rng = np.random.default_rng(3)
    y = np.arange(200) % 2
    noise = 0.1 * ar(0.9, 200, rng, num=2) / np.sqrt(1 / (1 - 0.81))
    right = np.clip(0.6 + noise, 0.05, 0.95)
    first, second = (np.column_stack([1 - p, p]) for p in np.where(y == 1, right, 1 - right))
    found = paired_comparison(y, first, second, block_length=3, num_resamples=200)
    assert found.persistence > 0.7
    assert found.block_length == measured_block(found.persistence, 200) > 3
    assert found.effective_windows == pytest.approx(200 / 3)
    found = paired_comparison(y, first, second, block_length=45, num_resamples=200)
    assert found.block_length == 45


def test_skewness_of_the_mean_is_that_of_its_resamples():
    values = np.random.default_rng(0).exponential(size=120)
    for block in (1, 5, 20):
        counts = resample_counts(120, block_length=block, num_resamples=20_000)
        drawn = float(skew(counts @ values / 120))
        assert skewness_of_mean(values, block) == pytest.approx(drawn, abs=0.05)
    assert skewness_of_mean(np.full(30, 0.1), 3) == 0.0


@pytest.mark.medium
def test_the_power_stated_is_the_power_there_is():
    """Of 20 windows whose horizons lie apart, and of 200."""
    rng = np.random.default_rng(6)
    for n, effect in ((20, 0.8), (200, 0.2)):
        found = [
            mean_interval(values, block_length=19, horizons_apart=True, effects=(effect,))
            for values in rng.standard_normal((600, n)) - effect
        ]
        judged = [one for one in found if one.high is not None]
        shown = np.mean([one.high < 0 for one in judged])
        assert shown == pytest.approx(np.mean([one.power[effect] for one in judged]), abs=0.06)
        assert shown > 0.5


def test_few_blocks_against_a_constant_need_more_confidence():
    def asked(n, block):
        return constant_confidence(0.95, n / block, block, 10.0)

    assert asked(20, 1) == 0.95
    assert asked(775, 19) == 0.95
    assert asked(380, 19) == pytest.approx(0.975)
    assert asked(20, 19) == asked(60, 19) == pytest.approx(0.99)
