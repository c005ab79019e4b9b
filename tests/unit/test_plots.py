"""Figures: what reliability, confusion and forest plots show, and that they are reproducible."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure

from moola.errors import BadInput
from moola.evaluation.pages.plots import (
    confusion_figure,
    figure_to_array,
    figure_to_png,
    forest_figure,
    reliability_figure,
)

pytestmark = pytest.mark.medium  # draws


def case(n=60, num_classes=2):
    rng = np.random.default_rng(0)
    return np.arange(n) % num_classes, rng.dirichlet(np.ones(num_classes), n)


def test_reliability_shows_the_points_of_the_bins_and_each_class():
    from moola.evaluation.calibration import calibration_bins

    y, proba = case(num_classes=3)
    figure = reliability_figure(y, proba, "model")
    diagrams = figure.axes[::2]
    assert len(diagrams) == 4
    assert [axes.get_title().splitlines()[0] for axes in diagrams] == [
        "most probable class",
        "class 0",
        "class 1",
        "class 2",
    ]
    bins = calibration_bins(y, proba)
    points = diagrams[0].collections[-1].get_offsets()
    assert np.allclose(points, np.column_stack([bins.predicted, bins.observed]))
    assert "n = 60" in figure.get_suptitle()
    assert len(reliability_figure(y, proba, "model", per_class=False).axes) == 2


def test_confusion_counts_by_hand():
    y = np.array([0, 0, 0, 1, 1])
    proba = np.eye(2)[[0, 0, 1, 1, 0]]
    figure = confusion_figure(y, proba, ["flat", "wide"], "model")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["2\n67%", "1\n33%", "1\n50%", "1\n50%"]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["flat", "wide"]


def test_confusion_of_a_class_that_never_occurs():
    y, proba = np.array([0, 1]), np.eye(3)[[0, 2]]
    texts = [t.get_text() for t in confusion_figure(y, proba, "abc", "model").axes[0].texts]
    assert texts[6:] == ["0\n0%"] * 3


def test_forest_colours_follow_the_better_side():
    from moola.evaluation.pages.plots import BLUE, INK, RED

    intervals = {
        "better": {"estimate": -0.2, "low": -0.3, "high": -0.1},
        "worse": {"estimate": 0.2, "low": 0.1, "high": 0.3},
        "open": {"estimate": 0.0, "low": -0.1, "high": 0.1},
    }
    for better, expected in (("left", [BLUE, RED, INK]), ("right", [RED, BLUE, INK])):
        axes = forest_figure(intervals, "log-loss", better=better).axes[0]
        bars = [line for line in axes.lines if len(line.get_xdata()) == 2][1:]
        assert [line.get_color() for line in bars] == expected
        assert tuple(bars[0].get_xdata()) == (-0.3, -0.1)


def test_forest_copes_with_undefined():
    intervals = {
        "undefined": {"estimate": None, "low": None, "high": None},
        "no interval": {"estimate": 0.1, "low": None, "high": None},
    }
    axes = forest_figure(intervals, "log-loss").axes[0]
    assert [text.get_text().strip() for text in axes.texts] == ["undefined"]


def test_png_and_array_are_of_one_figure_and_reproducible():
    from matplotlib import image

    figure = confusion_figure(*case(), ["a", "b"], "model")
    first, second = figure_to_png(figure), figure_to_png(figure)
    assert first == second
    assert first.startswith(b"\x89PNG")
    pixels = figure_to_array(figure)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert pixels.std() > 10
    assert image.imread(io.BytesIO(first)).shape[:2] == pixels.shape[:2]


def test_no_global_figure_is_left():
    from matplotlib import pyplot

    assert isinstance(reliability_figure(*case(), "model"), Figure)
    assert pyplot.get_fignums() == []


def test_refusals():
    y, proba = case()
    with pytest.raises(BadInput, match="1 class names"):
        confusion_figure(y, proba, ["a"], "model")
    with pytest.raises(BadInput, match="no intervals"):
        forest_figure({}, "x")
    with pytest.raises(BadInput, match="better is 'up'"):
        forest_figure({"a": {"estimate": 0.0}}, "x", better="up")
    with pytest.raises(BadInput, match="sum to"):
        reliability_figure(y, proba * 2, "model")
