"""Intervals from resamples: Student's where windows are independent, longer where tails are."""

import numpy as np
import pytest
from scipy.stats import skew

from moola.errors import BadInput
from moola.evaluation.resampling import interval_from_draws, resample_counts


def test_interval_of_independent_windows_is_students():
    rng = np.random.default_rng(3)
    values = rng.standard_normal(40)
    counts = resample_counts(40, block_length=1, num_resamples=20_000, seed=0)
    found = interval_from_draws(values.mean(), counts @ values / 40, num_windows=40, block_length=1)
    half = 2.0226909 * values.std(ddof=1) / np.sqrt(40)  # t on 39 degrees of freedom
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.02)
    assert counts.sum(axis=1).tolist() == [40.0] * 20_000


def test_skewness_lengthens_the_interval_on_the_side_of_the_long_tail():
    rng = np.random.default_rng(0)
    values = rng.exponential(1.0, 40)
    counts = resample_counts(40, block_length=1, num_resamples=5000, seed=0)
    options = {"num_windows": 40, "block_length": 1}
    arguments = (values.mean(), counts @ values / 40)
    plain = interval_from_draws(*arguments, **options)
    found = interval_from_draws(*arguments, **options, skewed=True)
    skewness = float(skew(arguments[1]))
    assert skewness > 0.1
    assert found.low == plain.low
    extra = skewness * (2 * 2.0226909**2 + 1) / 6  # t on 39 degrees of freedom
    assert found.high - plain.high == pytest.approx(extra * found.standard_error)
    mirrored = interval_from_draws(-arguments[0], -arguments[1], **options, skewed=True)
    assert mirrored.low == pytest.approx(-found.high)
    assert mirrored.p_value == pytest.approx(found.p_value)


def test_skewed_interval_and_p_value_agree():
    rng = np.random.default_rng(1)
    counts = resample_counts(40, block_length=2, num_resamples=500, seed=0)
    for shift in np.linspace(-1.6, -0.4, 25):
        values = rng.exponential(1.0, 40) + shift
        found = interval_from_draws(
            values.mean(), counts @ values / 40, num_windows=40, block_length=2, skewed=True
        )
        assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_windows": 9}, "windows is 9"),
        ({"block_length": 0}, "block_length is 0"),
        ({"num_resamples": 99}, "num_resamples is 99"),
    ],
)
def test_resampling_refuses(change, text):
    options = {"num_windows": 30, "block_length": 3, "num_resamples": 200} | change
    with pytest.raises(BadInput, match=text):
        resample_counts(options.pop("num_windows"), **options)
