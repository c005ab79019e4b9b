"""Gate 2: a control that wins stops the candidate, by log-loss or by accuracy."""

import numpy as np
import pytest
from gates_kit import LIMITS, OPTIONS, world

from moola.errors import BadInput
from moola.evaluation.gates import gate_2_control


def test_control_gate():
    y, weak, strong, equal = world(0.4, 1.0, 0.4)
    won = gate_2_control(y, weak, {"minirocket": strong, "logreg": equal}, **OPTIONS)
    assert won.verdict == "failed"
    assert won.figures["winners"] == ["minirocket"]
    assert won.reasons[0].startswith("STOP: minirocket is better in log-loss")
    assert gate_2_control(y, strong, {"minirocket": weak}, **OPTIONS).verdict == "passed"
    few = gate_2_control(y, weak, {"minirocket": strong}, block_length=100, thresholds=LIMITS)
    assert few.verdict == "inconclusive"
    with pytest.raises(BadInput, match="no control"):
        gate_2_control(y, weak, {}, **OPTIONS)


def test_a_control_without_calibrated_probabilities_can_win_by_accuracy():
    y, weak, strong = world(0.3, 1.2)
    hard = np.eye(2)[strong.argmax(axis=1)]
    found = gate_2_control(y, weak, {"minirocket": hard}, **OPTIONS)
    assert found.figures["controls"]["minirocket"]["delta_log_loss"]["estimate"] < 0
    assert found.verdict == "failed"
    assert "better in accuracy" in found.reasons[0]


def test_more_controls_take_more_to_win():
    y, weak, rival, *others = world(0.5, 0.74, 0.4, 0.4, 0.4, 0.4, seed=0)
    alone = gate_2_control(y, weak, {"minirocket": rival}, **OPTIONS)
    crowd = {"minirocket": rival} | {f"control {i}": other for i, other in enumerate(others)}
    among = gate_2_control(y, weak, crowd, **OPTIONS)
    assert alone.verdict == "failed"
    assert among.verdict == "passed"
    assert among.figures["controls"]["minirocket"]["delta_log_loss"]["low"] > 0
    ratio = (
        among.figures["holm_p"]["minirocket/log_loss"]
        / alone.figures["holm_p"]["minirocket/log_loss"]
    )
    assert ratio == pytest.approx(5.0)  # ten comparisons instead of two
