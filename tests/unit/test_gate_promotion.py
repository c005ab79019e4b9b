"""The promotion gate: better than the champion, or as good and better calibrated; looks counted."""

from dataclasses import replace

import numpy as np
import pytest
from gates_kit import CONTEXT, LIMITS, half, world

from moola.errors import BadInput
from moola.evaluation.gates import CLASS_PRIOR, gate_promotion, promotion_prerequisites
from moola.evaluation.gates.promotion import look_confidence

PASSED = dict.fromkeys(range(6), "passed")


def promote(y, candidate, champion, name="version 3", verdicts=PASSED, **options):
    base = {"uses_encoder": False, "uses_synthetic": False, "context": CONTEXT}
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
    found = promote(y, candidate, off, context=replace(CONTEXT, thresholds=wide))
    assert found.verdict == "passed"
    equal = promote(y, candidate, champion, context=replace(CONTEXT, thresholds=wide))
    assert equal.verdict == "inconclusive"
    assert "not shown to be better" in equal.reasons[0]


def test_against_the_class_prior_only_better_counts():
    y, weak, strong = world(0.12, 0.8, n=240, seed=4)
    prior = half(y)
    assert promote(y, strong, prior, CLASS_PRIOR).verdict == "passed"
    found = promote(y, weak, prior, CLASS_PRIOR)
    assert found.verdict == "inconclusive"
    assert found.reasons[0].startswith("not shown to be better than class prior")
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
    found = promote(y, candidate, prior, CLASS_PRIOR, context=replace(CONTEXT, thresholds=wide))
    assert found.figures["delta_log_loss"]["estimate"] < 0
    assert found.figures["delta_ece"]["high"] < 0
    assert found.verdict == "inconclusive"
    champion = promote(y, candidate, prior, prior=prior, context=replace(CONTEXT, thresholds=wide))
    assert champion.verdict == "inconclusive"  # nor over a champion that knows no more
    assert champion.reasons[0].startswith("not shown to know more than how often each class occurs")


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
    assert once.figures["confidence"] == pytest.approx(0.975)  # two ways to pass share .05
    assert often.figures["confidence"] == pytest.approx(1 - 0.05 / 110)
    prior = np.full((len(y), 2), 0.5)
    first = promote(y, strong, prior, name=CLASS_PRIOR)
    assert first.figures["confidence"] == pytest.approx(0.95)  # better is the only way
    assert "look number 10" in often.reasons[-1]
    with pytest.raises(BadInput, match="num_looks is 0"):
        promote(y, strong, weak, num_looks=0)


def test_all_looks_together_spend_no_more_than_one_error_rate():
    for doors in (1, 2):
        wrong = [  # on the side of better, by any of the ways to pass
            doors * (1 - look_confidence(0.95, k, num_doors=doors)) / 2 for k in range(1, 10_001)
        ]
        assert wrong[:3] == pytest.approx([0.025, 0.05 / 6, 0.05 / 12])
        assert 0.0499 < sum(wrong) <= 0.05


def test_a_copy_of_the_champion_is_not_promoted():
    y, model = world(0.8)
    found = promote(y, model, model.copy())
    assert found.verdict == "failed"
    assert "no effect" in found.reasons[0]
