"""Several comparisons at once: the best of three needs more than the only one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moola.errors import BadInput
from moola.evaluation.gates.family import holm, holm_over_candidates, joint_p_values
from moola.evaluation.gates.report import GateReport, blocked, report


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
    with pytest.raises(BadInput, match="gate 1 holds no p-value of log_loss"):
        holm_over_candidates([old], {"2": [gate(1, 0.01)]})


def noise(num: int, shared: float, n: int = 400) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    common = rng.standard_normal(n)
    own = rng.standard_normal((num, n))
    return {str(i): shared * common + (1 - shared**2) ** 0.5 * own[i] for i in range(num)}


def test_joint_p_values_lie_between_none_and_holm() -> None:
    raw = {"0": 0.02, "1": 0.004, "2": 0.9, "3": 0.03, "4": 1e-7}
    for shared in (0.0, 0.7, 1.0):
        found = joint_p_values(raw, noise(5, shared), block_length=4, num_resamples=1000)
        by_holm = holm(raw)
        assert list(found) == list(raw)
        assert all(raw[k] <= found[k] <= by_holm[k] for k in raw)
        ordered = [found[k] for k in sorted(raw, key=lambda k: raw[k])]
        assert ordered == sorted(ordered)


def test_joint_p_values_know_what_errs_together() -> None:
    raw = dict.fromkeys("0123", 0.02)
    apart, one = (
        joint_p_values(raw, noise(4, shared), block_length=1, num_resamples=4000)["0"]
        for shared in (0.0, 1.0)
    )
    assert apart == pytest.approx(1 - 0.98**4, abs=0.01)  # Sidak's: they err by themselves
    assert one == pytest.approx(0.02, abs=0.005)


def test_too_few_blocks_cannot_tell_what_errs_together() -> None:
    raw, same = dict.fromkeys("0123", 0.02), noise(4, 1.0)
    found = joint_p_values(raw, same, block_length=41, num_resamples=500)
    assert found == holm(raw)  # 400 windows, 9.8 blocks
    assert joint_p_values(raw, same, block_length=40, num_resamples=500)["0"] < 0.05
    remembering = {k: np.cumsum(v) for k, v in same.items()}
    assert joint_p_values(raw, remembering, block_length=1, num_resamples=500) == holm(raw)


def test_joint_p_values_of_what_does_not_vary_or_is_no_p_value() -> None:
    same = {"a": np.zeros(400), "b": noise(1, 0.0)["0"]}
    options = {"block_length": 4, "num_resamples": 500}
    found = joint_p_values({"a": 1.0, "b": 0.01}, same, **options)
    assert found == {"a": 1.0, "b": pytest.approx(0.01, abs=0.01)}
    alone = joint_p_values({"a": 0.3}, {"a": same["b"]}, **options)
    assert alone["a"] == pytest.approx(0.3, abs=0.01)
    with pytest.raises(BadInput, match="the p-value of 'a' is nan"):
        joint_p_values({"a": float("nan")}, {"a": same["b"]}, **options)
    with pytest.raises(BadInput, match="num_resamples is 9"):
        joint_p_values({"a": 0.3}, {"a": same["b"]}, block_length=1, num_resamples=9)
