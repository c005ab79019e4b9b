import json
from dataclasses import replace

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from moola.config.evaluation import EvaluateConfig, Thresholds
from moola.errors import BadInput, ConfigError
from moola.evaluation.gate_report import JSON_SCHEMA
from moola.evaluation.gates import (
    CLASS_PRIOR,
    GateReport,
    blocked,
    blocking_reason,
    collapse_reasons,
    deferral_reason,
    deferred,
    gate_0_data,
    gate_1_baseline,
    gate_2_control,
    gate_3_encoder,
    gate_4_transfer,
    gate_5_augmentation,
    gate_6_simple,
    gate_7_ensemble,
    gate_promotion,
    promotion_prerequisites,
    run_order,
)

LIMITS = replace(Thresholds.load(), num_resamples=300)
OPTIONS = {"block_length": 2, "thresholds": LIMITS}
CLEAN = {"passed": True, "checks": [{"name": "overlap", "passed": True, "detail": "none"}]}
LOADED = {"match_ratio_encoder": 1.0, "num_mismatched": 0}
PROVEN = {"proven": True, "reasons": []}
QUALITY = {"passed": True, "train_only": True, "reasons": []}
PASSED = dict.fromkeys(range(6), "passed")
ENCODER = {
    "masked_error": {
        "model": 0.8,
        "linear": 1.0,
        "last_value": 1.5,
        "delta_low": -0.3,
        "delta_high": -0.1,
    },
    "probe_accuracy": 0.62,
    "probe_accuracy_random": 0.55,
    "probe_delta_low": 0.02,
    "probe_delta_high": 0.12,
    "latent_std_min": 0.1,
    "effective_rank": 9.0,
    "num_dims": 64,
}


