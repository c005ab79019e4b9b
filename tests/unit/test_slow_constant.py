"""The rival of "knows something": luck of the base rate is no knowledge, drift hides none."""

import numpy as np
import pytest
from gates_kit import LIMITS

from moola.evaluation.gates import CLASS_PRIOR, GateContext, gate_1_baseline, gate_promotion
from moola.evaluation.gates.slow_constant import (
    knowledge,
    label_repeats,
    slow_constant_loss,
    stretches,
)

PASSED = dict.fromkeys(range(8), "passed")


def two(p):
    return np.column_stack([1 - p, p])


def drift(kind, n):
    """How often class 1 occurs in each window, and how often it did in training."""
    time = np.linspace(0, 1, n)
    return {
        "between": (np.full(n, 0.45), 0.6),
        "ramp": (0.3 + 0.4 * time, 0.3),
        "wave": (0.5 + 0.2 * np.sin(2 * np.pi * 2 * time), 0.65),
        "step": (np.where(time < 0.5, 0.35, 0.65), 0.7),
    }[kind]


def verdicts(y, p, prior, block_length=1):
    """Verdicts of gate 1 and of promotion, over the class prior and over a champion."""
    against = np.tile([1 - prior, prior], (y.size, 1))
    context = GateContext(block_length=block_length, thresholds=LIMITS)
    champion = two(np.clip(prior + 0.03 * np.sin(np.arange(y.size)), 0.01, 0.99))
    found = [gate_1_baseline(y, two(p), against, context=context)]
    for name, rival in ((CLASS_PRIOR, against), ("version 3", champion)):
        found.append(
            gate_promotion(
                y, two(p), rival, champion_name=name, gate_verdicts=PASSED, uses_encoder=False,
                uses_synthetic=False, prior=against, context=context,
            )
        )  # fmt: skip
    return [report.verdict for report in found]


@pytest.mark.parametrize("kind", ["between", "ramp", "wave", "step"])
@pytest.mark.parametrize("guess", ["coin", "share so far", "the true share"])
def test_a_guess_of_the_base_rate_passes_nowhere(kind, guess):
    rng = np.random.default_rng(7)
    share, prior = drift(kind, 775)
    y = (rng.random(775) < share).astype(int)
    so_far = np.convolve(np.r_[0, y[:-1]], np.ones(50) / 50)[:775]
    p = {"coin": np.full(775, 0.5), "share so far": so_far, "the true share": share}[guess]
    p = np.clip(p + 0.03 * rng.standard_normal(775), 0.05, 0.95)
    assert "passed" not in verdicts(y, p, prior)


@pytest.mark.parametrize("kind", ["between", "ramp", "wave"])
def test_knowledge_is_seen_through_the_drift(kind):
    rng = np.random.default_rng(8)
    share, prior = drift(kind, 775)
    signal = rng.standard_normal(775)
    p = 1 / (1 + np.exp(-(np.log(share / (1 - share)) + signal)))
    y = (rng.random(775) < p).astype(int)
    assert verdicts(y, p, prior) == ["passed"] * 3


def test_stretches_stay_in_folds_and_hold_enough_windows():
    fold = np.repeat([0, 1, 2], [130, 30, 80])
    found = stretches(fold, 5)
    assert np.bincount(found).tolist() == [44, 43, 43, 30, 40, 40]
    assert np.bincount(stretches(fold, 60)).tolist() == [65, 65, 30, 80]


def test_the_constant_s_optimism_is_given_back():
    """On average the rival's loss is that of the true frequencies, which nobody fitted."""
    rng = np.random.default_rng(0)
    true = np.array([0.2, 0.3, 0.5])
    stretch = np.repeat([0, 1, 2, 3], 50)
    found = [slow_constant_loss(rng.choice(3, 200, p=true), stretch).mean() for _ in range(2000)]
    assert np.mean(found) == pytest.approx(-(true * np.log(true)).sum(), abs=0.002)


def test_one_class_in_a_stretch_costs_nothing_and_is_no_error():
    y = np.repeat([0, 1], 40)
    np.testing.assert_allclose(slow_constant_loss(y, np.repeat([0, 1], 40)), 0.0, atol=1e-12)
    found = knowledge(
        y, two(np.where(y == 1, 0.9, 0.1)), None, GateContext(block_length=1, thresholds=LIMITS)
    )
    assert found.num_stretches == 2
    assert found.delta.estimate > 0
    assert not found.delta.superior


def test_labels_that_remember_are_worth_fewer_and_drift_is_no_memory():
    rng = np.random.default_rng(1)
    stretch = np.repeat(np.arange(20), 40)
    free = rng.integers(0, 2, 800)
    assert label_repeats(free, stretch) < 1.2
    assert label_repeats(np.repeat(free[:200], 4), stretch) == pytest.approx(4, abs=0.7)
    drifting = (rng.random(800) < np.linspace(0.2, 0.8, 800)).astype(int)
    assert label_repeats(drifting, stretch) < 1.2
    assert label_repeats(np.zeros(80, int), np.repeat([0, 1], 40)) == 1.0


def test_memory_of_labels_does_not_hide_what_a_model_knows():
    rng = np.random.default_rng(2)
    y = np.repeat(rng.integers(0, 2, 200), 4)
    p = 1 / (1 + np.exp(-(0.6 * (2 * y - 1) + rng.standard_normal(800))))
    found = knowledge(y, two(p), None, GateContext(block_length=1, thresholds=LIMITS))
    assert found.num_stretches <= 12  # 20 of at least 40 windows without memory
    assert found.delta.superior
