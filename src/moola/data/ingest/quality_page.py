"""The quality report as one HTML page that needs nothing else: figures, plots, tables."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

import numpy as np

from moola.data.ingest.quality import Finding, QualityReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"gaps": "#e8a33d", "repeated_blocks": "#c0392b", "flat_runs": "#7f8c8d"}
_ROWS = 50
_KINDS = {
    "gaps": "Gaps",
    "repeated_blocks": "Repeated blocks",
    "flat_runs": "Flat bars",
    "jumps": "Jumps",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; color: #222;
  padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } th { text-align: left }
td, th { border-bottom: 1px solid #ddd; padding: .25rem .6rem; font-variant-numeric: tabular-nums }
.n { text-align: right } img { width: 100%; height: auto } .none { color: #777 }
"""


def quality_figure(report: QualityReport) -> Figure:
    """Draw prices with what was found in them, and the close-to-close changes in MADs."""
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
    picture = base64.b64encode(image.getvalue()).decode()
    facts = {
        "bars": f"{report.num_bars:,}",
        "from": f"{report.first_bar} UTC",
        "to": f"{report.last_bar} UTC",
        "usual distance of two bars": f"{report.bar_seconds:g} s",
        "median and MAD of close-to-close changes": f"{report.change_median:.3%}, "
        f"{report.change_mad:.3%}",
        **{k.replace("_", " "): v for k, v in report.counts.items()},
        **{k.replace("_", " "): v for k, v in report.facts.items()},
        "SHA-256 of the bar file": report.sha256,
    }
    rows = "".join(
        f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(_words(v))}</td></tr>"
        for k, v in facts.items()
    )
    sections = "".join(
        _section(title, report.findings[kind], report.counts) for kind, title in _KINDS.items()
    )
    name = html.escape(report.name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}: data quality'
        f"</title><style>{_STYLE}</style></head><body><h1>{name}: data quality</h1>"
        f"<table>{rows}</table><h2>Along the time line</h2>"
        f'<img alt="Prices with what was found in them" src="data:image/png;base64,{picture}">'
        f"{sections}</body></html>\n"
    )


def _section(title: str, findings: tuple[Finding, ...], counts: object) -> str:
    if not findings:
        return f'<h2>{title}</h2><p class="none">None found.</p>'
    largest = sorted(findings, key=lambda f: (-f.size, f.row))[:_ROWS]
    rows = "".join(
        f'<tr><td class="n">{f.row}</td><td>{html.escape(f.time)}</td>'
        f"<td>{html.escape(f.detail)}</td></tr>"
        for f in largest
    )
    more = f"<p>The largest {_ROWS}.</p>" if len(findings) > _ROWS else ""
    head = '<tr><th class="n">row</th><th>time (UTC)</th><th>what</th></tr>'
    return f"<h2>{title}</h2>{more}<table>{head}{rows}</table>"


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items()) or "none"
    return str(value)
