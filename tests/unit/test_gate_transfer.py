"""Gate 4: transfer is judged by the paired interval, and only on a proven load and schedule."""

import pytest
from gates_kit import CONTEXT, world

from moola.errors import BadInput
from moola.evaluation.gates import gate_4_transfer

LOADED = {"match_ratio_encoder": 1.0, "num_mismatched": 0}
PROVEN = {"proven": True, "reasons": []}


def test_transfer_gate_passes_and_fails_by_the_paired_interval():
    y, weak, strong = world(0.4, 0.9)
    proofs = {"load_report": LOADED, "schedule_proof": PROVEN}
    better = gate_4_transfer(y, strong, weak, **proofs, context=CONTEXT)
    assert better.verdict == "passed"
    assert better.figures["delta_pr_auc"]["estimate"] > 0
    worse = gate_4_transfer(y, weak, strong, **proofs, context=CONTEXT)
    assert worse.verdict == "failed"
    assert "transfer harms" in worse.reasons[0]
    y, first, second = world(0.5, 0.5, seed=3)
    assert gate_4_transfer(y, first, second, **proofs, context=CONTEXT).verdict == "inconclusive"


def test_transfer_without_any_effect_is_named():
    y, model = world(0.4)
    found = gate_4_transfer(
        y, model.copy(), model, load_report=LOADED, schedule_proof=PROVEN, context=CONTEXT
    )
    assert found.verdict == "failed"
    assert found.reasons[0].startswith("no effect")
    assert found.figures["identical_predictions"] is True


def test_the_silent_transfer_of_44_per_cent_is_refused_though_it_predicts_better():
    y, weak, strong = world(0.4, 0.9)
    report = {"match_ratio_encoder": 0.444, "num_mismatched": 10}
    found = gate_4_transfer(
        y, strong, weak, load_report=report, schedule_proof=PROVEN, context=CONTEXT
    )
    assert found.verdict == "failed"
    assert "44.4%" in found.reasons[0]
    assert "10 tensors" in found.reasons[1]
    unproven = {"proven": False, "reasons": ["lstm.weight moved while frozen"]}
    found = gate_4_transfer(
        y, strong, weak, load_report=LOADED, schedule_proof=unproven, context=CONTEXT
    )
    assert found.verdict == "failed"
    assert "lstm.weight moved" in found.reasons[0]


@pytest.mark.parametrize(
    ("report", "proof", "text"),
    [
        ({}, PROVEN, "match_ratio_encoder"),
        ({"match_ratio_encoder": float("nan"), "num_mismatched": 0}, PROVEN, "nan"),
        (
            {"match_ratio_encoder": 1.0, "num_mismatched": float("nan")},
            PROVEN,
            "num_mismatched is nan",
        ),
        (LOADED, {}, "proven"),
    ],
)
def test_transfer_gate_refuses_missing_evidence(report, proof, text):
    y, first, second = world(0.4, 0.5, n=40)
    with pytest.raises(BadInput, match=text):
        gate_4_transfer(y, first, second, load_report=report, schedule_proof=proof, context=CONTEXT)


def test_a_gain_with_worse_calibration_is_not_passed():
    y, weak, strong = world(0.25, 1.6, n=600)
    blurred = 0.5 + 0.35 * (strong - 0.5)
    found = gate_4_transfer(
        y, blurred, weak, load_report=LOADED, schedule_proof=PROVEN, context=CONTEXT
    )
    assert found.figures["delta_brier"]["high"] < 0
    assert found.figures["delta_ece"]["low"] > 0
    assert found.verdict == "inconclusive"
    assert "ECE is up" in found.reasons[0]
