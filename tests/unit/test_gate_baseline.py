"""Gate 1: constants in every disguise are named, a real gain passes, few windows stay open."""

import numpy as np
import pytest
from gates_kit import CONTEXT, LIMITS, half, world
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from moola.evaluation.gates import GateContext, collapse_reasons, gate_1_baseline, gate_6_simple
from moola.evaluation.gates.collapse import answer_warnings, rank_information


def test_the_constant_that_was_shipped_is_refused_and_named():
    y = np.repeat([0, 1], [14, 6])
    constant = np.tile([0.7, 0.3], (20, 1))
    found = gate_1_baseline(
        y, constant, np.tile([0.6, 0.4], (20, 1)), context=GateContext(block_length=2)
    )
    assert found.verdict == "failed"
    assert found.reasons[0] == (
        "collapsed: always answers class 0 in all 20 windows; its accuracy of 70.0% and weighted "
        "F1 of 57.6% are those of a constant, because 14 of 20 windows are of class 0"
    )
    assert found.figures["metrics"]["mcc"] is None


def test_constant_is_refused_even_where_its_log_loss_is_far_below_the_priors():
    y = np.random.default_rng(0).permutation(np.repeat([0, 1], [190, 10]))
    found = gate_1_baseline(
        y, np.tile([0.95, 0.05], (200, 1)), np.tile([0.5, 0.5], (200, 1)), context=CONTEXT
    )
    assert found.figures["delta_log_loss"]["high"] < 0
    assert found.verdict == "failed"


def test_baseline_passes_on_a_real_gain():
    y, good = world(0.8, seed=1)
    found = gate_1_baseline(y, good, half(y), context=CONTEXT)
    assert found.verdict == "passed"
    assert found.figures["delta_log_loss"]["high"] < 0
    assert found.figures["minimum_detectable"]["log_loss"] > 0
    assert "240 windows" in found.reasons[-1]


def test_baseline_is_inconclusive_on_too_few_windows_and_says_so():
    y, good = world(0.6)
    found = gate_1_baseline(
        y, good, half(y), context=GateContext(block_length=100, thresholds=LIMITS)
    )
    assert found.verdict == "inconclusive"
    assert "240 windows hold 2.4 blocks of 100 that share no bar" in found.reasons[0]


def test_a_constant_baseline_needs_more_windows_than_a_rival():
    y, weak, strong = world(0.4, 1.2, n=100)
    options = {"context": GateContext(block_length=15, thresholds=LIMITS)}
    found = gate_1_baseline(y, strong, half(y), **options)
    assert found.verdict == "inconclusive"
    assert "at least 10 are needed" in found.reasons[0]
    assert gate_6_simple(y, strong, weak, **options).verdict == "passed"
    assert gate_1_baseline(
        y, strong, half(y), context=GateContext(block_length=10, thresholds=LIMITS)
    ).verdict == ("passed")


def test_baseline_fails_where_significantly_worse_than_the_prior():
    y, good = world(0.2)
    over = good**12 / (good**12).sum(axis=1, keepdims=True)
    found = gate_1_baseline(y, over, half(y), context=CONTEXT)
    assert found.verdict == "failed"
    assert found.reasons[0].startswith("log-loss is above the class prior's: +1.2")


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (np.where(np.arange(200) == 3, 0.6, 0.2), "in 99.5% of the windows"),
        (0.5 + 0.01 * (-1.0) ** np.arange(200), "nearly a constant"),
        (np.where(np.arange(200) < 100, 0.3, 0.7), "no rank information"),
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
    found = gate_1_baseline(y, np.column_stack([1 - p, p]), half(y), context=CONTEXT)
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


def test_three_classes_one_never_recognised_is_a_warning():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    proba = rng.dirichlet([1, 1, 1], 90) * 0.2
    proba[np.arange(90), np.where(y == 2, 0, y)] += 0.8
    assert collapse_reasons(y, proba, thresholds=LIMITS) == ()
    found = answer_warnings(y, proba, thresholds=LIMITS)
    assert found[0].startswith("warning: class 2 is the most probable one in 0.0% of the windows")


def rare(share, skill, n=2000, seed=1):
    """A calibrated model of a class of this share; it hardly ever calls the class likely."""
    rng = np.random.default_rng(seed)
    known = rng.standard_normal(n)
    rest = np.sqrt(1 - skill**2)
    bar = norm.ppf(1 - share)
    y = (skill * known + rest * rng.standard_normal(n) > bar).astype(int)
    p = norm.sf((bar - skill * known) / rest)
    return y, np.column_stack([1 - p, p]), np.tile([1 - share, share], (n, 1))


@pytest.mark.parametrize(("share", "skill"), [(0.25, 0.3), (0.1, 0.4), (0.02, 0.5)])
def test_a_calibrated_model_of_a_rare_class_is_no_constant(share, skill):
    y, model, prior = rare(share, skill, n=4000)
    found = gate_1_baseline(
        y, model, prior, context=GateContext(block_length=13, thresholds=LIMITS)
    )
    assert found.verdict == "passed", found.reasons
    assert any(reason.startswith("warning: ") for reason in found.reasons[1:])


@pytest.mark.parametrize("share", [0.25, 0.02])
def test_the_same_forecasts_for_other_windows_are_no_knowledge(share):
    y, model, prior = rare(share, 0.5)
    shuffled = np.random.default_rng(2).permutation(model)
    found = gate_1_baseline(
        y, shuffled, prior, context=GateContext(block_length=13, thresholds=LIMITS)
    )
    assert found.verdict == "failed", found.reasons


def test_a_model_that_rarely_departs_from_one_answer_may_be_right_to():
    rng = np.random.default_rng(3)
    y = (rng.random(1000) < 0.1).astype(int)
    seen = np.where(y == 1, rng.random(1000) < 0.5, rng.random(1000) < 0.02)
    p = np.where(seen, 0.7, 0.05)
    assert collapse_reasons(y, np.column_stack([1 - p, p]), thresholds=LIMITS) == ()
    p = rng.permutation(p)
    assert collapse_reasons(y, np.column_stack([1 - p, p]), thresholds=LIMITS)


def test_rank_information_is_that_of_scikit_learn_and_none_between_folds():
    y, model, _ = rare(0.3, 0.5, n=300)
    one, two = np.zeros(300, int), (np.arange(300) >= 120).astype(int)
    assert rank_information(y, model, one)[0] == pytest.approx(roc_auc_score(y, model[:, 1]))
    p = np.where(two == 1, 0.7, 0.2)
    assert rank_information(y, np.column_stack([1 - p, p]), two)[0] == pytest.approx(0.5)
    assert np.isnan(rank_information(np.zeros(300, int), model, one)[0])


def test_a_class_absent_from_the_windows_leaves_the_verdict_open():
    y, good = world(0.8)
    three = np.column_stack([good * 0.999, np.full(y.size, 0.001)])
    prior = np.tile([0.45, 0.45, 0.1], (y.size, 1))
    found = gate_1_baseline(y, three, prior, context=CONTEXT)
    assert found.verdict == "inconclusive"
    assert "class 2 does not occur" in found.reasons[0]
