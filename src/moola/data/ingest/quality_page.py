"""The quality report as a self-contained HTML page with figures, plots and tables."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from moola.data.ingest.quality import QualityReport
from moola.html import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"gaps": "#e8a33d", "repeated_blocks": "#c0392b", "flat_runs": "#7f8c8d"}
_MAX_ROWS = 50
_KINDS = {
    "gaps": "Gaps",
    "repeated_blocks": "Repeated blocks",
    "flat_runs": "Flat bars",
    "jumps": "Jumps",
}


def quality_figure(report: QualityReport) -> Figure:
    """Draw prices with the findings marked, and the close-to-close changes in MADs."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6))
    price, change = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    figure.subplots_adjust(left=0.08, right=0.99, top=0.98, bottom=0.07, hspace=0.06)
    clock = report.curve[:, 0].astype("datetime64[us]")
    price.fill_between(clock, report.curve[:, 1], report.curve[:, 2], color="#2c5d8f", lw=0.8)
    for kind, colour in _COLOURS.items():
        times = [np.datetime64(f.time) for f in report.findings[kind]]
        label = f"{_KINDS[kind].lower()} ({report.counts.get(kind, 0)})"
        for k, time in enumerate(times):
            price.axvline(time, color=colour, lw=0.7, alpha=0.6, label=label if k == 0 else None)
    price.set_ylabel("low to high")
    if price.get_legend_handles_labels()[1]:
        price.legend(loc="upper left", fontsize=8)
    change.plot(clock, report.curve[:, 3], color="#444", lw=0.7)
    change.axhline(report.jump_mad, color="#c0392b", lw=0.8, ls="--")
    change.set_yscale("symlog", linthresh=1.0)
    change.set_ylabel("largest change, MADs")
    locator = AutoDateLocator()
    change.xaxis.set_major_locator(locator)
    change.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return figure


def quality_page(report: QualityReport) -> str:
    """Return the page."""
    image = io.BytesIO()
    quality_figure(report).savefig(image, format="png", dpi=110)
    facts = {
        "bars": f"{report.num_bars:,}",
        "from": f"{report.first_bar} UTC",
        "to": f"{report.last_bar} UTC",
        "usual distance of two bars": f"{report.bar_seconds:g} s",
        "median and MAD of close-to-close changes": f"{report.change_median:.3%}, "
        f"{report.change_mad:.3%}",
        **{k.replace("_", " "): v for k, v in report.counts.items()},
        **{k.replace("_", " "): _words(v) for k, v in report.facts.items()},
        "SHA-256 of the bar file": report.sha256,
    }
    sections = {
        title: sorted(report.findings[kind], key=lambda finding: (-finding.size, finding.row))
        for kind, title in _KINDS.items()
    }
    return render(
        "data/ingest/quality_page.html.j2",
        name=report.name,
        facts=facts,
        png=image.getvalue(),
        sections=sections,
        max_rows=_MAX_ROWS,
    )


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items()) or "none"
    return str(value)
