"""The paired difference of two models on the same rows, whatever they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from moola.errors import BadInput
from moola.evaluation.mean_interval import mean_interval
from moola.evaluation.rows import LOSSES, loss_difference

RNG = np.random.default_rng(7)


def test_independent_rows_are_student_s_t_where_nothing_is_skewed() -> None:
    half = RNG.normal(size=30)
    values = np.concatenate([half, -half]) - 0.4  # symmetric about its mean
    delta = loss_difference(values, np.zeros(60), metric="mae")
    low, high = stats.t.interval(0.95, 59, loc=values.mean(), scale=stats.sem(values))
    assert (delta.low, delta.high) == (pytest.approx(low), pytest.approx(high))
    assert delta.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert delta.superior
    assert not delta.inferior


def test_a_skewed_difference_is_wider_on_its_long_side() -> None:
    values = RNG.exponential(size=200) - 1.2
    delta = loss_difference(values, np.zeros(200), metric="log_loss")
    assert delta.low is not None
    assert delta.high is not None
    assert delta.estimate is not None
    assert delta.high - delta.estimate > delta.estimate - delta.low


def test_rows_of_one_cluster_count_once() -> None:
    values = RNG.normal(size=40) - 0.3
    once = loss_difference(values, np.zeros(40), metric="mse")
    ten = loss_difference(
        np.repeat(values, 10), np.zeros(400), metric="mse", clusters=np.repeat(np.arange(40), 10)
    )
    assert (ten.low, ten.high) == (pytest.approx(once.low), pytest.approx(once.high))
    naive = loss_difference(np.repeat(values, 10), np.zeros(400), metric="mse")
    assert naive.high is not None
    assert ten.high is not None
    assert naive.high < ten.high


def test_names_of_clusters_may_be_anything_in_any_order() -> None:
    values, names = RNG.normal(size=60), np.repeat([f"c{k}" for k in range(20)], 3)
    shuffled = RNG.permutation(60)
    first = loss_difference(values, np.zeros(60), metric="mae", clusters=names)
    second = loss_difference(values[shuffled], np.zeros(60), metric="mae", clusters=names[shuffled])
    assert second.high == pytest.approx(first.high)


def test_rows_in_time_are_judged_by_what_they_remember() -> None:
    path = np.zeros(300)
    for k in range(1, 300):
        path[k] = 0.8 * path[k - 1] + RNG.normal()
    delta = loss_difference(path, np.zeros(300), metric="mae", in_time=True)
    independent = loss_difference(path, np.zeros(300), metric="mae")
    assert delta.high is not None
    assert independent.high is not None
    assert delta.high - path.mean() > 1.5 * (independent.high - path.mean())
    plain = mean_interval(path, block_length=1, horizons_apart=True, skewed=True)
    assert plain.high is not None
    assert delta.high >= plain.high


def test_few_clusters_and_equal_models_have_no_verdict() -> None:
    values = RNG.normal(size=90)
    few = loss_difference(values, np.zeros(90), metric="mae", clusters=np.arange(90) // 10)
    assert few.low is None
    assert not (few.superior)
    assert not (few.inferior)
    assert not (few.non_inferior)
    assert "worth 9.0 of equal size" in str(few.reason)
    same = loss_difference(values, values, metric="mae")
    assert same.reason == "the differences do not vary"
    assert not same.superior


def test_a_margin_makes_non_inferior_and_equivalent() -> None:
    values = RNG.normal(scale=0.01, size=400)
    delta = loss_difference(values, np.zeros(400), metric="mae", margin=0.01)
    assert delta.non_inferior
    assert delta.equivalent
    assert not delta.superior


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"candidate": np.full(20, np.nan)}, "20 of the candidate's 20 losses are not finite"),
        ({"candidate": np.ones(5)}, r"losses have shape \(5,\)"),
        ({"candidate": np.ones((20, 2))}, r"shape \(20, 2\)"),
        ({"margin": -0.1}, "margin is -0.1"),
        ({"margin": math.nan}, "margin is nan"),
        ({"clusters": np.arange(20), "in_time": True}, "clusters are named beside time"),
        ({"clusters": np.arange(3)}, r"clusters have shape \(3,\)"),
        ({"confidence": 1.0}, "confidence is 1"),
    ],
)
def test_bad_input_is_refused(arguments: dict, words: str) -> None:
    options = {"candidate": np.ones(20), "rival": np.zeros(20), "metric": "mae", **arguments}
    with pytest.raises(BadInput, match=words):
        loss_difference(**options)


def test_losses_by_hand() -> None:
    y = np.array([0, 1, 1])
    proba = np.array([[0.8, 0.2], [0.6, 0.4], [0.0, 1.0]])
    assert LOSSES["log_loss"](y, proba) == pytest.approx([-math.log(0.8), -math.log(0.4), 0.0])
    assert LOSSES["brier"](y, proba) == pytest.approx([0.08, 0.72, 0.0])
    assert LOSSES["accuracy"](y, proba).tolist() == [0.0, 1.0, 0.0]
    numbers, answers = np.array([1.0, 2.0]), np.array([1.5, 0.0])
    assert LOSSES["mae"](numbers, answers).tolist() == [0.5, 2.0]
    assert LOSSES["mse"](numbers, answers).tolist() == [0.25, 4.0]
    assert LOSSES["pinball"](numbers, answers).tolist() == [0.25, 1.0]
    assert np.isfinite(LOSSES["log_loss"](np.array([0]), np.array([[0.0, 1.0]]))).all()
