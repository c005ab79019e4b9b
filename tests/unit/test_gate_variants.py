"""Gates 5, 6 and 7: augmentation that harms, the simpler model, the ensemble."""

from dataclasses import replace

import pytest
from gates_kit import CONTEXT, world

from moola.errors import BadInput
from moola.evaluation.gates import (
    AugmentationQuality,
    gate_5_augmentation,
    gate_6_simple,
    gate_7_ensemble,
)

QUALITY = AugmentationQuality(passed=True, train_only=True)


def test_augmentation_gate():
    y, weak, strong = world(0.3, 1.0)
    baselines = {"gate 1": weak, "gate 4": strong}
    harm = gate_5_augmentation(y, weak, baselines, quality=QUALITY, context=CONTEXT)
    assert harm.verdict == "failed"
    assert harm.figures["baseline"] == "gate 4"
    fine = gate_5_augmentation(y, strong, {"gate 1": weak}, quality=QUALITY, context=CONTEXT)
    assert fine.verdict == "passed"
    mixed = replace(QUALITY, reasons=("mixed windows have no test",))
    untested = gate_5_augmentation(y, strong, {"gate 1": weak}, quality=mixed, context=CONTEXT)
    assert (untested.verdict, untested.reasons[1]) == ("passed", "mixed windows have no test")
    leak = replace(QUALITY, train_only=False)
    assert (
        gate_5_augmentation(y, strong, {"gate 1": weak}, quality=leak, context=CONTEXT).verdict
        == "failed"
    )
    poor = replace(QUALITY, passed=False, reasons=("KS p of feature 3 is 0.01",))
    found = gate_5_augmentation(y, strong, {"gate 1": weak}, quality=poor, context=CONTEXT)
    assert found.reasons[1].startswith("accuracy against gate 1: +")
    assert found.reasons[2] == "KS p of feature 3 is 0.01"
    assert not found.advisory
    trial = gate_5_augmentation(y, weak, baselines, quality=QUALITY, trial=True, context=CONTEXT)
    assert (trial.verdict, trial.advisory) == ("failed", True)
    assert trial.reasons[0].startswith("a trial, the candidate does not augment: more than 2%")
    y, first, second = world(0.5, 0.5, seed=3)
    open_ = gate_5_augmentation(y, first, {"gate 1": second}, quality=QUALITY, context=CONTEXT)
    assert open_.verdict == "inconclusive"
    with pytest.raises(BadInput, match="no baseline"):
        gate_5_augmentation(y, first, {}, quality=QUALITY, context=CONTEXT)


def test_simple_and_ensemble_gates_warn():
    y, weak, strong = world(0.3, 1.0)
    assert gate_6_simple(y, strong, weak, context=CONTEXT).verdict == "passed"
    found = gate_6_simple(y, weak, strong, context=CONTEXT)
    assert found.verdict == "failed"
    assert found.advisory
    members = {"a": weak, "b": strong}
    good = gate_7_ensemble(
        y, 0.999 * strong + 0.001 * weak, members, temperature_part="validation", context=CONTEXT
    )
    assert good.verdict == "passed"
    assert good.figures["best_member"] == "b"
    bad = gate_7_ensemble(y, weak, members, temperature_part="validation", context=CONTEXT)
    assert bad.verdict == "failed"
    leak = gate_7_ensemble(
        y, strong * 0.99 + 0.005, members, temperature_part="test", context=CONTEXT
    )
    assert leak.verdict == "failed"
    assert "fitted on test" in leak.reasons[0]
    with pytest.raises(BadInput, match="no member"):
        gate_7_ensemble(y, weak, {}, temperature_part="validation", context=CONTEXT)
