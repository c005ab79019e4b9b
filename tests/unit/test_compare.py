"""Paired comparison: intervals, reach, false alarms, McNemar, Holm and the block length."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moola.errors import BadInput
from moola.evaluation.compare import (
    block_length_from_overlap,
    mcnemar_exact,
    paired_comparison,
)
from moola.evaluation.gates.family import holm
from moola.evaluation.metrics import compute_metrics
from moola.evaluation.predictions import mean_proba
from moola.evaluation.resampling import interval_from_draws, resample_counts


def case(n=200, gain=0.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)

    def model(strength):
        z = strength * (2 * y - 1) + rng.standard_normal(n)
        p = 1 / (1 + np.exp(-2 * strength * z))
        return np.column_stack([1 - p, p])

    return y, model(0.4 + gain), model(0.4)


def test_signs_and_conclusions_of_a_better_candidate():
    y, better, worse = case(n=400, gain=0.6)
    found = paired_comparison(y, better, worse, block_length=2, num_resamples=500)
    first, second = compute_metrics(y, better), compute_metrics(y, worse)
    for name, delta in found.deltas.items():
        assert delta.estimate == pytest.approx(first[name] - second[name], abs=1e-12), name
        assert delta.low < delta.estimate < delta.high
    loss, accuracy = found.deltas["log_loss"], found.deltas["accuracy"]
    assert loss.high < 0 < accuracy.low
    assert loss.superior
    assert accuracy.superior
    assert loss.non_inferior
    assert not loss.inferior
    assert not loss.equivalent
    assert loss.p_value < 0.01
    assert found.mcnemar_p < 0.01
    mirrored = paired_comparison(y, worse, better, block_length=2, num_resamples=500)
    assert mirrored.deltas["log_loss"].inferior
    assert mirrored.deltas["accuracy"].inferior
    assert mirrored.deltas["pr_auc"].inferior
    assert not mirrored.deltas["log_loss"].non_inferior
    assert mirrored.deltas["log_loss"].low == pytest.approx(-loss.high)


def test_interval_and_p_value_agree():
    for seed in range(12):
        found = paired_comparison(*case(gain=0.1, seed=seed), block_length=3, num_resamples=300)
        for delta in found.deltas.values():
            outside = delta.superior or delta.inferior
            assert outside == (delta.p_value < 0.05)


def test_equivalence_needs_the_whole_interval_inside_the_margin():
    y, first, second = case(n=300)
    close = first + 0.001 * (second - first)
    found = paired_comparison(y, close, first, block_length=2, num_resamples=300)
    assert found.deltas["log_loss"].equivalent
    tight = paired_comparison(y, close, first, block_length=2, num_resamples=300, margin=0.0)
    assert not tight.deltas["log_loss"].equivalent
    wide = paired_comparison(
        y, first, second, block_length=2, num_resamples=300, margin={"log_loss": 5.0}
    )
    assert wide.deltas["log_loss"].equivalent
    assert wide.deltas["brier"].margin == 0.02


def test_identical_predictions_are_flagged_and_conclude_nothing():
    y, first, _ = case()
    found = paired_comparison(y, first, first.copy(), block_length=2, num_resamples=200)
    assert found.identical_predictions
    assert found.identical_labels
    assert found.mcnemar_p == 1.0
    assert found.deltas["log_loss"].low is None
    assert not any(d.superior or d.non_inferior for d in found.deltas.values())


def test_same_labels_are_not_same_predictions():
    y, first, _ = case()
    softer = 0.5 + 0.9 * (first - 0.5)
    found = paired_comparison(y, softer, first, block_length=2, num_resamples=200)
    assert found.identical_labels
    assert not found.identical_predictions


def test_too_few_effective_windows_conclude_nothing_and_reach_nothing():
    y, first, second = case(n=20, gain=2.0)
    found = paired_comparison(y, first, second, block_length=19, num_resamples=200)
    for delta in found.deltas.values():
        assert delta.low is None
        assert delta.high is None
        assert delta.p_value is None
        assert "20 windows hold 1.1 blocks of 19" in delta.reason
        assert delta.minimum_detectable is None
        concluded = (delta.superior, delta.inferior, delta.non_inferior, delta.equivalent)
        assert concluded == (False,) * 4


def test_minimum_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(0)
    n, effect, reps = 100, 0.2855, 600  # (t at .975 + t at .8, 99 degrees of freedom) / sqrt(100)
    counts = resample_counts(n, block_length=1, num_resamples=500, seed=0)
    values = effect + rng.standard_normal((reps, n))
    found = [
        interval_from_draws(row.mean(), counts @ row / n, num_windows=n, block_length=1)
        for row in values
    ]
    assert np.mean([one.minimum_detectable for one in found]) == pytest.approx(effect, rel=0.03)
    assert np.mean([one.low > 0 for one in found]) == pytest.approx(0.8, abs=0.05)


@pytest.mark.medium
def test_false_alarms_stay_below_five_per_cent_with_correlated_windows():
    from scipy.signal import lfilter

    rng = np.random.default_rng(2)
    hits, reps, n = 0, 400, 50
    y = np.arange(n) % 2
    for _ in range(reps):
        noise = lfilter([1], [1, -0.5], rng.standard_normal((2, n + 50)), axis=1)[:, 50:]
        first, second = (
            np.column_stack([1 - p, p])
            for p in np.where(y == 1, 1, -1) * 0.05 * noise + np.where(y == 1, 0.6, 0.4)
        )
        found = paired_comparison(
            y, np.clip(first, 0, 1), np.clip(second, 0, 1), block_length=5, num_resamples=100
        )
        hits += found.deltas["brier"].superior
    assert hits / reps < 0.06  # the nominal rate is 2.5 %; percentile intervals show 7 %


def test_mcnemar_is_the_binomial_test():
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(5, 0) == pytest.approx(2 * 0.5**5)
    assert mcnemar_exact(1, 3) == pytest.approx(0.625)


def test_holm_by_hand():
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9})
    assert found == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.9})
    assert holm({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_order_and_lies_between_none_and_bonferroni(values):
    raw = {str(i): value for i, value in enumerate(values)}
    found = holm(raw)
    for name, value in raw.items():
        assert value <= found[name] <= min(1.0, len(values) * value) + 1e-15
    ordered = sorted(raw, key=raw.__getitem__)
    assert [found[name] for name in ordered] == sorted(found.values())


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.1])
def test_holm_refuses(value):
    with pytest.raises(BadInput, match="p-value of 'a'"):
        holm({"a": value})


@pytest.mark.parametrize(
    ("window", "horizon", "step", "n", "expected"),
    [
        (105, 6, 6, 759, 19),  # 111 bars / 6
        (105, 6, 6, 12, 12),
        (105, 6, 111, 759, 9),  # no overlap: the cube root of n
        (10, 0, 5, 8, 2),
        (1, 0, 1, 1, 1),
    ],
)
def test_block_length(window, horizon, step, n, expected):
    found = block_length_from_overlap(
        window_bars=window, horizon_bars=horizon, step_bars=step, num_windows=n
    )
    assert found == expected


def test_block_length_refuses():
    with pytest.raises(BadInput, match="step_bars is 0"):
        block_length_from_overlap(window_bars=105, horizon_bars=6, step_bars=0, num_windows=9)


def test_mean_proba():
    mean = mean_proba([[[0.2, 0.8]], [[0.4, 0.6]]])
    assert mean.tolist() == [[pytest.approx(0.3), pytest.approx(0.7)]]
    for bad in ([], [[[0.2, 0.8]], [[0.2, 0.3, 0.5]]], [[[np.nan, 0.8]]]):
        with pytest.raises(BadInput):
            mean_proba(bad)


def test_comparison_refuses():
    y, first, second = case(n=30)
    run = paired_comparison
    with pytest.raises(BadInput, match="all 30 windows are of class 0"):
        run(np.zeros(30, int), first, second, block_length=2)
    with pytest.raises(BadInput, match="there are 9 windows"):
        run(y[:9], first[:9], second[:9], block_length=2)
    with pytest.raises(BadInput, match="30 labels"):
        run(y, first, second[:-1], block_length=2)
    with pytest.raises(BadInput, match="same windows and classes"):
        run(y, first, np.column_stack([second, np.zeros(30)]), block_length=2)
    with pytest.raises(BadInput, match="margin of log_loss"):
        run(y, first, second, block_length=2, margin=-0.1)
    with pytest.raises(BadInput, match="'auc'"):
        run(y, first, second, block_length=2, margin={"auc": 0.1})
    with pytest.raises(BadInput, match="confidence"):
        run(y, first, second, block_length=2, confidence=1.0)
    bad = second.copy()
    bad[3, 0] = np.nan
    with pytest.raises(BadInput, match="window 3"):
        run(y, first, bad, block_length=2)


def test_result_is_reproducible_and_json_ready():
    import json

    arguments = case(n=60)
    first = paired_comparison(*arguments, block_length=3, num_resamples=200, seed=1).to_dict()
    second = paired_comparison(*arguments, block_length=3, num_resamples=200, seed=1).to_dict()
    other = paired_comparison(*arguments, block_length=3, num_resamples=200, seed=2).to_dict()
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)
    assert first != other
