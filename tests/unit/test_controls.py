"""The controls of gate 2 beside MiniRocket and logistic regression: boosting, QUANT, Hydra."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from test_models import windows

from moola.config.evaluation import CONTROLS, FURTHER_CONTROLS
from moola.errors import BadInput
from moola.models import REGISTRY, get_model
from moola.models.controls.hydra import competing, draw_competing
from moola.models.controls.linear_head import LinearHead
from moola.models.controls.quant import interval_quantiles, intervals, representations
from moola.models.controls.trees import BoostedTreesModel


def test_every_control_is_a_model_without_an_encoder_or_epochs() -> None:
    for name in (*CONTROLS, *FURTHER_CONTROLS):
        assert not REGISTRY[name].is_net
        assert not REGISTRY[name].takes_encoder


@pytest.mark.parametrize("num_classes", [2, 3])
def test_boosted_trees_answer_as_scikit_learns_own(num_classes: int) -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 6))
    y = (X[:, 0] * X[:, 1] + 0.3 * rng.normal(size=300) > 0).astype(int)
    y += (num_classes == 3) * (X[:, 2] > 0.5).astype(int)
    model = BoostedTreesModel(gap_windows=2, max_trees=30, learning_rate=0.2).fit(X, y)
    num_trees = len(model.trees_.roots) // (1 if num_classes == 2 else 3)
    assert 1 <= num_trees <= 30
    own = HistGradientBoostingClassifier(
        max_iter=num_trees, learning_rate=0.2, max_leaf_nodes=4, min_samples_leaf=10,
        l2_regularization=1.0, early_stopping=False,
    )  # fmt: skip
    assert np.allclose(model.predict_proba(X), own.fit(X, y).predict_proba(X), atol=1e-9)


def test_as_many_trees_as_the_past_says() -> None:
    rng = np.random.default_rng(2)
    X, noise = rng.normal(size=(400, 8)), rng.integers(0, 2, 400)
    nothing = BoostedTreesModel(gap_windows=2).fit(X, noise)
    something = BoostedTreesModel(gap_windows=2).fit(X, (X[:, 0] * X[:, 1] > 0).astype(int))
    assert len(nothing.trees_.roots) < 20  # nothing to learn: hardly a tree
    assert len(something.trees_.roots) > 50
    few = BoostedTreesModel(max_trees=40).fit(X[:12], noise[:12])
    assert len(few.trees_.roots) == 10  # no fold: a quarter


def test_intervals_are_dyadic_and_shifted_by_half() -> None:
    assert intervals(8, 1) == [(0, 8)]
    assert intervals(8, 2) == [(0, 8), (0, 4), (4, 8), (2, 6)]
    assert intervals(8, 9)[-8:] == [(i, i + 1) for i in range(8)]  # single values, not shifted
    for length in range(4, 130):
        found = intervals(length, 6)
        assert all(0 <= begin < end <= length for begin, end in found)
        assert [found[1][0], found[2][1]] == [0, length]
        assert all(a[1] == b[0] for a, b in pairwise(found[1:3]))


def test_quantiles_of_an_interval_by_hand() -> None:
    values = np.array([[[5.0, 1.0, 4.0, 2.0, 3.0]]])
    whole = interval_quantiles(values, depth=1, per_quantile=2)
    assert whole.tolist() == [[1.0, 3.0 - 3.0, 5.0]]  # every second less the mean
    assert interval_quantiles(values, depth=1, per_quantile=9).tolist() == [[3.0]]  # the median
    rng = np.random.default_rng(3)
    values = rng.normal(size=(3, 2, 29))
    found = interval_quantiles(values, depth=3, per_quantile=4)
    expected = []
    for begin, end in intervals(29, 3):
        inside = values[:, :, begin:end]
        q = np.quantile(inside, np.linspace(0, 1, 1 + (end - begin - 1) // 4), axis=2)
        q[1::2] -= inside.mean(axis=2)
        expected.append(q.transpose(1, 2, 0).reshape(3, -1))
    assert np.allclose(np.sort(found), np.sort(np.concatenate(expected, axis=1)))


def test_representations_by_hand() -> None:
    ramp = np.arange(8.0)[None, None] ** 2
    same, first, second, spectrum = representations(ramp)
    assert (same is ramp, first.shape, second.tolist()) == (True, (1, 1, 7), [[[2.0] * 6]])
    assert first[0, 0, 3] == pytest.approx(np.mean(np.diff(ramp[0, 0])[1:6]))
    assert first[0, 0, 0] == pytest.approx((1 + 1 + 1 + 3 + 5) / 5)  # edges are repeated
    assert np.allclose(spectrum, np.abs(np.fft.rfft(ramp)))


def test_competing_kernels_by_hand() -> None:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(2, 3, 20))
    drawn = draw_competing(3, 20, seed=5)
    kernels, channels = drawn["competing_kernels"], drawn["competing_channels"]
    assert kernels.shape == (2, 2, 32, 8, 9)  # dilations 1 and 2
    assert np.allclose(kernels.mean(axis=-1), 0, atol=1e-7)
    assert np.allclose(np.abs(kernels).sum(axis=-1), 1, atol=1e-6)
    found = competing(X, drawn).reshape(2, 2, 2, 2, 32, 8)  # dilation, which, sums or counts
    level, group, dilation = 1, 7, 2
    series = np.pad(np.diff(X, axis=2)[0][channels[level, 1, group]].sum(axis=0), 4 * dilation)
    answers = np.array(
        [
            [series[t : t + 9 * dilation : dilation] @ kernel for t in range(19)]
            for kernel in kernels[level, 1, group]
        ]
    )
    counts = np.bincount(answers.argmin(axis=0), minlength=8)
    sums = np.bincount(answers.argmax(axis=0), answers.max(axis=0), minlength=8)
    assert np.allclose(found[0, level, 1, 1, group] ** 2, counts, atol=1e-5)
    assert np.allclose(found[0, level, 1, 0, group] ** 2, np.maximum(sums, 0), atol=1e-4)


def test_a_head_of_many_columns_is_the_ridge_it_says() -> None:
    rng = np.random.default_rng(6)
    X = rng.normal(size=(60, 300))
    y = (X[:, :20].sum(axis=1) > 0).astype(int)
    wide = LinearHead.fit_wide(X, y, penalties=(3.0,), folds=())
    own = LogisticRegression(C=3.0 / 300, max_iter=10_000, tol=1e-10).fit(X, y)
    assert np.allclose(wide.proba(X), own.predict_proba(X), atol=1e-3)


@pytest.mark.parametrize(
    "name", ["quant", pytest.param("hydra_multirocket", marks=pytest.mark.slow)]
)
def test_windows_as_they_are(name: str) -> None:
    X, y = windows(60)
    model = get_model(name, **({"num_kernels": 84} if name == "hydra_multirocket" else {}))
    with pytest.raises(BadInput, match=f"features are given to {name}"):
        model.fit(X, y, features=np.zeros((60, 3)))
    with pytest.raises(BadInput, match=f"windows have 3 bars; expected at least .* for {name}"):
        model.fit(X[:, :3], y)
    model.fit(X, y)
    assert (model.predict(X) == y).mean() > 0.9  # their last quarter is wide or narrow
    model.set_params(input_kind="series").fit(X, y)
    assert (model.predict(X) == y).mean() > 0.9
