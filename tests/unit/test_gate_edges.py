"""Values that lie exactly on a limit, and every key of the documents that are logged and signed."""

from dataclasses import replace

import numpy as np
import pytest
from gates_kit import CONTEXT, LIMITS, half, world
from test_gate_evidence import CLEAN, ENCODER

from moola.data.audit.trail import Check
from moola.evaluation import gates
from moola.evaluation.compare import paired_comparison
from moola.evaluation.ensemble import calibrated_ensemble
from moola.evaluation.gates import (
    AugmentationQuality,
    GateContext,
    GateReport,
    deferral_reason,
    run_order,
)
from moola.evaluation.resampling import interval_from_draws

COMPARISON = {
    "num_windows", "block_length", "effective_windows", "persistence", "horizons_apart",
    "confidence", "mcnemar_p", "identical_predictions", "minimum_detectable", "power", "p_values",
    "delta_log_loss", "delta_brier", "delta_accuracy", "delta_pr_auc", "delta_ece",
}  # fmt: skip
SLOW = {"delta_slow_constant", "log_loss_slow_constant", "num_stretches"}
COMMON = {"confidence", "num_resamples", "min_effective_windows"}


def made(gate, verdict):
    return GateReport(gate=gate, name="x", question="?", verdict=verdict, reasons=("because",))


def test_the_document_of_the_data_gate():
    leak = Check(name="b", passed=False, detail="3 shared")
    audit = replace(CLEAN, checks=(*CLEAN.checks, leak))
    for given, verdict, failed in ((CLEAN, "passed", 0), (audit, "failed", 1)):
        found = gates.gate_0_data(audit=given, device_asked="auto", device_used="cpu")
        assert (found.gate, found.verdict) == (0, verdict)
        assert found.figures == {
            "num_checks": len(given.checks),
            "num_failed_checks": failed,
            "device_asked": "auto",
            "device_used": "cpu",
        }
    clean = gates.gate_0_data(audit=CLEAN, device_asked="cpu", device_used="cpu")
    assert clean.reasons == ("the audit is clean (1 checks) and the run used cpu as asked",)


@pytest.mark.parametrize(
    ("asked", "used", "verdict"),
    [
        ("cuda:1", "cuda:1", "passed"),
        ("cuda:1", "cuda:0", "failed"),
        ("cuda", "cuda:1", "passed"),
        ("cuda:0", "cuda", "failed"),
    ],
)
def test_the_device_asked_for(asked, used, verdict):
    assert gates.gate_0_data(audit=CLEAN, device_asked=asked, device_used=used).verdict == verdict


def test_the_document_of_the_encoder_gate():
    found = gates.gate_3_encoder(ENCODER, thresholds=LIMITS)
    assert (found.gate, found.verdict) == (3, "passed")
    assert found.figures == {
        "masked_error_model": 0.8,
        "masked_error_linear": 1.0,
        "masked_error_last_value": 1.5,
        "delta_masked_error": {"estimate": pytest.approx(-0.2), "low": -0.3, "high": -0.1},
        "probe_accuracy": 0.62,
        "probe_accuracy_random": 0.55,
        "delta_probe_accuracy": {"estimate": pytest.approx(0.07), "low": 0.02, "high": 0.12},
        "latent_std_min": 0.1,
        "effective_rank": 9.0,
        "num_dims": 64,
    }
    assert found.thresholds == {
        "min_probe_accuracy": LIMITS.min_probe_accuracy,
        "min_latent_std": LIMITS.min_latent_std,
        "min_effective_rank": LIMITS.min_effective_rank,
    }
    assert found.reasons == (
        "masked reconstruction beats linear interpolation (0.8 against 1)",
        "the linear probe reaches 62.0%, above 55%",
        "the probe beats the same probe on noise: 62.0% against 55.0% on a random encoder",
        "no collapse: smallest spread 0.1, rank 9.0",
    )


def test_failures_come_before_doubts_and_doubts_before_what_passed():
    doubtful = ENCODER | {"probe_delta_low": -0.01, "effective_rank": 1.0}
    found = gates.gate_3_encoder(doubtful, thresholds=LIMITS)
    assert [r.split()[0] for r in found.reasons] == ["collapsed:", "the", "masked", "the"]
    assert "not beyond doubt" in found.reasons[1]


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"masked_error": ENCODER["masked_error"] | {"model": 1.0}}, "failed"),
        ({"masked_error": ENCODER["masked_error"] | {"model": 0.8, "last_value": 0.8}}, "failed"),
        ({"masked_error": ENCODER["masked_error"] | {"delta_high": 0.0}}, "inconclusive"),
        ({"probe_accuracy": LIMITS.min_probe_accuracy, "probe_accuracy_random": 0.4}, "failed"),
        ({"probe_delta_low": 0.0}, "inconclusive"),
        ({"latent_std_min": LIMITS.min_latent_std}, "passed"),
        ({"effective_rank": LIMITS.min_effective_rank}, "passed"),
        ({"effective_rank": 1.0, "num_dims": 1}, "passed"),
    ],
)
def test_the_encoder_gate_exactly_on_a_limit(change, verdict):
    assert gates.gate_3_encoder(ENCODER | change, thresholds=LIMITS).verdict == verdict


