"""The audit as one picture: parts, purged stretches and the corpus on the time line."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from moola.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {
    "corpus": "#8e7cc3",
    "train": "#2c5d8f",
    "val": "#e8a33d",
    "test": "#5b8c5a",
    "purged": "#c0392b",
}


def audit_figure(trail: Mapping[str, Any]) -> Figure:
    """Draw an audit trail on one page.

    Parameters
    ----------
    trail
        ``AuditTrail.to_dict()``, or the same read from JSON.

    Returns
    -------
    matplotlib Figure: above, a bar for the corpus and each part from its first bar to the end of
    its last label's horizon, purged stretches in red; below, every check with its answer.

    Raises
    ------
    DataError
        If the trail lacks its checks.
    """
    from matplotlib.figure import Figure

    if not isinstance(trail.get("checks"), list | tuple) or not trail["checks"]:
        raise DataError("the audit trail holds no checks", limit="AuditTrail.to_dict()")
    checks = trail["checks"]
    lines = [_line(c) for c in checks]
    height = max(3.2 + 0.19 * sum(line.count("\n") + 1 for line in lines), 6.0)
    figure = Figure(figsize=(11.7, height))
    top = figure.add_axes((0.10, 1 - 2.5 / height, 0.87, 1.8 / height))
    _draw_time_line(top, trail)
    verdict = "passed" if trail["passed"] else "FAILED"
    figure.suptitle(
        f"Audit {verdict}: {trail['labeled_version']} under {trail['split']}",
        x=0.10, ha="left", y=1 - 0.2 / height, fontsize=13, weight="bold",
    )  # fmt: skip
    y = 1 - 3.0 / height
    for check, line in zip(checks, lines, strict=True):
        colour = "#222222" if check["passed"] else _COLOURS["purged"]
        figure.text(0.10, y, line, fontsize=8, va="top", color=colour, family="monospace")
        y -= 0.19 * (line.count("\n") + 1) / height
    return figure


def _line(check: Mapping[str, Any]) -> str:
    mark = "ok     " if check["passed"] else "REFUSED"
    text = f"{mark} {check['name']}: {check['detail']}"
    return textwrap.fill(text, width=130, subsequent_indent=" " * 8).replace("$", r"\$")


def _draw_time_line(axes: Axes, trail: Mapping[str, Any]) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    rows: list[tuple[str, list[list[str]], str]] = []
    if trail.get("corpus"):
        corpus = trail["corpus"]
        label = f"corpus ({corpus['source']})"
        rows.append((label, [[corpus["first_bar"], corpus["last_bar"]]], _COLOURS["corpus"]))
    for part, span in trail.get("bars", {}).items():
        label = f"{part} ({trail['counts'][part]})"
        rows.append((label, [span], _COLOURS[part]))
    if trail.get("purged_bars"):
        label = f"purged ({trail['counts']['purged']})"
        rows.append((label, trail["purged_bars"], _COLOURS["purged"]))
    for y, (_, spans, colour) in enumerate(rows):
        for first, last in spans:
            begin, end = (np.datetime64(t, "us") for t in (first, last))
            axes.plot([begin, end], [y, y], color=colour, lw=11, solid_capstyle="butt")
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows], fontsize=9)
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    if rows:
        locator = AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.grid(axis="x", lw=0.4)
    axes.set_title(f"bars of {trail['source']}, UTC", loc="left", fontsize=9)
