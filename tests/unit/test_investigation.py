"""The investigation after a control has won: windows in dispute, labels, features."""

from __future__ import annotations

import numpy as np
import pytest

from moola.data.audit.trail import AuditTrail, Check
from moola.errors import BadInput
from moola.evaluation.gates.report import report
from moola.evaluation.pages.disagreement import candles_figure, most_disagreed
from moola.evaluation.pages.investigation import (
    investigation_markdown,
    label_balance,
    shuffled_importance,
)
from moola.evaluation.pages.plots import figure_to_png


def column(p: list[float]) -> np.ndarray:
    return np.column_stack([1 - np.array(p), p])


def test_most_disagreed_windows_lie_apart() -> None:
    first = column([0.5, 0.9, 0.9, 0.5, 0.5, 0.6])
    second = column([0.5, 0.1, 0.2, 0.5, 0.5, 0.5])
    assert most_disagreed(first, second, num=2, apart=2).tolist() == [1, 5]
    assert most_disagreed(first, second, num=2, apart=1).tolist() == [1, 2]
    assert len(most_disagreed(first, second, num=9, apart=3)) == 2
    with pytest.raises(BadInput, match="shapes"):
        most_disagreed(first, second[:3], num=1, apart=1)
    with pytest.raises(BadInput, match="num is 0"):
        most_disagreed(first, second, num=0, apart=1)


def test_candles_show_body_and_wick() -> None:
    window = [[1.0, 4.0, 0.5, 3.0], [3.0, 3.5, 1.0, 2.0], [2.0, 2.0, 2.0, 2.0]]
    figure = candles_figure(window, "window 7")
    bars = figure.axes[0].patches
    assert [round(b.get_y(), 3) for b in bars] == [1.0, 2.0, 2.0]
    assert [round(b.get_height(), 3) for b in bars] == [2.0, 1.0, 0.007]
    assert bars[0].get_facecolor() != bars[1].get_facecolor()  # up, down
    wicks = figure.axes[0].collections[0].get_segments()
    assert [s[:, 1].tolist() for s in wicks] == [[0.5, 4.0], [1.0, 3.5], [2.0, 2.0]]
    assert figure_to_png(figure)[:4] == b"\x89PNG"
    with pytest.raises(BadInput, match=r"\(3, 3\)"):
        candles_figure(np.ones((3, 3)), "")


def test_label_balance_by_hand() -> None:
    times = np.datetime64("2019-01-01T00") + np.arange(6) * np.timedelta64(24, "h")
    one, two = label_balance([0, 0, 1, 1, 1, 1], times, 2, num_periods=2)
    assert (one.first, one.last, one.num_windows) == ("2019-01-01", "2019-01-03", 3)
    assert one.shares == pytest.approx((2 / 3, 1 / 3))
    assert two.shares == (0.0, 1.0)
    assert len(label_balance([0, 1], times[:2], 2)) == 2
    with pytest.raises(BadInput, match="shapes"):
        label_balance([], [], 2)


def test_the_page_names_the_carrying_feature_and_the_failed_check() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(400, 3))
    y = (matrix[:, 1] + 0.3 * rng.normal(size=400) > 0).astype(int)
    model = LogisticRegression().fit(matrix[:200], y[:200])
    importance = shuffled_importance(model, matrix[200:], y[200:], ["a", "b", "c"], seed=0)
    assert importance[0].feature == "b"
    assert importance[0].rise > 1.0
    assert abs(importance[1].rise) < 0.1
    times = np.datetime64("2019-01-01T00") + np.arange(400) * np.timedelta64(6, "h")
    page = investigation_markdown(
        report(2, "failed", ("STOP: logreg is better in log-loss",)),
        title="EnhancedSimpleLSTM version 3",
        class_names=("calm", "wild"),
        balance=label_balance(y, times, 2),
        pictures={"window 7": "investigation/window-7.png"},
        audit=AuditTrail(
            checks=(Check(name="no shared bars", passed=False, detail="windows 3, 4"),), facts={}
        ),
        importance=importance,
    )
    for text in (
        "# Investigation: a control beats EnhancedSimpleLSTM version 3",
        "- STOP: logreg is better in log-loss.",
        "| from | to | windows | calm | wild |\n| --- | --- | --- | --- | --- |",
        "![candles](investigation/window-7.png)\n\nwindow 7",
        "**no shared bars** failed: windows 3, 4",
        "| b | +",
        "1. Mend the failed audit checks first",
    ):
        assert text in page