COLLAPSE = {
    "min_effective_windows_constant", "min_predicted_share", "min_probability_std",
    "max_constant_share", "min_balanced_accuracy_gain",
}  # fmt: skip
LOADED = {"match_ratio_encoder": 1.0, "num_mismatched": 0}
PROVEN = {"proven": True, "reasons": []}
QUALITY = AugmentationQuality(passed=True, train_only=True)
PROMOTION = {
    "champion_name": "version 3",
    "gate_verdicts": dict.fromkeys(range(3), "passed"),
    "uses_encoder": False,
    "uses_synthetic": False,
}


def reports(y, weak, strong, context):
    """One report of every gate that compares, the candidate being `strong`."""
    return {
        1: gates.gate_1_baseline(y, strong, half(y), context=context),
        2: gates.gate_2_control(y, strong, {"minirocket": weak}, context=context),
        4: gates.gate_4_transfer(
            y, strong, weak, load_report=LOADED, schedule_proof=PROVEN, context=context
        ),
        5: gates.gate_5_augmentation(
            y, strong, {"scratch": weak}, quality=QUALITY, context=context
        ),
        6: gates.gate_6_simple(y, strong, weak, context=context),
        7: gates.gate_7_ensemble(
            y,
            strong,
            {"own": weak},
            temperature_part="validation",
            temperatures=(1.0, 1.5),
            context=context,
        ),
        "promotion": gates.gate_promotion(y, strong, weak, **PROMOTION, context=context),
    }


@pytest.mark.medium
@pytest.mark.parametrize(
    "context", [CONTEXT, GateContext(block_length=2)], ids=["limits", "Moola's own"]
)
def test_the_documents_of_the_gates_that_compare(context):
    found = reports(*world(0.4, 1.0), context)
    figures = {
        1: COMPARISON | SLOW | {"metrics", "ece_null"},
        2: {"controls", "joint_p", "winners"},
        4: COMPARISON | {"match_ratio_encoder", "num_mismatched", "schedule_proven"},
        5: COMPARISON | {"baseline", "trial"},
        6: COMPARISON,
        7: COMPARISON | {"best_member", "log_loss_members", "temperatures"},
        "promotion": COMPARISON
        | SLOW
        | {"champion", "metrics", "metrics_champion", "log_loss_prior", "num_looks"},
    }
    thresholds = {
        1: COMMON | COLLAPSE | {"max_credible_roc_auc", "max_credible_entropy_share"},
        2: COMMON | {"margin_log_loss"},
        4: COMMON | {"min_match_ratio", "max_mismatched"},
        5: COMMON | {"max_accuracy_loss"},
        6: COMMON,
        7: COMMON | {"margin_log_loss"},
        "promotion": COMMON | {"margin_log_loss"} | COLLAPSE,
    }
    for gate, report in found.items():
        odd = gate == 1 and context.thresholds is not LIMITS  # as good as no model of a market
        assert (report.gate, report.verdict) == (gate, "held" if odd else "passed")
        assert set(report.figures) == figures[gate] | ({"leaks"} if odd else set()), gate
        assert set(report.thresholds) == thresholds[gate], gate
        assert any("240 windows, 120 blocks that share no bar" in r for r in report.reasons)
    assert set(found[1].figures["ece_null"]) == {"mean", "p95"}
    assert set(found[1].figures["delta_log_loss"]) == {"estimate", "low", "high"}
    assert set(found[2].figures["controls"]["minirocket"]) == COMPARISON
    assert set(found[2].figures["joint_p"]) == {"minirocket/log_loss", "minirocket/accuracy"}
    assert found[2].figures["winners"] == []
    assert found[4].figures["schedule_proven"] is True
    assert found[7].figures["temperatures"] == [1.0, 1.5]
    assert set(found[7].figures["log_loss_members"]) == {"own"}


def test_the_sentences_of_a_doubtful_candidate():
    y, first, second = world(0.5, 0.5, seed=3)
    found = reports(y, second, first, CONTEXT)
    assert {found[gate].verdict for gate in (4, 6, 7)} == {"inconclusive"}
    assert found[4].reasons[0] == "the gain of transfer is not beyond doubt"
    assert [r.split()[0] for r in found[4].reasons[1:5]] == ["log-loss", "brier", "pr-auc", "ece"]
    assert found[6].reasons[0].startswith("warning: the bigger model is not shown to be needed;")
    assert found[7].reasons[0].startswith("warning: may be worse than its best member; log-loss")


