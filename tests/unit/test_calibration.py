"""Calibration: bins, ECE against its null, and the temperature fitted to it."""

import json

import numpy as np
import pytest

from moola.errors import BadInput
from moola.evaluation.binning import assign_bins, default_num_bins, errors_from_sums
from moola.evaluation.calibration import calibration_bands, calibration_bins, ece_null
from moola.evaluation.metrics import compute_metrics, metric_intervals
from moola.evaluation.temperature import apply_temperature, fit_temperature


def two_class(p):
    return np.column_stack([1 - p, p])


def calibrated(n, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.beta(2, 2, n)
    return (rng.random(n) < p).astype(int), two_class(p)


def test_bins_by_hand():
    y = np.array([0, 1, 1, 1])
    proba = two_class(np.array([0.6, 0.6, 0.9, 0.9]))
    found = calibration_bins(y, proba, num_bins=2)
    assert found.count == [2, 2]
    assert found.predicted == pytest.approx([0.6, 0.9])
    assert found.observed == [0.5, 1.0]
    assert found.ece_plugin == pytest.approx(0.1)
    assert found.mce == pytest.approx(0.1)
    assert json.loads(json.dumps(found.to_dict()))["scheme"] == "equal_mass"


def test_equal_width_bins_keep_every_window():
    y = np.array([0, 1, 0, 1])
    proba = two_class(np.array([0.0, 1.0, 0.5, 0.7]))
    found = calibration_bins(y, proba, num_bins=10, scheme="equal_width", class_index=1)
    assert sum(found.count) == 4
    assert found.left[0] == 0.0
    assert found.right[-1] == 1.0


def test_ties_are_never_split():
    bins, edges = assign_bins(np.repeat([0.5, 0.9], [10, 10]), num_bins=4)
    assert len(set(bins[:10])) == len(set(bins[10:])) == 1
    assert (np.diff(edges) > 0).all()
    assert set(assign_bins(np.full(7, 0.3), num_bins=5)[0]) == {0}


def test_band_holds_calibrated_models_and_not_overconfident_ones():
    inside = []
    for seed in range(20):
        found = calibration_bins(*calibrated(150, seed), num_simulations=300)
        inside += list(
            np.less_equal(found.band_low, found.observed)
            & np.less_equal(found.observed, found.band_high)
        )
    assert np.mean(inside) > 0.92
    y, proba = calibrated(600)
    found = calibration_bins(y, apply_temperature(proba, 0.25), num_simulations=300)
    outside = np.greater(found.band_low, found.observed)
    assert outside.sum() >= 3


def test_debiasing_takes_away_most_of_a_calibrated_models_ece():
    plugin, debiased = [], []
    for seed in range(60):
        found = calibration_bins(*calibrated(150, seed), num_simulations=100)
        plugin.append(found.ece_plugin)
        debiased.append(found.ece)
    assert np.mean(debiased) < 0.62 * np.mean(plugin)
    assert min(debiased) >= 0.0


def test_debiasing_leaves_a_large_error_alone():
    errors = errors_from_sums(np.array([5000.0]), np.array([2500.0]), np.array([4500.0]))
    assert errors.plugin == pytest.approx(0.4)
    assert errors.debiased == pytest.approx(0.4, abs=1e-6)


@pytest.mark.medium
def test_null_is_what_calibrated_models_show():
    y, proba = calibrated(100)
    null = ece_null(proba, num_simulations=2000)
    rng = np.random.default_rng(5)
    shown = [
        compute_metrics((rng.random(100) < proba[:, 1]).astype(int), proba)["ece"]
        for _ in range(150)
    ]
    assert np.mean(shown) == pytest.approx(null.mean, abs=0.01)
    assert np.mean(np.array(shown) > null.p95) < 0.12
    assert null.p95 > null.mean > 0
    assert null.plugin_mean > null.mean
    assert null.num_bins == default_num_bins(y.size) == 10


def test_null_shrinks_with_n():
    assert ece_null(calibrated(1000)[1]).p95 < 0.5 * ece_null(calibrated(50)[1]).p95


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_temperature_is_recovered(true):
    y, proba = calibrated(20_000)
    distorted = apply_temperature(proba, 1 / true)
    assert fit_temperature(y, distorted) == pytest.approx(true, rel=0.05)


def test_temperature_lowers_log_loss_and_keeps_the_order():
    y, proba = calibrated(500)
    sharp = apply_temperature(proba, 0.3)
    scaled = apply_temperature(sharp, fit_temperature(y, sharp))
    before, after = compute_metrics(y, sharp), compute_metrics(y, scaled)
    assert after["log_loss"] < before["log_loss"]
    assert after["ece"] < before["ece"]
    assert after["accuracy"] == before["accuracy"]
    assert np.allclose(scaled.sum(axis=1), 1.0)
    assert np.allclose(apply_temperature(proba, 1.0), proba)


def test_temperature_copes_with_zeros():
    scaled = apply_temperature(np.array([[1.0, 0.0], [0.2, 0.8]]), 2.0)
    assert np.isfinite(scaled).all()
    assert scaled[0, 0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("y", "proba", "text"),
    [
        (np.arange(20) % 2, np.full((20, 2), 0.5), "same probability"),
        (np.zeros(20, int), np.tile([0.6, 0.4], (20, 1)), "two classes"),
        (np.arange(6) % 2, np.tile([0.6, 0.4], (6, 1)), "6 windows"),
        (np.arange(20) % 2, np.eye(2)[np.arange(20) % 2] * 0.8 + 0.1, "no temperature"),
        (np.arange(20) % 2, np.eye(2)[1 - np.arange(20) % 2] * 0.8 + 0.1, "no temperature"),
    ],
)
def test_temperature_refuses(y, proba, text):
    with pytest.raises(BadInput, match=text):
        fit_temperature(y, proba)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_temperature_is_a_positive_number(value):
    with pytest.raises(BadInput, match="temperature"):
        apply_temperature(np.full((3, 2), 0.5), value)


@pytest.mark.parametrize(
    "options",
    [
        {"num_bins": 0},
        {"scheme": "equal"},
        {"class_index": 2},
        {"confidence": 1.0},
        {"num_simulations": 10},
    ],
)
def test_bins_refuse(options):
    with pytest.raises(BadInput):
        calibration_bins(*calibrated(30), **options)


def test_a_calibrated_model_stays_in_the_null_band_and_one_that_is_not_leaves_it():
    """The interval of the bootstrap lay wholly above 0 in half of these cases."""
    rng = np.random.default_rng(4)
    outside = dict.fromkeys(("ece", "ece_equal_width_10", "mce"), 0)
    for _ in range(60):
        p = rng.uniform(0.2, 0.8, 300)
        y = (rng.random(300) < p).astype(int)
        found = metric_intervals(y, np.column_stack([1 - p, p]), block_length=1, num_resamples=100)
        for name in outside:
            assert (found[name].kind, found[name].low) == ("null band", 0.0)
            outside[name] += found[name].estimate > found[name].high
        assert found["log_loss"].kind == "interval"
    assert max(outside.values()) <= 8  # 5 % of 60, and chance
    off = np.clip(p + np.where(p > 0.5, 0.18, -0.18), 0.01, 0.99)
    found = metric_intervals(y, np.column_stack([1 - off, off]), block_length=1)["ece"]
    assert found.estimate > found.high


def test_surprises_that_remember_widen_the_band():
    p = np.full(400, 0.7) + np.linspace(-0.15, 0.15, 400)
    proba = np.column_stack([1 - p, p])
    assert ece_null(proba, persisting=0.8).p95 > 1.5 * ece_null(proba).p95
    long = np.sin(np.arange(400) / 20) > -0.6  # right and wrong in stretches
    short = np.random.default_rng(0).permutation(long)
    bands = [calibration_bands(right.astype(int), proba)["ece"] for right in (long, short)]
    assert bands[0] > 1.5 * bands[1]
