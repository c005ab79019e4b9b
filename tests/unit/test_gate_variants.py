"""Gates 5, 6 and 7: augmentation that harms, the simpler model, the ensemble."""

import pytest
from gates_kit import OPTIONS, world

from moola.errors import BadInput
from moola.evaluation.gates import gate_5_augmentation, gate_6_simple, gate_7_ensemble

QUALITY = {"passed": True, "train_only": True, "reasons": []}


def test_augmentation_gate():
    y, weak, strong = world(0.3, 1.0)
    baselines = {"gate 1": weak, "gate 4": strong}
    harm = gate_5_augmentation(y, weak, baselines, quality=QUALITY, **OPTIONS)
    assert harm.verdict == "failed"
    assert harm.figures["baseline"] == "gate 4"
    fine = gate_5_augmentation(y, strong, {"gate 1": weak}, quality=QUALITY, **OPTIONS)
    assert fine.verdict == "passed"
    said = QUALITY | {"reasons": ["mixed windows have no test"]}
    untested = gate_5_augmentation(y, strong, {"gate 1": weak}, quality=said, **OPTIONS)
    assert (untested.verdict, untested.reasons[1]) == ("passed", "mixed windows have no test")
    leak = QUALITY | {"train_only": False}
    assert (
        gate_5_augmentation(y, strong, {"gate 1": weak}, quality=leak, **OPTIONS).verdict
        == "failed"
    )
    poor = QUALITY | {"passed": False, "reasons": ["KS p of feature 3 is 0.01"]}
    found = gate_5_augmentation(y, strong, {"gate 1": weak}, quality=poor, **OPTIONS)
    assert found.reasons[1].startswith("accuracy against gate 1: +")
    assert found.reasons[2] == "KS p of feature 3 is 0.01"
    assert not found.advisory
    trial = gate_5_augmentation(y, weak, baselines, quality=QUALITY, trial=True, **OPTIONS)
    assert (trial.verdict, trial.advisory) == ("failed", True)
    assert trial.reasons[0].startswith("a trial, the candidate does not augment: more than 2%")
    y, first, second = world(0.5, 0.5, seed=3)
    open_ = gate_5_augmentation(y, first, {"gate 1": second}, quality=QUALITY, **OPTIONS)
    assert open_.verdict == "inconclusive"
    with pytest.raises(BadInput, match="no baseline"):
        gate_5_augmentation(y, first, {}, quality=QUALITY, **OPTIONS)
    with pytest.raises(BadInput, match="train_only"):
        gate_5_augmentation(y, first, {"a": second}, quality={"passed": True}, **OPTIONS)


def test_simple_and_ensemble_gates_warn():
    y, weak, strong = world(0.3, 1.0)
    assert gate_6_simple(y, strong, weak, **OPTIONS).verdict == "passed"
    found = gate_6_simple(y, weak, strong, **OPTIONS)
    assert found.verdict == "failed"
    assert found.advisory
    members = {"a": weak, "b": strong}
    good = gate_7_ensemble(
        y, 0.999 * strong + 0.001 * weak, members, temperature_part="validation", **OPTIONS
    )
    assert good.verdict == "passed"
    assert good.figures["best_member"] == "b"
    bad = gate_7_ensemble(y, weak, members, temperature_part="validation", **OPTIONS)
    assert bad.verdict == "failed"
    leak = gate_7_ensemble(y, strong * 0.99 + 0.005, members, temperature_part="test", **OPTIONS)
    assert leak.verdict == "failed"
    assert "fitted on test" in leak.reasons[0]
    with pytest.raises(BadInput, match="no member"):
        gate_7_ensemble(y, weak, {}, temperature_part="validation", **OPTIONS)
