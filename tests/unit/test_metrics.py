"""Metrics: against scikit-learn and torchmetrics, by hand, undefined with a reason, intervals."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from moola.errors import BadInput
from moola.evaluation.metrics import (
    brier_decomposition,
    compute_metrics,
    metric_intervals,
    undefined_reasons,
)
from moola.evaluation.predictions import validate_predictions
from moola.evaluation.weighted import weighted_metrics

FAST = settings(max_examples=25, deadline=None)


@st.composite
def predictions(draw, min_windows=12, all_classes=True):
    num_classes = draw(st.integers(2, 4))
    n = draw(st.integers(min_windows, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y = rng.integers(0, num_classes, n)
    if all_classes:
        y[:num_classes] = np.arange(num_classes)
    if draw(st.booleans()):  # many ties, some certain predictions
        raw = rng.integers(0, 4, (n, num_classes)).astype(float)
        raw[raw.sum(axis=1) == 0] = 1.0
    else:
        raw = rng.dirichlet(np.full(num_classes, draw(st.sampled_from([0.3, 1.0, 5.0]))), n)
    return y, raw / raw.sum(axis=1, keepdims=True)


@FAST
@given(predictions())
def test_agrees_with_scikit_learn(case):
    y, proba = case
    found, answer = compute_metrics(y, proba), proba.argmax(axis=1)
    num_classes = proba.shape[1]
    one_hot = np.eye(num_classes)[y]
    expected = {
        "accuracy": sk.accuracy_score(y, answer),
        "balanced_accuracy": sk.balanced_accuracy_score(y, answer),
        "f1_weighted": sk.f1_score(y, answer, average="weighted", zero_division=0),
        "pr_auc": np.mean(
            [sk.average_precision_score(y == k, proba[:, k]) for k in range(num_classes)]
        ),
        "roc_auc": np.mean([sk.roc_auc_score(y == k, proba[:, k]) for k in range(num_classes)]),
        "log_loss": sk.log_loss(y, proba, labels=range(num_classes)),
        "brier": ((proba - one_hot) ** 2).sum(axis=1).mean(),
    }
    if found["mcc"] is not None:
        expected["mcc"] = sk.matthews_corrcoef(y, answer)
    recall = sk.recall_score(y, answer, average=None, zero_division=0)
    f1 = sk.f1_score(y, answer, average=None, zero_division=0)
    expected |= {f"recall_class_{k}": recall[k] for k in range(num_classes)}
    expected |= {f"f1_class_{k}": f1[k] for k in range(num_classes)}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.medium
def test_agrees_with_torchmetrics():
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    for seed in range(12):
        rng = np.random.default_rng(seed)
        num_classes, n = int(rng.integers(2, 5)), int(rng.integers(20, 200))
        y = np.append(np.arange(num_classes), rng.integers(0, num_classes, n))
        proba = rng.dirichlet(np.full(num_classes, 0.8), y.size)
        target, preds = torch.tensor(y), torch.tensor(proba, dtype=torch.float64)
        found = compute_metrics(y, proba)
        options = {"num_classes": num_classes}
        calibration = functional.multiclass_calibration_error
        expected = {
            "ece_equal_width_10": calibration(preds, target, n_bins=10, norm="l1", **options),
            "pr_auc": functional.multiclass_average_precision(preds, target, **options),
            "roc_auc": functional.multiclass_auroc(preds, target, **options),
            "f1_weighted": functional.multiclass_f1_score(
                preds, target, average="weighted", **options
            ),
            "mcc": functional.multiclass_matthews_corrcoef(preds, target, **options),
        }
        for name, value in expected.items():
            tolerance = 1e-9 if value.dtype == torch.float64 else 1e-6
            assert found[name] == pytest.approx(float(value), abs=tolerance), name


@FAST
@given(predictions(all_classes=False), st.integers(0, 2**32 - 1))
def test_weighted_metrics_are_those_of_repeated_windows(case, seed):
    y, proba = case
    counts = np.random.default_rng(seed).integers(0, 3, (1, y.size)).astype(float)
    counts[0, 0] = 1
    rows = np.repeat(np.arange(y.size), counts[0].astype(int))
    found, expected = weighted_metrics(y, proba, counts), compute_metrics(y[rows], proba[rows])
    for name in set(expected) - {"ece", "mce", "mcc"}:  # bins are held at the full sample's
        if expected[name] is None:
            assert np.isnan(found[name][0]), name
        else:
            assert found[name][0] == pytest.approx(expected[name], abs=1e-9), name


@FAST
@given(predictions())
def test_unit_weights_give_the_metrics_themselves(case):
    y, proba = case
    found, expected = weighted_metrics(y, proba, np.ones((1, y.size))), compute_metrics(y, proba)
    for name, value in expected.items():
        if value is not None:
            assert found[name][0] == pytest.approx(value, abs=1e-9), name


def test_hand_computed():
    y = np.array([0, 0, 1, 1])
    proba = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    found = compute_metrics(y, proba)
    assert found["accuracy"] == 0.75
    assert found["brier"] == pytest.approx(2 * (0.01 + 0.36 + 0.09 + 0.04) / 4)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.7, 0.8]).mean())
    assert found["recall_class_0"] == 0.5
    assert found["recall_class_1"] == 1.0
    # one bin: confidence .75, accuracy .75
    assert found["ece"] == pytest.approx(0.0, abs=1e-12)
    # bins of one: |.9-1| + |.6-0| + |.7-1| + |.8-1|
    assert found["ece_equal_width_10"] == pytest.approx((0.1 + 0.6 + 0.3 + 0.2) / 4)


def test_constant_on_14_to_6_has_the_figures_it_was_shipped_with():
    found = compute_metrics(np.repeat([0, 1], [14, 6]), np.tile([0.7, 0.3], (20, 1)))
    assert round(found["accuracy"], 3) == 0.700
    assert round(found["f1_weighted"], 3) == 0.576
    assert found["balanced_accuracy"] == 0.5
    assert found["mcc"] is None
    assert found["recall_class_1"] == 0.0


def test_absent_class_is_undefined_with_a_reason_and_no_warning():
    y, proba = np.array([0, 1, 0, 1]), np.tile([0.5, 0.3, 0.2], (4, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, reasons = compute_metrics(y, proba), undefined_reasons(y, proba)
    undefined = {name for name, value in found.items() if value is None}
    assert undefined == set(reasons)
    assert {"balanced_accuracy", "pr_auc", "roc_auc", "f1_class_2", "recall_class_2"} < undefined
    assert reasons["pr_auc"] == "class 2 does not occur in the 4 windows"
    assert all(np.isfinite(value) for value in found.values() if value is not None)


def test_certain_and_wrong_costs_much_but_not_infinity():
    found = compute_metrics(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert 17 < found["log_loss"] < 19


@pytest.mark.parametrize(
    ("y", "proba", "text"),
    [
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]], "window 1"),
        ([0, 1], [[0.5, 0.5], [np.inf, 0.5]], "finite"),
        ([0, 1], [[0.5, 0.5], [0.6, 0.5]], "sum to 1.1"),
        ([0, 1], [[0.5, 0.5], [-0.1, 1.1]], "-0.1"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "0..1"),
        ([0, -1], [[0.5, 0.5], [0.5, 0.5]], "0..1"),
        ([0, 0.5], [[0.5, 0.5], [0.5, 0.5]], "0..1"),
        ([0, np.nan], [[0.5, 0.5], [0.5, 0.5]], "window 1"),
        (["a", "b"], [[0.5, 0.5], [0.5, 0.5]], "dtype"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], "1 labels"),
        ([0, 1], [0.5, 0.5], "shape"),
        ([0, 0], [[1.0], [1.0]], "at least 2"),
        ([0, 1], [[1, 0], [0, 1]], "floating"),
    ],
)
def test_refuses(y, proba, text):
    with pytest.raises(BadInput, match=text):
        validate_predictions(np.array(y), np.array(proba))


def test_refuses_no_windows():
    with pytest.raises(BadInput, match="0 windows"):
        validate_predictions(np.empty(0, int), np.empty((0, 2)))


def test_row_sums_are_looser_for_float32_only():
    y = np.array([0, 1])
    proba = np.array([[0.50005, 0.5], [0.5, 0.5]])
    validate_predictions(y, proba.astype(np.float32))
    with pytest.raises(BadInput, match="1e-06"):
        validate_predictions(y, proba)


def test_brier_parts_add_up_and_uncertainty_is_of_the_labels():
    rng = np.random.default_rng(0)
    y, proba = rng.integers(0, 3, 200), rng.dirichlet([1, 1, 1], 200)
    parts = brier_decomposition(y, proba)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bin
    assert total == pytest.approx(compute_metrics(y, proba)["brier"], abs=1e-12)
    shares = np.bincount(y) / 200
    assert parts.uncertainty == pytest.approx((shares * (1 - shares)).sum())


def test_brier_parts_by_hand():
    y = np.array([0, 1, 1, 1])
    proba = np.array([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.1, 0.9]])
    parts = brier_decomposition(y, proba, num_bins=2)
    assert parts.reliability == pytest.approx(2 * (0.5 * 0.1**2 + 0.5 * 0.1**2))
    assert parts.resolution == pytest.approx(2 * (0.5 * 0.25**2 + 0.5 * 0.25**2))
    assert parts.uncertainty == pytest.approx(2 * 0.75 * 0.25)
    assert parts.within_bin == pytest.approx(0.0, abs=1e-12)


def test_intervals_hold_the_estimate_and_stay_in_range():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 80)
    p = np.clip(0.5 + 0.35 * (y - 0.5) + 0.2 * rng.standard_normal(80), 0.01, 0.99)
    found = metric_intervals(y, np.column_stack([1 - p, p]), block_length=4, num_resamples=300)
    assert set(found) == set(compute_metrics(y, np.column_stack([1 - p, p])))
    for name, interval in found.items():
        banded = interval.kind == "null band"  # where a calibrated model would be, not this one
        assert interval.low <= interval.estimate, name
        assert banded or interval.estimate <= interval.high, name
        assert interval.low >= (-1 if name == "mcc" else 0), name
    assert found["accuracy"].high - found["accuracy"].low > 0.1
    assert found["accuracy"].to_dict()["confidence"] == 0.95


def test_intervals_say_why_there_is_none():
    y = np.repeat([0, 1], [14, 6])
    constant = metric_intervals(y, np.tile([0.7, 0.3], (20, 1)), block_length=2)
    assert constant["mcc"].estimate is None
    assert "only class 0" in constant["mcc"].reason
    assert constant["balanced_accuracy"].low is None
    assert constant["balanced_accuracy"].reason == "the resamples do not vary"
    few = metric_intervals(y, np.tile([0.7, 0.3], (20, 1)), block_length=19)
    assert few["log_loss"].low is None
    assert "20 windows hold 1.0 blocks of 20" in few["log_loss"].reason  # sorted: they remember


def test_many_undefined_resamples_give_no_interval():
    y = np.zeros(20, int)
    y[7] = 1
    proba = np.tile([0.8, 0.2], (20, 1))
    proba[7] = [0.4, 0.6]
    found = metric_intervals(y, proba, block_length=1)["recall_class_1"]
    assert found.num_undefined > 200
    assert found.low is None
    assert f"undefined in {found.num_undefined} of 1000" in found.reason
