"""Other projects' own checks of an estimator, and published figures."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.utils.estimator_checks import check_estimator as check_sklearn

from moola.errors import BadInput, ConfigError
from moola.models import get_model
from moola.models.controls.benchmark_ucr import PUBLISHED, UcrResult, bench_ucr, shipped_sets
from moola.models.sktime import MoolaClassifier

_TOO_FEW = "ten windows in an order that leaves no forward-chaining fold with both classes"
EXPECTED_FAILURES = {
    "stack": {
        "check_positive_only_tag_during_fit": _TOO_FEW,
        "check_estimators_nan_inf": _TOO_FEW,
    }
}


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("logreg", {}),
        pytest.param("rf", {"num_trees": 5}, marks=pytest.mark.slow),
        pytest.param("hgb", {"max_trees": 5, "gap_windows": 2}, marks=pytest.mark.slow),
        pytest.param("xgb", {"num_trees": 5}, marks=pytest.mark.slow),
        pytest.param("stack", {"gap_windows": 2}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass(name: str, params: dict[str, Any]) -> None:
    if name == "xgb":
        pytest.importorskip("xgboost")
    expected = EXPECTED_FAILURES.get(name, {})
    results = check_sklearn(
        get_model(name, **params), expected_failed_checks=expected, on_skip=None
    )
    failed = {r["check_name"] for r in results if r["status"] == "xfail"}
    assert failed == set(expected)
    assert sum(r["status"] == "passed" for r in results) >= 50


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(params, id=params["model"], marks=marks)
        for params, marks in zip(
            MoolaClassifier.get_test_params(), (pytest.mark.slow, ()), strict=True
        )
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_sktimes_checks_pass(params: dict[str, Any]) -> None:
    from sktime.utils.estimator_checks import check_estimator

    results = check_estimator(MoolaClassifier(**params), verbose=False)
    assert {k: v for k, v in results.items() if v != "PASSED"} == {}
    assert len(results) > 100


def test_the_adapter_names_its_limits() -> None:
    from test_models import windows

    X, y = windows(40)
    X_NCT = X.transpose(0, 2, 1)
    with pytest.raises(ConfigError, match="model logreg is used with input_kind 'series'"):
        MoolaClassifier("logreg").fit(X_NCT, y)
    flat = MoolaClassifier("logreg", {"gap_windows": 1}, input_kind="ohlc").fit(X_NCT, y)
    own = get_model("logreg", gap_windows=1).fit(X, y)
    assert (flat.predict_proba(X_NCT) == own.predict_proba(X)).all()
    assert MoolaClassifier(random_state=5).fit(X_NCT, y).estimator_.seed == 5


def test_a_ucr_set_by_name() -> None:
    assert {name for sets in PUBLISHED.values() for name in sets} <= set(shipped_sets())
    with pytest.raises(ConfigError, match="set is 'FordA'; expected one of ACSF1"):
        bench_ucr(["FordA"])
    seen: list[tuple[str, int, int]] = []
    (found,) = bench_ucr(
        ["UnitTest"], seeds=(0,), num_kernels=84, on_done=lambda *done: seen.append(done)
    )
    assert (found.num_train, found.num_test, found.num_bars) == (20, 22, 24)
    assert (found.num_classes, found.published) == (2, None)
    assert found.accuracy > 0.8
    assert found.holds
    assert seen == [("UnitTest", 1, 1)]


def test_a_result_holds_within_two_points() -> None:
    shape: dict[str, Any] = {"num_train": 1, "num_test": 1, "num_classes": 2, "num_bars": 9}
    near = UcrResult(name="x", accuracies=(0.89, 0.91), published=0.885, **shape)
    far = UcrResult(name="x", accuracies=(0.89, 0.91), published=0.93, **shape)
    assert near.accuracy == pytest.approx(0.90)
    assert near.holds
    assert not far.holds


def test_resamples_have_their_own_chance() -> None:
    shape: dict[str, Any] = {"num_train": 1, "num_test": 1, "num_classes": 2, "num_bars": 9}
    found = UcrResult(
        name="x", accuracies=(0.84, 0.88, 0.86, 0.86), published=0.89, resampled=True, **shape
    )
    assert found.slack == pytest.approx(0.02 + 2 * (0.0008 / 3) ** 0.5 / 4**0.5)
    assert found.holds
    assert not replace(found, published=0.91).holds
    assert not replace(found, resampled=False).holds


def test_quant_on_a_small_set() -> None:
    with pytest.raises(ConfigError, match="model is 'rf'; expected one of minirocket, quant"):
        bench_ucr(["UnitTest"], model="rf")
    (found,) = bench_ucr(["GunPoint"], model="quant", seeds=(0,))
    assert found.holds
    assert found.published == 0.9867


@pytest.mark.slow
@pytest.mark.parametrize("model", PUBLISHED)
def test_a_control_has_the_published_accuracy(model: str) -> None:
    results = bench_ucr(model=model)
    assert [found.name for found in results] == list(PUBLISHED[model])
    assert all(found.holds for found in results), {f.name: f.accuracies for f in results}


def test_moola_models_prints_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    from moola.cli import main

    with pytest.raises(SystemExit) as stopped:
        main(["models", "--json"])
    assert stopped.value.code == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) == 15
    # BiLSTM 9728, attention 12480 + 4160, norm 128, feature MLP 3424, classifier 3104 + 66
    assert rows["enhanced_simple_lstm"]["parameters_compact"] == 33_090
    with pytest.raises(SystemExit):
        main(["models"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in rows)
    assert f"{rows['enhanced_simple_lstm']['parameters']:,}" in shown


OHLC = ["open", "high", "low", "close"]


def panel(X_NTC: np.ndarray, names: list[Any], kind: str = "rows") -> Any:
    """Return windows as a frame of sktime's: rows (instance, time), or a column a channel."""
    if kind == "list":
        return [pd.DataFrame(x, columns=names) for x in X_NTC]
    if kind == "nested":
        return pd.DataFrame(
            {name: [pd.Series(x[:, c]) for x in X_NTC] for c, name in enumerate(names)}
        )
    num, bars = X_NTC.shape[:2]
    index = pd.MultiIndex.from_product([range(num), range(bars)], names=["window", "bar"])
    return pd.DataFrame(X_NTC.reshape(num * bars, -1), index=index, columns=names)


