"""The page of a comparison of two versions on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from moola.errors import shown
from moola.evaluation.pages.plots import (
    INK,
    SOFT,
    blank_figure,
    figure_to_png,
    forest_figure,
    with_fixed_layout,
)
from moola.evaluation.row_comparison import Comparison
from moola.html import render

_SHOWN_CHARACTERS = 40
_BADGES = {"better": "passed", "non-inferior": "passed", "worse": "failed"}


def rows_page(
    comparison: Comparison,
    differences: NDArray[np.float64],
    disagreements: Sequence[Mapping[str, Any]],
) -> str:
    """Return the page as HTML that needs nothing else; every stranger's word is escaped and cut.

    Parameters
    ----------
    comparison
        What was found.
    differences
        Loss of the candidate less the other's, shape (n,).
    disagreements
        The rows with the largest differences: ``row``, ``target``, ``candidate``, ``other``,
        ``difference``.
    """
    interval = {k: getattr(comparison, k) for k in ("estimate", "low", "high")}
    forest = forest_figure(
        {"mean loss": interval}, "Paired difference", unit="candidate less other"
    )
    return render(
        "evaluation/pages/rows.html.j2",
        comparison=comparison,
        badge=_BADGES.get(comparison.verdict, "inconclusive"),
        forest=figure_to_png(forest),
        spread=figure_to_png(_spread_figure(differences)),
        disagreements=[{key: _cell(value) for key, value in row.items()} for row in disagreements],
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if isinstance(value, int) else shown(value, limit=_SHOWN_CHARACTERS)


def _spread_figure(differences: NDArray[np.float64]) -> Figure:
    figure = blank_figure(5.4, 2.4)
    axes = figure.add_subplot()
    axes.hist(differences, bins=50, color=SOFT, log=True)
    axes.axvline(0.0, color=INK, linewidth=1)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("loss of the candidate less the other's, each row", fontsize=8, color=INK)
    axes.set_title("Rows, on a logarithmic scale", fontsize=10, loc="left", color=INK)
    return with_fixed_layout(figure)
