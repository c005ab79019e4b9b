"""Holm over several candidates of one gate: the best of three needs more than the only one."""

from __future__ import annotations

from typing import Any

import pytest

from moola.errors import BadInput
from moola.evaluation.family import holm_over_candidates
from moola.evaluation.gate_report import GateReport, blocked, report


def gate(number: int, p: float | None, verdict: str = "passed", **more: Any) -> GateReport:
    figures = {"p_values": {"log_loss": p, "brier": p, "slow_constant": p, **more}}
    return report(number, verdict, ("log-loss is below: -0.02",), figures=figures)


def test_the_best_of_three_needs_more_than_the_only_one() -> None:
    own = gate(1, 0.02)
    (alone,) = holm_over_candidates([own], {})
    assert alone == own
    (found,) = holm_over_candidates([own], {"2": [gate(1, 0.5)], "3": [gate(1, 0.03)]})
    assert found.verdict == "inconclusive"
    assert found.figures["holm_p"] == pytest.approx(0.06)
    assert found.figures["num_candidates"] == 3
    assert found.reasons[0] == (
        "not beyond doubt among 3 candidates compared at once (Holm-adjusted p 0.060); "
        "alone: log-loss is below: -0.02"
    )
    (kept,) = holm_over_candidates([gate(1, 0.001)], {"2": [own], "3": [own]})
    assert (kept.verdict, kept.figures["holm_p"]) == ("passed", pytest.approx(0.003))


def test_holm_steps_down_where_others_are_beyond_doubt() -> None:
    (found,) = holm_over_candidates([gate(6, 0.04)], {"2": [gate(6, 1e-6)]})
    assert (found.verdict, found.figures["holm_p"]) == ("passed", pytest.approx(0.04))


def test_the_baseline_gate_claims_to_beat_the_slow_constant_too() -> None:
    (found,) = holm_over_candidates([gate(1, 0.001, slow_constant=0.03)], {"2": [gate(1, 0.9)]})
    assert (found.verdict, found.figures["holm_p"]) == ("inconclusive", pytest.approx(0.06))
    old = report(1, "passed", ("older",), figures={"p_values": {"log_loss": 0.01}})
    with pytest.raises(BadInput, match="no p-value of slow_constant"):
        holm_over_candidates([gate(1, 0.01)], {"2": [old]})


def test_transfer_claims_two_metrics_and_an_undefined_one_counts_as_nothing_shown() -> None:
    (found,) = holm_over_candidates([gate(4, 0.001, brier=0.03)], {"2": [gate(4, 0.9)]})
    assert found.figures["holm_p"] == pytest.approx(0.06)
    (found,) = holm_over_candidates([gate(4, 0.001, brier=None)], {"2": [gate(4, 0.9)]})
    assert found.verdict == "inconclusive"


def test_other_gates_and_what_was_not_run_stay_as_they_are() -> None:
    own = [gate(1, 0.2, "failed"), gate(5, 0.04), blocked(6, "a control is better")]
    found = holm_over_candidates(own, {"2": [gate(1, 0.01), gate(5, 0.04), gate(6, 0.01)]})
    assert [r.verdict for r in found] == ["failed", "passed", "blocked"]
    assert found[0].figures["holm_p"] == pytest.approx(0.2)
    assert found[1:] == tuple(own[1:])
    assert holm_over_candidates(own[:1], {"2": [gate(6, 0.01)]}) == tuple(own[:1])


def test_a_report_without_p_values_is_refused() -> None:
    old = report(1, "passed", ("of an older version",), figures={"num_windows": 9})
    with pytest.raises(BadInput, match="gate 1 holds no p-values"):
        holm_over_candidates([old], {"2": [gate(1, 0.01)]})
