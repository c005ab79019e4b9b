"""Gate 2: a control that wins stops the candidate, by log-loss or by accuracy."""

import numpy as np
import pytest
from gates_kit import CONTEXT, LIMITS, half, world

from moola.errors import BadInput
from moola.evaluation.gates import GateContext, gate_2_control


def test_control_gate():
    y, weak, strong, equal = world(0.4, 1.0, 0.4)
    won = gate_2_control(y, weak, {"minirocket": strong, "logreg": equal}, context=CONTEXT)
    assert won.verdict == "failed"
    assert won.figures["winners"] == ["minirocket"]
    assert won.reasons[0].startswith("STOP: minirocket is better in log-loss")
    assert gate_2_control(y, strong, {"minirocket": weak}, context=CONTEXT).verdict == "passed"
    few = gate_2_control(
        y, weak, {"minirocket": strong}, context=GateContext(block_length=100, thresholds=LIMITS)
    )
    assert few.verdict == "inconclusive"
    with pytest.raises(BadInput, match="no control"):
        gate_2_control(y, weak, {}, context=CONTEXT)


def test_a_control_without_calibrated_probabilities_can_win_by_accuracy():
    y, weak, strong = world(0.3, 1.2)
    hard = np.eye(2)[strong.argmax(axis=1)]
    found = gate_2_control(y, weak, {"minirocket": hard}, context=CONTEXT)
    assert found.figures["controls"]["minirocket"]["delta_log_loss"]["estimate"] < 0
    assert found.verdict == "failed"
    assert "better in accuracy" in found.reasons[0]


def test_more_controls_take_more_to_win():
    y, weak, rival, *others = world(0.5, 0.72, 0.4, 0.4, 0.4, 0.4, seed=0)
    alone = gate_2_control(y, weak, {"minirocket": rival}, context=CONTEXT)
    crowd = {"minirocket": rival} | {f"control {i}": other for i, other in enumerate(others)}
    among = gate_2_control(y, weak, crowd, context=CONTEXT)
    assert alone.verdict == "failed"
    assert among.verdict == "inconclusive"  # ahead beyond doubt alone is no pass either
    assert among.reasons[0].startswith("minirocket is ahead, by up to 0.1")
    assert among.figures["controls"]["minirocket"]["delta_log_loss"]["low"] > 0
    raw = alone.figures["controls"]["minirocket"]["p_values"]["log_loss"]
    crowded = among.figures["joint_p"]["minirocket/log_loss"]
    assert raw <= alone.figures["joint_p"]["minirocket/log_loss"] < 0.05
    assert 0.05 < crowded <= 10 * raw  # ten comparisons: at most Holm's


def test_controls_that_are_nearly_one_cost_no_more_than_that_one():
    y, weak, rival = world(0.5, 0.74, seed=0)
    rng = np.random.default_rng(1)
    copies = {f"copy {i}": rival * (1 + 1e-4 * rng.standard_normal((len(y), 1))) for i in range(5)}
    crowd = {name: proba / proba.sum(axis=1, keepdims=True) for name, proba in copies.items()}
    alone = gate_2_control(y, weak, {"minirocket": rival}, context=CONTEXT)
    found = gate_2_control(y, weak, {"minirocket": rival} | crowd, context=CONTEXT)
    assert (alone.verdict, found.verdict) == ("failed", "failed")
    raw = found.figures["controls"]["minirocket"]["p_values"]["log_loss"]
    assert 12 * raw > 0.05  # Holm over six controls and two metrics would not stop it
    assert found.figures["joint_p"]["minirocket/log_loss"] == pytest.approx(
        alone.figures["joint_p"]["minirocket/log_loss"], abs=0.01
    )


def test_the_order_of_the_controls_does_not_matter():
    y, weak, *others = world(0.5, 0.6, 0.7, 0.5, seed=4)
    crowd = {f"control {i}": other for i, other in enumerate(others)}
    back = dict(reversed(crowd.items()))
    found, turned = (
        gate_2_control(y, weak, controls, context=CONTEXT) for controls in (crowd, back)
    )
    assert found.verdict == turned.verdict
    assert found.figures["joint_p"] == pytest.approx(turned.figures["joint_p"])


def test_a_pass_is_shown_and_a_doubt_says_how_far_the_control_may_be_ahead():
    y, candidate = world(0.5, n=2000)
    near = candidate + 0.02 * (half(y) - candidate)
    found = gate_2_control(y, candidate, {"minirocket": near}, context=CONTEXT)
    assert found.verdict == "passed"
    assert found.reasons[0] == "no control is better by 0.02 in log-loss"
    assert found.thresholds["margin_log_loss"] == LIMITS.margin_log_loss
    y, first, second = world(0.5, 0.5, n=200, seed=3)
    found = gate_2_control(y, first, {"minirocket": second}, context=CONTEXT)
    assert found.verdict == "inconclusive"
    high = found.figures["controls"]["minirocket"]["delta_log_loss"]["high"]
    assert found.reasons[0] == (
        f"not shown to be as good as minirocket, which may be ahead by up to {high:.4f} in "
        "log-loss (margin 0.02)"
    )


def test_one_control_in_doubt_is_enough_for_no_pass():
    y, weak, strong, equal = world(0.4, 1.0, 1.0)
    assert gate_2_control(y, strong, {"minirocket": weak}, context=CONTEXT).verdict == "passed"
    both = {"minirocket": weak, "logreg": equal}
    found = gate_2_control(y, strong, both, context=CONTEXT)
    assert found.verdict == "inconclusive"
    assert "logreg" in found.reasons[0]