@pytest.mark.parametrize("kind", ["rows", "nested", "list"])
def test_channels_are_told_by_name_in_any_order(kind: str) -> None:
    from test_models import windows

    X, y = windows(60)
    order = [3, 0, 2, 1]
    other = panel(X[..., order], [["Open", "HIGH", "low", "close"][i] for i in order], kind)
    for options in (
        {"model": "logreg", "config": {"gap_windows": 1}},
        {"config": {"num_kernels": 84}},
    ):
        price = MoolaClassifier(**options, input_kind="ohlc", random_state=0)
        wanted = price.clone().fit(X.transpose(0, 2, 1), y).predict_proba(X.transpose(0, 2, 1))
        assert (price.clone().fit(panel(X, OHLC, kind), y).predict_proba(other) == wanted).all()
        assert (price.clone().fit(other, y).predict_proba(X.transpose(0, 2, 1)) == wanted).all()
    net = MoolaClassifier("simple_lstm", {"n_epochs": 2, "hidden_size": 4}, random_state=0)
    names = ["a", "b", "c", "d"]
    fitted = net.clone().fit(panel(X, names, kind), y)
    wanted = fitted.predict_proba(panel(X, names, kind))
    mixed = panel(X[..., order], [names[i] for i in order], kind)
    assert (fitted.predict_proba(mixed) == wanted).all()
    assert fitted.channels_ == names


def test_channels_that_cannot_be_told_are_refused() -> None:
    from test_models import windows

    X, y = windows(60)
    price = MoolaClassifier("logreg", {"gap_windows": 1}, input_kind="ohlc")
    for names in (["a", "b", "c", "d"], [3, 1, 2, 0], ["open", "high", "low", "Open"]):
        with pytest.raises(BadInput, match="open, high, low, close in any order"):
            price.clone().fit(panel(X, names), y)
    made_up = price.clone().fit(panel(X, ["var_0", "var_1", "var_2", "var_3"]), y)
    with pytest.raises(BadInput, match="channels are"):
        made_up.predict(panel(X, ["var_3", "var_1", "var_2", "var_0"]))
    series = MoolaClassifier(config={"num_kernels": 84})
    named = series.clone().fit(panel(X, ["a", "b", "c", "d"]), y)
    with pytest.raises(BadInput, match=r"names in fit and none in predict.*columns"):
        named.predict(X.transpose(0, 2, 1))
    with pytest.raises(BadInput, match="those of fit"):
        named.predict_proba(panel(X, ["a", "b", "c", "e"]))
    with pytest.raises(BadInput, match="names in predict and none in fit"):
        series.clone().fit(X.transpose(0, 2, 1), y).predict(panel(X, ["a", "b", "c", "d"]))
    one = series.clone().fit(panel(X[..., 3:], ["close"]), y)
    assert one.predict(X[..., 3:].transpose(0, 2, 1)).shape == y.shape