def world(*strengths, n=240, seed=0):
    """Labels and one calibrated model for each strength; all see the same noise in part."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat([0, 1], n // 2))
    shared = rng.standard_normal(n)
    models = []
    for strength in strengths:
        noise = 0.8 * shared + 0.6 * rng.standard_normal(n)
        logit = 2 * strength * (strength * (2 * y - 1) + noise)
        p = 1 / (1 + np.exp(-logit))
        models.append(np.column_stack([1 - p, p]))
    return y, *models


def half(y):
    return np.full((y.size, 2), 0.5)


# --- gate 1 --------------------------------------------------------------------------------------


def test_the_constant_that_was_shipped_is_refused_and_named():
    y = np.repeat([0, 1], [14, 6])
    constant = np.tile([0.7, 0.3], (20, 1))
    found = gate_1_baseline(y, constant, np.tile([0.6, 0.4], (20, 1)), block_length=2)
    assert found.verdict == "failed"
    assert found.reasons[0] == (
        "collapsed: always answers class 0 in all 20 windows; its accuracy of 70.0% and weighted "
        "F1 of 57.6% are those of a constant, because 14 of 20 windows are of class 0"
    )
    assert found.figures["metrics"]["mcc"] is None


def test_constant_is_refused_even_where_its_log_loss_is_far_below_the_priors():
    y = np.repeat([0, 1], [190, 10])
    found = gate_1_baseline(
        y, np.tile([0.95, 0.05], (200, 1)), np.tile([0.5, 0.5], (200, 1)), **OPTIONS
    )
    assert found.figures["delta_log_loss"]["high"] < 0
    assert found.verdict == "failed"


def test_baseline_passes_on_a_real_gain():
    y, good = world(0.8)
    found = gate_1_baseline(y, good, half(y), **OPTIONS)
    assert found.verdict == "passed"
    assert found.figures["delta_log_loss"]["high"] < 0
    assert found.figures["minimum_detectable"]["log_loss"] > 0
    assert "240 windows" in found.reasons[-1]


def test_baseline_is_inconclusive_on_too_few_windows_and_says_so():
    y, good = world(0.6)
    found = gate_1_baseline(y, good, half(y), block_length=100, thresholds=LIMITS)
    assert found.verdict == "inconclusive"
    assert "worth 2.4 independent" in found.reasons[0]


def test_a_constant_baseline_needs_more_windows_than_a_rival():
    y, weak, strong = world(0.4, 1.2, n=100)
    options = {"block_length": 15, "thresholds": LIMITS}
    found = gate_1_baseline(y, strong, half(y), **options)
    assert found.verdict == "inconclusive"
    assert "at least 10 are needed" in found.reasons[0]
    assert gate_6_simple(y, strong, weak, **options).verdict == "passed"
    assert gate_1_baseline(y, strong, half(y), block_length=10, thresholds=LIMITS).verdict == (
        "passed"
    )


def test_baseline_fails_where_significantly_worse_than_the_prior():
    y, good = world(0.2)
    over = good**12 / (good**12).sum(axis=1, keepdims=True)
    found = gate_1_baseline(y, over, half(y), **OPTIONS)
    assert found.verdict == "failed"
    assert "above the class prior's" in found.reasons[0] or "collapsed" in found.reasons[0]


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (np.where(np.arange(200) == 3, 0.6, 0.2), "class 1 is predicted in 0.5% of the windows"),
        (0.5 + 0.01 * (-1.0) ** np.arange(200), "nearly a constant"),
        (np.where(np.arange(200) < 100, 0.3, 0.7), "balanced accuracy"),
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
    found = gate_1_baseline(y, np.column_stack([1 - p, p]), half(y), **OPTIONS)
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


def test_three_classes_one_never_recognised():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    proba = rng.dirichlet([1, 1, 1], 90) * 0.2
    proba[np.arange(90), np.where(y == 2, 0, y)] += 0.8
    assert "class 2 is predicted" in collapse_reasons(y, proba, thresholds=LIMITS)[0]


def test_a_class_absent_from_the_windows_leaves_the_verdict_open():
    y, good = world(0.8)
    three = np.column_stack([good * 0.999, np.full(y.size, 0.001)])
    prior = np.tile([0.45, 0.45, 0.1], (y.size, 1))
    found = gate_1_baseline(y, three, prior, **OPTIONS)
    assert found.verdict == "inconclusive"
    assert "class 2 does not occur" in found.reasons[0]


# --- gates 0 and 3 -------------------------------------------------------------------------------


def test_data_gate():
    run = gate_0_data
    assert run(audit=CLEAN, device_asked="auto", device_used="cpu").verdict == "passed"
    assert run(audit=CLEAN, device_asked="cuda", device_used="cuda:0").verdict == "passed"
    found = run(audit=CLEAN, device_asked="cuda", device_used="cpu")
    assert found.verdict == "failed"
    assert found.reasons == ("the device asked for was cuda, the run used cpu",)
    leak = {"passed": False, "checks": [{"name": "bars", "passed": False, "detail": "3 shared"}]}
    assert (
        "bars failed: 3 shared"
        in run(audit=leak, device_asked="auto", device_used="cpu").reasons[0]
    )
    lying = {"passed": True, "checks": leak["checks"]}
    assert run(audit=lying, device_asked="auto", device_used="cpu").verdict == "failed"
    for bad in ({}, {"passed": True, "checks": []}, {"passed": "yes", "checks": CLEAN["checks"]}):
        with pytest.raises(BadInput, match="audit lacks"):
            run(audit=bad, device_asked="auto", device_used="cpu")


@pytest.mark.parametrize(
    ("change", "verdict", "text"),
    [
        ({}, "passed", "beats linear interpolation"),
        ({"probe_accuracy": 0.54, "probe_accuracy_random": 0.4}, "failed", "not above 55%"),
        ({"probe_delta_low": -0.01}, "inconclusive", "not beyond doubt"),
        ({"probe_accuracy_random": 0.62, "probe_delta_low": -0.05}, "failed", "random encoder"),
        ({"latent_std_min": 0.001}, "failed", "collapsed"),
        ({"effective_rank": 1.2}, "failed", "effective rank of 1.20"),
    ],
)
def test_encoder_gate(change, verdict, text):
    found = gate_3_encoder(ENCODER | change, thresholds=LIMITS)
    assert found.verdict == verdict
    assert text in found.reasons[0]


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"delta_high": 0.01}, "inconclusive"),
        ({"model": 1.2}, "failed"),
        ({"model": 1.6}, "failed"),
        ({"last_value": 0.7}, "failed"),
    ],
)
def test_encoder_gate_on_reconstruction(change, verdict):
    evidence = ENCODER | {"masked_error": ENCODER["masked_error"] | change}
    assert gate_3_encoder(evidence, thresholds=LIMITS).verdict == verdict


def test_encoder_gate_refuses_missing_and_nan():
    with pytest.raises(BadInput, match="masked_error is None"):
        gate_3_encoder({k: v for k, v in ENCODER.items() if k != "masked_error"})
    with pytest.raises(BadInput, match="probe_accuracy in evidence is nan"):
        gate_3_encoder(ENCODER | {"probe_accuracy": float("nan")})


# --- comparative gates ---------------------------------------------------------------------------


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
    y, weak, rival, *others = world(0.5, 0.68, 0.4, 0.4, 0.4, 0.4, seed=0)
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


def test_transfer_gate_passes_and_fails_by_the_paired_interval():
    y, weak, strong = world(0.4, 0.9)
    proofs = {"load_report": LOADED, "schedule_proof": PROVEN}
    better = gate_4_transfer(y, strong, weak, **proofs, **OPTIONS)
    assert better.verdict == "passed"
    assert better.figures["delta_pr_auc"]["estimate"] > 0
    worse = gate_4_transfer(y, weak, strong, **proofs, **OPTIONS)
    assert worse.verdict == "failed"
    assert "transfer harms" in worse.reasons[0]
    y, first, second = world(0.5, 0.5, seed=3)
    assert gate_4_transfer(y, first, second, **proofs, **OPTIONS).verdict == "inconclusive"


def test_transfer_without_any_effect_is_named():
    y, model = world(0.4)
    found = gate_4_transfer(
        y, model.copy(), model, load_report=LOADED, schedule_proof=PROVEN, **OPTIONS
    )
    assert found.verdict == "failed"
    assert found.reasons[0].startswith("no effect")
    assert found.figures["identical_predictions"] is True


def test_the_silent_transfer_of_44_per_cent_is_refused_though_it_predicts_better():
    y, weak, strong = world(0.4, 0.9)
    report = {"match_ratio_encoder": 0.444, "num_mismatched": 10}
    found = gate_4_transfer(y, strong, weak, load_report=report, schedule_proof=PROVEN, **OPTIONS)
    assert found.verdict == "failed"
    assert "44.4%" in found.reasons[0]
    assert "10 tensors" in found.reasons[1]
    unproven = {"proven": False, "reasons": ["lstm.weight moved while frozen"]}
    found = gate_4_transfer(y, strong, weak, load_report=LOADED, schedule_proof=unproven, **OPTIONS)
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
        gate_4_transfer(y, first, second, load_report=report, schedule_proof=proof, **OPTIONS)


def test_a_gain_with_worse_calibration_is_not_passed():
    y, weak, strong = world(0.25, 1.6, n=600)
    blurred = 0.5 + 0.35 * (strong - 0.5)
    found = gate_4_transfer(y, blurred, weak, load_report=LOADED, schedule_proof=PROVEN, **OPTIONS)
    assert found.figures["delta_brier"]["high"] < 0
    assert found.figures["delta_ece"]["low"] > 0
    assert found.verdict == "inconclusive"
    assert "ECE is up" in found.reasons[0]


def test_augmentation_gate():
    y, weak, strong = world(0.3, 1.0)
    baselines = {"gate 1": weak, "gate 4": strong}
    harm = gate_5_augmentation(y, weak, baselines, quality=QUALITY, **OPTIONS)
    assert harm.verdict == "failed"
    assert harm.figures["baseline"] == "gate 4"
    fine = gate_5_augmentation(y, strong, {"gate 1": weak}, quality=QUALITY, **OPTIONS)
    assert fine.verdict == "passed"
    leak = QUALITY | {"train_only": False}
    assert (
        gate_5_augmentation(y, strong, {"gate 1": weak}, quality=leak, **OPTIONS).verdict
        == "failed"
    )
    poor = QUALITY | {"passed": False, "reasons": ["KS p of feature 3 is 0.01"]}
    found = gate_5_augmentation(y, strong, {"gate 1": weak}, quality=poor, **OPTIONS)
    assert found.reasons[1] == "KS p of feature 3 is 0.01"
    assert found.reasons[2].startswith("accuracy against gate 1: +")
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


# --- promotion -----------------------------------------------------------------------------------


def promote(y, candidate, champion, name="version 3", verdicts=PASSED, **options):
    base = {"uses_encoder": False, "uses_synthetic": False} | OPTIONS
    return gate_promotion(
        y, candidate, champion, champion_name=name, gate_verdicts=verdicts, **(base | options)
    )


def test_promotion_needs_the_gates_the_candidate_uses():
    y, weak, strong = world(0.4, 1.0)
    verdicts = {0: "passed", 1: "passed", 2: "inconclusive"}
    found = promote(y, strong, weak, verdicts=verdicts)
    assert found.verdict == "blocked"
    assert found.reasons == ("gate 2 must have passed, it is inconclusive",)
    assert found.figures == {}
    base = {0: "passed", 1: "passed", 2: "passed"}
    assert promotion_prerequisites(base, uses_encoder=False, uses_synthetic=False) == ()
    missing = promotion_prerequisites(base, uses_encoder=True, uses_synthetic=True)
    assert [text[:6] for text in missing] == ["gate 3", "gate 4", "gate 5"]
    assert "not run" in missing[0]


def test_promotion_by_being_better():
    y, weak, strong = world(0.4, 1.0)
    found = promote(y, strong, weak)
    assert found.verdict == "passed"
    assert found.figures["metrics"]["log_loss"] < found.figures["metrics_champion"]["log_loss"]
    assert promote(y, weak, strong).verdict == "failed"


def test_promotion_by_being_as_good_and_better_calibrated():
    y, champion = world(0.8, n=2000)
    rng = np.random.default_rng(1)
    wobble = champion[:, 1] + 0.01 * rng.standard_normal(y.size)
    candidate = np.clip(np.column_stack([1 - wobble, wobble]), 0.005, 0.995)
    candidate /= candidate.sum(axis=1, keepdims=True)
    off = champion**1.45 / (champion**1.45).sum(axis=1, keepdims=True)
    wide = replace(LIMITS, margin_log_loss=0.05)
    found = promote(y, candidate, off, thresholds=wide)
    assert found.verdict == "passed"
    equal = promote(y, candidate, champion, thresholds=wide)
    assert equal.verdict == "inconclusive"
    assert "not shown to be better" in equal.reasons[0]


def test_against_the_class_prior_only_better_counts():
    y, weak, strong = world(0.12, 0.8, n=240, seed=4)
    prior = half(y)
    assert promote(y, strong, prior, CLASS_PRIOR).verdict == "passed"
    found = promote(y, weak, prior, CLASS_PRIOR)
    assert found.verdict in ("inconclusive", "failed")
    over = weak**8 / (weak**8).sum(axis=1, keepdims=True)
    found = promote(y, over, prior, CLASS_PRIOR)
    assert found.verdict == "failed"
    assert "is not below the class prior's 0.6931" in found.reasons[0]


def test_as_good_as_the_class_prior_and_better_calibrated_is_not_enough():
    n = 1000
    y = np.arange(n) % 2
    right = np.random.default_rng(0).random(n) < 0.6
    chosen = np.where(right, 0.56, 0.44)  # of the true class
    chosen[100:103] = 0.001
    p = np.where(y == 1, chosen, 1 - chosen)
    candidate, prior = np.column_stack([1 - p, p]), np.tile([0.6, 0.4], (n, 1))
    wide = replace(LIMITS, margin_log_loss=0.1)
    found = promote(y, candidate, prior, CLASS_PRIOR, thresholds=wide)
    assert found.figures["delta_log_loss"]["estimate"] < 0
    assert found.figures["delta_ece"]["high"] < 0
    assert found.verdict == "inconclusive"
    assert promote(y, candidate, prior, prior=prior, thresholds=wide).verdict == "passed"


def test_beating_a_champion_worse_than_the_prior_is_not_enough():
    y, weak = world(0.12, n=400, seed=4)
    over, worse = (weak**k / (weak**k).sum(axis=1, keepdims=True) for k in (8, 30))
    found = promote(y, over, worse)
    assert found.figures["delta_log_loss"]["high"] < 0
    assert found.verdict == "failed"


def test_every_look_widens_the_interval():
    y, weak, strong = world(0.4, 0.7)
    once, often = promote(y, strong, weak), promote(y, strong, weak, num_looks=10)
    width = [r.figures["delta_log_loss"]["high"] - r.figures["delta_log_loss"]["low"]
             for r in (once, often)]  # fmt: skip
    assert width[1] > 1.3 * width[0]
    assert often.figures["confidence"] == pytest.approx(0.995)
    assert "look number 10" in often.reasons[-1]
    with pytest.raises(BadInput, match="num_looks is 0"):
        promote(y, strong, weak, num_looks=0)


def test_a_copy_of_the_champion_is_not_promoted():
    y, model = world(0.8)
    found = promote(y, model, model.copy())
    assert found.verdict == "failed"
    assert "no effect" in found.reasons[0]


def test_gates_refuse_what_cannot_be_judged():
    y, weak, strong = world(0.4, 1.0, n=40)
    with pytest.raises(BadInput, match="of class 0"):
        gate_1_baseline(np.zeros(40, int), weak, half(y), **OPTIONS)
    with pytest.raises(BadInput, match="8 windows"):
        gate_6_simple(y[:8], weak[:8], strong[:8], **OPTIONS)
    with pytest.raises(BadInput, match="sum to"):
        gate_6_simple(y, weak * 2, strong, **OPTIONS)
    with pytest.raises(BadInput, match=r"0\.\.1"):
        gate_6_simple(y + 1, weak, strong, **OPTIONS)


# --- order, reports, thresholds ------------------------------------------------------------------


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


def test_reports_survive_json_and_refuse_another_schema():
    y, weak, strong = world(0.4, 1.0, n=60)
    found = gate_2_control(y, weak, {"minirocket": strong}, **OPTIONS)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert GateReport.from_dict(json.loads(text)) == found
    schema = Draft202012Validator(JSON_SCHEMA)
    assert schema.is_valid(json.loads(text))
    for change, match in (
        ({"schema_version": 2}, "version 2"),
        ({"schema_version": None}, "version None"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"verdict": "maybe"}, "maybe"),
        ({"gate": 8}, "gate is 8"),
        ({"gate": True}, "gate is True"),
        ({"reasons": []}, "no reason"),
    ):
        with pytest.raises(BadInput, match=match):
            GateReport.from_dict(found.to_dict() | change)
        assert not schema.is_valid(json.loads(text) | change)
    short = found.to_dict()
    del short["figures"]
    with pytest.raises(BadInput, match="lacks key 'figures'"):
        GateReport.from_dict(short)


def test_reports_refuse_nan():
    with pytest.raises(BadInput, match=r"figures\.a\.b\[1\] is nan"):
        GateReport(
            gate=1,
            name="x",
            question="?",
            verdict="passed",
            figures={"a": {"b": [1.0, float("nan")]}},
            reasons=("because",),
        )


def test_blocked_and_deferred_reports():
    assert blocked(3, "why").to_dict()["name"] == "encoder"
    assert deferred("promotion", "why").verdict == "deferred"


def test_thresholds_load_override_and_digest(tmp_path):
    own = Thresholds.load()
    assert own.confidence == 0.95
    assert len(own.digest()) == 64
    path = tmp_path / "gates.yaml"
    path.write_text("max_accuracy_loss: 0.01\nmin_probe_accuracy: 1\n")
    other = Thresholds.load(path)
    assert other == replace(own, max_accuracy_loss=0.01, min_probe_accuracy=1)
    assert other.digest() != own.digest()
    assert replace(own, min_probability_std=0).digest() == replace(
        own, min_probability_std=0.0
    ).digest()  # fmt: skip


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("max_acuracy_loss: 0.01", "Did you mean 'max_accuracy_loss'"),
        ("confidence: 1.0", "confidence is 1.0"),
        ("confidence: .nan", "confidence is nan"),
        ("num_resamples: 10", "num_resamples is 10"),
        ("- 1", "holds list"),
        ("a: [", "not YAML"),
    ],
)
def test_thresholds_refuse(tmp_path, text, match):
    path = tmp_path / "gates.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        Thresholds.load(path)
    with pytest.raises(ConfigError, match="does not exist"):
        Thresholds.load(tmp_path / "absent.yaml")


def test_evaluate_config():
    assert EvaluateConfig.from_mapping({"seeds": [1, 2]}).seeds == (1, 2)
    assert EvaluateConfig(gates=(4, 0, 4)).gates == (0, 4)
    for bad in ({"seeds": []}, {"seeds": [1, 1]}, {"seeds": [-1]}, {"gates": [8]}):
        with pytest.raises(ConfigError):
            EvaluateConfig(**bad)
