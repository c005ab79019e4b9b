"""All gates: their order, who blocks whom, who waits, and answers that no gate judges."""

import numpy as np
import pytest
from gates_kit import CONTEXT, half, world

from moola.errors import BadInput
from moola.evaluation import gates
from moola.evaluation.gates import (
    GateReport,
    blocking_reason,
    deferral_reason,
    gate_1_baseline,
    gate_6_simple,
    run_order,
)


def test_gates_refuse_what_cannot_be_judged():
    y, weak, strong = world(0.4, 1.0, n=40)
    with pytest.raises(BadInput, match="of class 0"):
        gate_1_baseline(np.zeros(40, int), weak, half(y), context=CONTEXT)
    with pytest.raises(BadInput, match="8 windows"):
        gate_6_simple(y[:8], weak[:8], strong[:8], context=CONTEXT)
    with pytest.raises(BadInput, match="sum to"):
        gate_6_simple(y, weak * 2, strong, context=CONTEXT)
    with pytest.raises(BadInput, match=r"0\.\.1"):
        gate_6_simple(y + 1, weak, strong, context=CONTEXT)


def made(gate, verdict):
    return GateReport(gate=gate, name="x", question="?", verdict=verdict, reasons=("because",))


def test_a_control_that_wins_blocks_gates_3_to_7():
    given = [made(gate, "passed") for gate in (7, 6, 5, 4, 3, 1, 0)] + [made(2, "failed")]
    found = run_order(given)
    assert [report.gate for report in found] == list(range(8))
    assert [report.verdict for report in found] == ["passed", "passed", "failed"] + ["blocked"] * 5
    assert "gate 2" in found[-1].reasons[0]


def test_failed_data_blocks_everything():
    found = run_order([made(0, "failed"), made(1, "passed"), made("promotion", "passed")])
    assert [report.verdict for report in found] == ["failed", "blocked", "blocked"]


def test_an_inconclusive_control_blocks_nothing():
    assert blocking_reason(4, {0: "passed", 2: "inconclusive"}) is None
    assert blocking_reason(1, {0: "passed", 2: "failed"}) is None


def test_adapter_waits_for_labels_or_gate_4():
    options = {"num_labelled_windows": 499, "uses_adapter": True}
    assert "500 labelled windows" in deferral_reason(**options, verdicts={})
    assert deferral_reason(**options, verdicts={4: "passed"}) is None
    assert deferral_reason(**(options | {"num_labelled_windows": 500}), verdicts={}) is None
    assert deferral_reason(**(options | {"uses_adapter": False}), verdicts={}) is None
    given = [made(4, "inconclusive"), made(5, "passed"), made("promotion", "passed")]
    found = run_order(given, **options)
    assert [report.verdict for report in found] == ["inconclusive", "deferred", "deferred"]
    with pytest.raises(BadInput, match="num_labelled_windows"):
        run_order(given, uses_adapter=True)
    with pytest.raises(BadInput, match="reported twice"):
        run_order([made(1, "passed"), made(1, "failed")])


def test_a_context_may_be_given_by_its_fields():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 60)
    p = np.column_stack([1 - (q := rng.uniform(0.3, 0.7, 60)), q])
    whole = gates.gate_6_simple(y, p, p[::-1], context=gates.GateContext(block_length=4))
    assert gates.gate_6_simple(y, p, p[::-1], block_length=4, thresholds=None) == whole
    with pytest.raises(BadInput, match="block_length is given beside a context"):
        gates.gate_6_simple(y, p, p, context=gates.GateContext(block_length=4), block_length=5)