def test_transfer_must_gain_in_log_loss_and_in_brier_score():
    """Less overconfident where the baseline errs, a little less sure elsewhere."""
    y = np.arange(240) % 2
    erring = np.arange(240) % 10 < 3
    scratch, transfer = np.where(erring, 0.0005, 0.8), np.where(erring, 0.02, 0.76)
    of_class_1 = (np.where(y, right, 1 - right) for right in (transfer, scratch))
    probas = [np.column_stack([1 - p, p]) for p in of_class_1]
    found = gates.gate_4_transfer(
        y, *probas, load_report=LOADED, schedule_proof=PROVEN, context=CONTEXT
    )
    assert found.figures["delta_log_loss"]["high"] < 0
    assert found.figures["delta_brier"]["low"] < 0 < found.figures["delta_brier"]["high"]
    assert (found.verdict, found.reasons[0]) == (
        "inconclusive",
        "the gain of transfer is not beyond doubt",
    )


def test_better_calibration_alone_is_no_transfer():
    y, model = world(0.5, n=600)
    over = model**6 / (model**6).sum(axis=1, keepdims=True)  # ranks the windows alike
    found = gates.gate_4_transfer(
        y, model, over, load_report=LOADED, schedule_proof=PROVEN, context=CONTEXT
    )
    assert found.figures["delta_log_loss"]["high"] < 0
    assert found.figures["delta_brier"]["high"] < 0
    assert found.figures["delta_pr_auc"]["estimate"] == pytest.approx(0)
    assert found.verdict == "inconclusive"
    assert found.reasons[0] == "log-loss and Brier gain, but PR-AUC is not up"


def test_of_equally_accurate_baselines_the_better_calibrated_is_the_bar():
    y, model = world(0.6)
    over = model**5 / (model**5).sum(axis=1, keepdims=True)
    for baselines in ({"over": over, "model": model}, {"model": model, "over": over}):
        found = gates.gate_5_augmentation(y, model, baselines, quality=QUALITY, context=CONTEXT)
        assert found.figures["baseline"] == "model"
    faults = AugmentationQuality(passed=False, train_only=False)
    found = gates.gate_5_augmentation(y, model, {"model": model}, quality=faults, context=CONTEXT)
    assert found.reasons[:2] == (
        "the synthetic windows failed their test",
        "synthetic windows are not confined to the train part",
    )


def test_probabilities_that_are_off_are_named():
    y, model = world(0.9, n=600)
    over = model**4 / (model**4).sum(axis=1, keepdims=True)
    said = gates.gate_1_baseline(y, over, half(y), context=CONTEXT).reasons
    assert any(reason.startswith("probabilities are off: ECE 0.") for reason in said)
    calm = gates.gate_1_baseline(y, model, half(y), context=CONTEXT).reasons
    assert not any("probabilities are off" in reason for reason in calm)


def test_an_adapter_defers_every_gate_after_the_fourth():
    given = [made(gate, "passed") for gate in (0, 1, 2, 3, 5, 6, 7, "promotion")]
    found = run_order(given, num_labelled_windows=0, uses_adapter=True, thresholds=LIMITS)
    assert [r.verdict for r in found] == ["passed"] * 4 + ["deferred"] * 4
    assert {r.reasons for r in found[4:]} == {
        (
            f"TS2Vec and adapter runs wait for {LIMITS.min_labelled_windows} labelled windows or "
            "a passed gate 4; there are 0 and gate 4 is not run",
        )
    }
    enough = LIMITS.min_labelled_windows
    found = run_order(given, num_labelled_windows=enough, uses_adapter=True, thresholds=LIMITS)
    assert {r.verdict for r in found} == {"passed"}


def test_the_reason_to_wait_names_gate_4s_verdict():
    waiting = deferral_reason(num_labelled_windows=3, uses_adapter=True, verdicts={4: "failed"})
    assert waiting is not None
    assert waiting.endswith("there are 3 and gate 4 is failed")


