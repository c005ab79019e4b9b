"""Gate 1: constants in every disguise are named, a real gain passes, few windows stay open."""

import numpy as np
import pytest
from gates_kit import LIMITS, OPTIONS, half, world

from moola.evaluation.gates import collapse_reasons, gate_1_baseline, gate_6_simple


def test_the_constant_that_was_shipped_is_refused_and_named():
    y = np.repeat([0, 1], [14, 6])
    constant = np.tile([0.7, 0.3], (20, 1))
    found = gate_1_baseline(y, constant, np.tile([0.6, 0.4], (20, 1)), block_length=2)
    assert found.verdict == "failed"
    assert found.reasons[0] == (
        "collapsed: always answers class 0 in all 20 windows; its accuracy of 70.0% and weighted "
        "F1 of 57.6% are those of a constant, because 14 of 20 windows are of class 0"
    )
    assert found.figures["metrics"]["mcc"] is None


def test_constant_is_refused_even_where_its_log_loss_is_far_below_the_priors():
    y = np.repeat([0, 1], [190, 10])
    found = gate_1_baseline(
        y, np.tile([0.95, 0.05], (200, 1)), np.tile([0.5, 0.5], (200, 1)), **OPTIONS
    )
    assert found.figures["delta_log_loss"]["high"] < 0
    assert found.verdict == "failed"


def test_baseline_passes_on_a_real_gain():
    y, good = world(0.8)
    found = gate_1_baseline(y, good, half(y), **OPTIONS)
    assert found.verdict == "passed"
    assert found.figures["delta_log_loss"]["high"] < 0
    assert found.figures["minimum_detectable"]["log_loss"] > 0
    assert "240 windows" in found.reasons[-1]


def test_baseline_is_inconclusive_on_too_few_windows_and_says_so():
    y, good = world(0.6)
    found = gate_1_baseline(y, good, half(y), block_length=100, thresholds=LIMITS)
    assert found.verdict == "inconclusive"
    assert "worth 2.4 independent" in found.reasons[0]


def test_a_constant_baseline_needs_more_windows_than_a_rival():
    y, weak, strong = world(0.4, 1.2, n=100)
    options = {"block_length": 15, "thresholds": LIMITS}
    found = gate_1_baseline(y, strong, half(y), **options)
    assert found.verdict == "inconclusive"
    assert "at least 10 are needed" in found.reasons[0]
    assert gate_6_simple(y, strong, weak, **options).verdict == "passed"
    assert gate_1_baseline(y, strong, half(y), block_length=10, thresholds=LIMITS).verdict == (
        "passed"
    )


def test_baseline_fails_where_significantly_worse_than_the_prior():
    y, good = world(0.2)
    over = good**12 / (good**12).sum(axis=1, keepdims=True)
    found = gate_1_baseline(y, over, half(y), **OPTIONS)
    assert found.verdict == "failed"
    assert found.reasons[0].startswith("log-loss is above the class prior's: +1.2")


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (np.where(np.arange(200) == 3, 0.6, 0.2), "class 1 is predicted in 0.5% of the windows"),
        (0.5 + 0.01 * (-1.0) ** np.arange(200), "nearly a constant"),
        (np.where(np.arange(200) < 100, 0.3, 0.7), "balanced accuracy"),
        (np.where(np.arange(200) % 11 == 0, 0.7, 0.3), "in 90.5% of the windows"),
    ],
)
def test_near_constants_are_named(p, text):
    y = np.arange(200) // 2 % 2
    reasons = collapse_reasons(y, np.column_stack([1 - p, p]), thresholds=LIMITS)
    assert any(text in reason for reason in reasons), reasons


def test_a_better_guess_of_the_class_frequencies_is_not_knowledge():
    rng = np.random.default_rng(0)
    y = (np.arange(400) % 10 < 2).astype(int)
    p = np.clip(0.25 + 0.13 * rng.standard_normal(400), 0.02, 0.98)
    p[:40] = np.where(y[:40] == 1, 0.6, p[:40])
    found = gate_1_baseline(y, np.column_stack([1 - p, p]), half(y), **OPTIONS)
    assert found.figures["delta_log_loss"]["high"] < 0
    assert found.verdict == "inconclusive"
    assert "only a better guess of the class frequencies" in found.reasons[0]


def test_a_constant_by_fold_is_a_constant():
    y = np.arange(200) % 2
    y[:60] = 0
    late = np.arange(200) >= 100
    p = np.where(late, 0.7, 0.2)
    prior = np.where(late[:, None], [[0.5, 0.5]], [[0.6, 0.4]])
    reasons = collapse_reasons(y, np.column_stack([1 - p, p]), prior, thresholds=LIMITS)
    assert any("within a fold" in reason for reason in reasons)
    assert not collapse_reasons(y, np.column_stack([1 - p, p]), thresholds=LIMITS)


def test_three_classes_one_never_recognised():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    proba = rng.dirichlet([1, 1, 1], 90) * 0.2
    proba[np.arange(90), np.where(y == 2, 0, y)] += 0.8
    assert "class 2 is predicted" in collapse_reasons(y, proba, thresholds=LIMITS)[0]


def test_a_class_absent_from_the_windows_leaves_the_verdict_open():
    y, good = world(0.8)
    three = np.column_stack([good * 0.999, np.full(y.size, 0.001)])
    prior = np.tile([0.45, 0.45, 0.1], (y.size, 1))
    found = gate_1_baseline(y, three, prior, **OPTIONS)
    assert found.verdict == "inconclusive"
    assert "class 2 does not occur" in found.reasons[0]
