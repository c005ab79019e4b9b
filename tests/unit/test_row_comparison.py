"""Metrics, answers and verdict words of two versions on the same rows."""

# ruff: noqa: E501  (bodies of models are one line)
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moola.errors import BadInput, ConfigError, DataError
from moola.evaluation.row_comparison import judged, row_losses, row_metric
from moola.steps.compare import read_rows

Y = np.array([0, 1, 1, 0])
HALF = np.full((4, 2), 0.5)


def losses(metric: str, values: object, y: object = Y, classes: object = None) -> np.ndarray:
    return row_losses(row_metric(metric), np.asarray(y), np.asarray(values), classes, what="m/1")  # type: ignore[arg-type]


def test_losses_by_hand() -> None:
    assert losses("log_loss", HALF) == pytest.approx([math.log(2)] * 4)
    assert losses("brier", HALF) == pytest.approx([0.5] * 4)
    assert losses("accuracy", [0.0, 1.0, 0.0, 0.0]).tolist() == [0, 0, 1, 0]
    assert losses("mae", [0.0, 1.0, 3.0, 0.0]).tolist() == [0, 0, 2, 0]
    assert losses("mse", [0.0, 1.0, 3.0, 0.0]).tolist() == [0, 0, 4, 0]
    assert losses("pinball:0.9", [0.0, 0.0, 2.0, 0.0]) == pytest.approx([0, 0.9, 0.1, 0])


def test_a_probability_of_zero_is_clipped() -> None:
    sure = np.array([[0.0, 1.0]] * 4)
    assert losses("log_loss", sure)[0] == pytest.approx(-math.log(1e-15))


def test_columns_are_the_classes_that_the_model_names() -> None:
    values = [[0.9, 0.1]] * 4
    no, yes = losses("log_loss", values, ["no", "yes", "yes", "no"], ("yes", "no"))[:2]
    assert (no, yes) == pytest.approx((-math.log(0.1), -math.log(0.9)))
    assert losses("accuracy", values, ["no", "yes", "yes", "no"], ("yes", "no")).sum() == 2
    assert losses("log_loss", [0.2, 0.8, 0.8, 0.2], [False, True, True, False]) == pytest.approx(
        [-math.log(0.8)] * 4
    )


@pytest.mark.parametrize(
    ("metric", "values", "y", "classes", "words"),
    [
        ("log_loss", [0.0, 1.0, 1.0, 0.0], Y, None, "labels, not probabilities"),
        ("log_loss", HALF * 3, Y, None, "no probabilities"),
        ("log_loss", HALF, [0, 1, 2, 0], None, "2 columns for 3 classes"),
        ("log_loss", HALF, [0, 1, 2, 0], (0, 1), "does not know"),
        ("log_loss", [[math.nan, 1]] * 4, Y, None, "not finite"),
        ("log_loss", np.array([["a", "b"]] * 4), Y, None, "no probabilities"),
        ("mae", np.array(["a"] * 4), Y, None, "one number a row"),
        ("mae", HALF, Y, None, "one number a row"),
        ("log_loss", np.full((1200, 2), 0.5), np.arange(1200), None, "1200 different values"),
    ],
)
def test_answers_that_do_not_fit(
    metric: str, values: object, y: object, classes: object, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        losses(metric, values, y, classes)


@pytest.mark.parametrize(
    "text", ["logloss", "pinball:1", "pinball:x", "os:nothing", "no_such:f", "os:sep", ":f", "pinball:QUANTILE"]
)  # fmt: skip
def test_metrics_that_do_not_exist(text: str) -> None:
    with pytest.raises(ConfigError):
        row_metric(text)


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metric.py").write_text(
        "def cost(y, p):\n    return 5.0 * abs(y - p)\n"
        "def short(y, p):\n    return [1.0]\n"
        "def broken(y, p):\n    raise KeyError('x')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert losses("own_metric:cost", [1.0, 1.0, 1.0, 1.0]).tolist() == [5, 0, 0, 5]
    for name in ("short", "broken"):
        with pytest.raises(ConfigError, match=name):
            losses(f"own_metric:{name}", [1.0] * 4)


def verdict(shift: float, **asked: object) -> str:
    rng = np.random.default_rng(5)
    other = rng.normal(1, 0.1, 400)
    own = other + shift + rng.normal(0, 0.05, 400)
    facts = judged(own, other, metric="mae", identical=False, **asked)  # type: ignore[arg-type]
    return str(facts["verdict"])


def test_verdict_words() -> None:
    wide = {"kind": "non-inferior", "margin": 0.05}
    assert verdict(-0.1) == "better"
    assert verdict(0.1) == "worse"
    assert verdict(0.0) == "not shown"
    assert verdict(0.0, **wide) == "non-inferior"
    assert verdict(0.1, **wide) == "worse"
    assert verdict(-0.1, **wide) == "better"


def test_identical_answers_are_never_better() -> None:
    same = np.ones(50)
    facts = judged(same, same, metric="mae", identical=True)
    assert (facts["verdict"], facts["low"]) == ("not shown", None)
    assert "same on every row" in facts["reason"]


def test_a_later_look_has_a_wider_interval() -> None:
    rng = np.random.default_rng(6)
    one, two = rng.normal(size=(2, 200))
    first, tenth = (judged(one, two, metric="mae", identical=False, look=k) for k in (1, 10))
    assert (first["level"], tenth["level"]) == (0.95, pytest.approx(1 - 0.1 / 110))
    assert tenth["high"] - tenth["low"] > first["high"] - first["low"]
    with pytest.raises(BadInput, match="look"):
        judged(one, two, metric="mae", identical=False, look=0)
    with pytest.raises(BadInput, match="margin"):
        judged(one, two, metric="mae", identical=False, kind="non-inferior")


def test_clusters_are_counted() -> None:
    rng = np.random.default_rng(7)
    one, two = rng.normal(size=(2, 200))
    facts = judged(one, two, metric="mae", identical=False, clusters=np.arange(200) // 4)
    assert (facts["clusters"], facts["rows"]) == (50, 200)
    ordered = judged(one, two, metric="mae", identical=False, in_time=True)
    assert 0 < ordered["effective_rows"] <= 200


@pytest.mark.parametrize(
    ("text", "roles", "words"),
    [
        ("a,y\n1,0\n", {}, "1 rows"),
        ("a,a,y\n" + "1,2,0\n" * 20, {}, "twice"),
        ("a,y\n" + "1,\n" * 20, {}, "20 of 20 rows have no value"),
        ("a,b\n" + "1,0\n" * 20, {}, "no column 'y'"),
        ("y\n" + "1\n" * 20, {}, "no column of features"),
        ("a,y\n" + "1,0\n" * 20, {"group": "y"}, "two roles"),
        ("a,t,y\n" + "1,noon,0\n" * 20, {"time": "t"}, "no times"),
        ("", {}, "no column 'y'|cannot be read"),
        ("\x00\xff" * 9, {}, "no column 'y'|cannot be read"),
    ],
)
def test_tables_that_cannot_be_used(
    text: str, roles: dict[str, str], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=words):
        read_rows(path, target="y", **roles)


def test_rows_are_put_in_time_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    table = pd.DataFrame({"a": range(12), "t": range(12, 0, -1), "y": 0.5})
    table["t"] = [f"2024-01-{day:02d}" for day in table["t"]]
    table.to_csv(path, index=False)
    assert read_rows(path, target="y", time="t")["a"].tolist() == list(range(11, -1, -1))
    with pytest.raises(DataError, match="does not exist"):
        read_rows(tmp_path / "none.csv", target="y")