def test_an_ensembles_temperature_comes_from_earlier_labels_only():
    """A window whose label ends on the fold's first bar is not past; one bar earlier it is."""
    y, weak = world(0.5, n=40)
    fold = np.repeat([0, 1], 20)
    first = np.r_[np.arange(20), np.full(20, 100)]
    found = {}
    for end_of_the_past in (99, 100):
        end = np.r_[np.full(20, end_of_the_past), np.full(20, 200)]
        made_of = calibrated_ensemble(y, [weak], fold=fold, first_bar=first, label_end=end)
        found[end_of_the_past] = made_of.temperatures
        np.testing.assert_array_equal(made_of.uncalibrated, weak)
        np.testing.assert_allclose(made_of.proba[:20], weak[:20], rtol=1e-12)
    assert found[100] == (1.0, 1.0)
    assert found[99][0] == 1.0
    assert found[99][1] != 1.0


def test_only_a_comparison_with_a_constant_is_corrected_for_skewness():
    y, weak, strong = world(0.4, 1.0)
    plain = paired_comparison(y, strong, weak, block_length=2, num_resamples=300).deltas
    skewed = paired_comparison(y, strong, weak, block_length=2, num_resamples=300, skewed=True)
    for name, delta in plain.items():
        assert delta.high - delta.estimate == pytest.approx(delta.estimate - delta.low), name
    reached = {n: (d.high - d.estimate, d.estimate - d.low) for n, d in skewed.deltas.items()}
    uneven = {name for name, (up, down) in reached.items() if up != pytest.approx(down)}
    assert uneven == {"log_loss", "brier"}


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_an_interval_that_ends_at_zero_has_a_p_value_of_five_per_cent(side):
    """On either side of the longer tail: the p-value inverts the interval."""
    draws = np.random.default_rng(0).exponential(size=4000) - 1.0
    options = {"num_windows": 400, "block_length": 4, "skewed": True}
    around = interval_from_draws(0.0, draws, **options)
    end = -around.low if side > 0 else -around.high
    found = interval_from_draws(end, draws, **options)
    assert (found.low if side > 0 else found.high) == pytest.approx(0.0, abs=1e-12)
    assert found.p_value == pytest.approx(0.05)


def test_the_margins_of_the_thresholds_decide():
    y, first, second = world(0.5, 0.5, seed=3)
    members = {"own": first}
    found = {}
    for margin in (0.001, 0.5):
        limits = replace(LIMITS, margin_log_loss=margin)
        found[margin] = gates.gate_7_ensemble(
            y,
            second,
            members,
            temperature_part="validation",
            context=GateContext(block_length=2, thresholds=limits),
        ).verdict
    assert found == {0.001: "inconclusive", 0.5: "passed"}


def test_the_smallest_difference_that_can_be_seen_is_said():
    y, weak, strong = world(0.4, 1.0)
    said = gates.gate_6_simple(y, strong, weak, context=CONTEXT)
    smallest = said.figures["minimum_detectable"]["log_loss"]
    assert said.reasons[-1].endswith(f"smallest detected with 80 % power: {smallest:.3g}")


def test_a_candidate_that_collapses_under_the_given_thresholds_is_not_promoted():
    y, weak, strong = world(0.4, 1.0)
    strict = replace(LIMITS, min_probability_std=0.6)
    found = gates.gate_promotion(
        y, strong, weak, **PROMOTION, context=GateContext(block_length=2, thresholds=strict)
    )
    assert found.verdict == "failed"
    assert "(at least 0.599), nearly a constant" in found.reasons[0]


def test_where_no_verdict_is_possible_no_detectable_difference_is_promised():
    y, weak, strong = world(0.4, 1.6, n=60)
    found = gates.gate_6_simple(
        y, strong, weak, context=GateContext(block_length=19, thresholds=LIMITS)
    )
    assert found.verdict == "inconclusive"
    assert found.figures["minimum_detectable"]["log_loss"] is None
    assert found.reasons[-1] == (
        "60 windows, 3 blocks that share no bar; no log-loss difference of any size can be found "
        "here: 60 windows hold 3.2 blocks of 19 that share no bar; at least 4 are needed"
    )
    known = gates.gate_6_simple(
        y,
        strong,
        weak,
        context=GateContext(block_length=19, horizons_apart=True, thresholds=LIMITS),
    )
    assert known.verdict == "passed"


def test_every_report_states_its_power_for_this_n():
    y, weak, strong = world(0.4, 1.0)
    found = gates.gate_6_simple(y, strong, weak, context=CONTEXT)
    table = found.figures["power"]["log_loss"]
    assert list(table) == ["0.01", "0.02", "0.05", "0.1"]
    assert 0.025 < table["0.01"] < table["0.02"] < table["0.05"] < table["0.1"] <= 1.0
    said = ", ".join(f"{size}: {power:.0%}" for size, power in table.items())
    assert f"power at a true log-loss difference of {said};" in found.reasons[-1]
    none = gates.gate_6_simple(
        y, strong, weak, context=GateContext(block_length=100, thresholds=LIMITS)
    )
    assert none.figures["power"] == {}
